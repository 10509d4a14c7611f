"""Prune filters layer by layer while `model.fit` trains."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress import channels
from tfcompress.analysis import grouping
from tfcompress.callbacks.zeros import Zeros
from tfcompress.selection import Selection, check_sparsity


class LayerwisePruning(keras.callbacks.Callback):
    """Prunes layer by layer inside one `fit`, and lets the training go on in between.

    Every few epochs the next group of coupled layers is scored on calibration data, and its weakest
    channels are silenced: all weights that read them become zero and stay zero, through momentum,
    weight decay, moving averages of weights, and interruption and resumption by `BackupAndRestore`.
    The model keeps its shape while it trains; afterwards `tfcompress.shrink_silenced(model)`
    removes the silent channels for good, with equal outputs.

    Args:
        criterion: see `tfcompress.prune`.
        sparsity: see `tfcompress.prune`.
        data: calibration data for the criterion.
        start_epoch: the epoch, counted from 0, before which the first group is pruned.
        every: epochs of training between one group and the next, and after the last.
        include: see `tfcompress.prune`.
        exclude: see `tfcompress.prune`.
        order: see `tfcompress.prune_layerwise`.
        selection: see `Selection`; its scope must be `"group"`.

    Raises:
        ValueError: when made or at the beginning of training: an argument is wrong, nothing can be
            pruned, or the planned epochs do not suffice for all groups.

    >>> x = keras.Input((8, 8, 1))
    >>> y = keras.layers.Conv2D(16, 3, activation="relu", name="stem")(x)
    >>> y = keras.layers.GlobalAveragePooling2D()(y)
    >>> model = keras.Model(x, keras.layers.Dense(2)(y))
    >>> model.compile("sgd", "mse")
    >>> images, labels = np.random.rand(16, 8, 8, 1), np.zeros((16, 2))
    >>> pruning = LayerwisePruning("apoz", sparsity=0.5, data=images)
    >>> history = model.fit(images, labels, epochs=1, callbacks=[pruning], verbose=0)
    >>> import tfcompress
    >>> tfcompress.shrink_silenced(model).get_layer("stem").filters
    8
    """

    def __init__(
        self,
        criterion: Any,
        *,
        sparsity: Any,
        data: Any = None,
        start_epoch: int = 0,
        every: int = 1,
        include: grouping.Patterns = None,
        exclude: grouping.Patterns = None,
        order: str | Sequence[str] = "forward",
        selection: Selection = Selection(),
    ):
        super().__init__()
        check_sparsity(sparsity)
        if start_epoch < 0 or every < 1:
            raise ValueError(f"start_epoch must be >= 0 and every >= 1, got {start_epoch} and {every}.")
        self.criterion = grouping.criterion_of(criterion)
        self.sparsity, self.data = sparsity, data
        self.start_epoch, self.every = start_epoch, every
        self.include, self.exclude, self.order = include, exclude, order
        self.selection = selection

    def on_train_begin(self, logs: Any = None) -> None:
        self._graph = channels.trace(self.model)
        groups = grouping.chosen(self._graph, self.include, self.exclude)
        self._steps = grouping.steps(self._graph, groups, self.order)
        self._sparsity = grouping.per_group(self._graph, groups, self.sparsity)
        needed = self.start_epoch + len(self._steps) * self.every
        if self.params["epochs"] < needed:
            raise ValueError(
                f"{len(self._steps)} groups, one every {self.every} epochs from epoch {self.start_epoch}, "
                f"need {needed} epochs, fit() has {self.params['epochs']}. Train longer or include fewer."
            )
        self._zeros = Zeros(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # What is silent is read off the weights, so that training resumed from a backup goes on alike.
        number, rest = divmod(epoch - self.start_epoch, self.every)
        keep = channels.silenced(self.model, self._graph)
        if rest == 0 and 0 <= number < len(self._steps):
            keep |= self._next(self._steps[number])
        self._zeros.set(channels.reading_masks(self.model, self._graph, keep))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._zeros.apply()
        keep = channels.silenced(self.model, self._graph)
        total = sum(group.size for group in self._graph.free)
        if logs is not None:
            logs["sparsity"] = sum(int((~mask).sum()) for mask in keep.values()) / total

    def on_train_end(self, logs: Any = None) -> None:
        self._zeros.apply()
        self._zeros.release()

    def _next(self, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        groups = [self._graph[name] for name in names]
        found = grouping.scores(self.model, groups, self.criterion, self.data, self.selection.pool)
        return self.selection.masks(found, self._sparsity, self._graph.balances)
