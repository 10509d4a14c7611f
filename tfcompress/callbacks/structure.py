"""Keep what is zero at zero while the rest is fine-tuned."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _kernels
from tfcompress._arrays import to_numpy
from tfcompress._checks import check_choice
from tfcompress._names import Patterns, chosen
from tfcompress.callbacks.zeros import Zeros
from tfcompress.regularizers import GroupLasso

MODES = ("groups", "weights")


class FreezeZeros(keras.callbacks.Callback):
    """Holds the zeros of kernels at zero: the fine-tuning after group lasso.

    Which weights are zero is read off the model when training begins, and again when it is resumed by
    `BackupAndRestore`. They stay zero through momentum, weight decay and moving averages of weights.

    Args:
        mode: `"groups"`: only weights in all-zero rows and columns of a kernel, read as a matrix
            (outputs by taps and channels), stay zero, and all others may regrow; that keeps what
            `remove_zeroed` and `compact` can remove. `"weights"`: every weight that is zero.
        threshold: weights up to this magnitude count as zero, and are made zero.
        include: layer names or regular expressions; only the kernels of these layers.
        exclude: likewise, not those.

    Raises:
        ValueError: the mode is unknown, the threshold negative; when training begins: a pattern
            matches no layer, or nothing is zero.

    Wei Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016, section 4.

    >>> layer = keras.layers.Dense(3)
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> layer.set_weights([np.array([[0, 0, 1], [0, 2, 3.0]]), np.zeros(3)])
    >>> model.compile("sgd", "mse")
    >>> data = np.ones((8, 2)), np.ones((8, 3))
    >>> history = model.fit(*data, callbacks=[FreezeZeros("groups")], verbose=0)
    >>> (to_numpy(layer.kernel) != 0).tolist()
    [[False, True, True], [False, True, True]]
    """

    def __init__(
        self,
        mode: str = "groups",
        *,
        threshold: float = 0.0,
        include: Patterns = None,
        exclude: Patterns = None,
    ):
        super().__init__()
        check_choice("mode", mode, MODES)
        if not threshold >= 0:
            raise ValueError(f"threshold must be >= 0, got {threshold!r}.")
        self.mode, self.threshold, self.include, self.exclude = mode, threshold, include, exclude

    def on_train_begin(self, logs: Any = None) -> None:
        self._zeros = Zeros(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._zeros.masks:
            return
        # Not before the first epoch, when BackupAndRestore has put the weights back.
        masks = [(weight, mask) for weight, mask in self._masks() if not mask.all()]
        if not masks:
            raise ValueError(
                f"No {'weight' if self.mode == 'weights' else 'row or column of a kernel'} of "
                f"'{self.model.name}' is at most {self.threshold} in magnitude, so there is nothing to hold."
            )
        self._zeros.set(masks)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._zeros.apply()

    def on_train_end(self, logs: Any = None) -> None:
        self._zeros.apply()
        self._zeros.release()

    def _masks(self) -> Iterator[tuple[keras.Variable, np.ndarray]]:
        kernels = _kernels.by_layer(self.model)
        layers = dict(_calls.walk(self.model)) if _calls.is_functional(self.model) else {}
        for path in chosen(kernels, self.include, self.exclude):
            conv_groups = getattr(layers.get(path), "groups", 1)
            for weight, layout in kernels[path]:
                yield weight, self._mask(weight, layout, conv_groups)

    def _mask(self, weight: keras.Variable, layout: _kernels.Layout, conv_groups: int) -> np.ndarray:
        if self.mode == "weights":
            return np.abs(to_numpy(weight)) > self.threshold
        # Columns of their own for each group of a grouped convolution; a subclassed model does not tell.
        rows, columns = (
            GroupLasso(groups, outputs=layout.outputs, channels=layout.channels, conv_groups=conv_groups)
            for groups in ("filters", "shapes")
        )
        return rows.mask(weight, self.threshold) & columns.mask(weight, self.threshold)
