"""Iterative hard thresholding (Jin et al. 2016): training all weights alternates with the k largest."""

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfcompress import _kernels
from tfcompress._arrays import to_numpy
from tfcompress._checks import check_whole, near_miss
from tfcompress._names import Patterns, chosen, matches
from tfcompress._ranking import largest
from tfcompress.callbacks.training import sync
from tfcompress.callbacks.zeros import Zeros
from tfcompress.schedules import check_sparsity


class IterativeHardThresholding(keras.callbacks.Callback):
    """Trains all weights for some epochs, then only the k largest of each kernel for some, and so on.

    At the beginning of a sparse phase each kernel becomes `O_k(w)`: its k entries of largest magnitude
    stay, of equal ones those of lower index, and the others are zero, bit for bit, until the phase
    ends, under any optimizer, with momentum, decay and moving averages. Then they are free again and
    start from zero, and so do the optimizer's slots of them. The training ends in a sparse phase; where it is
    stopped in another, kernels are cut to their k largest at the end, with a warning. The model needs no
    wrappers and may be subclassed. `EarlyStopping(restore_best_weights=True)` belongs before this callback in
    the list: the best weights may be those of a dense phase.

    For `min f(W) subject to ||W_l||_0 <= k_l` (Jin, Yuan, Feng & Yan 2016, "Training Skinny Deep
    Neural Networks with Iterative Hard Thresholding Methods").

    Args:
        sparsity: the share of each kernel's entries that is zero in sparse phases: a number, or a dict from
            layer names or regular expressions to numbers, where layers that none matches stay dense.
        k: instead of `sparsity`, how many entries of each kernel stay: a dict likewise, to whole numbers.
        dense_epochs: epochs of a phase in which all weights are trained.
        sparse_epochs: epochs of a phase in which only the k largest are.
        sparse_first: whether training begins with a sparse phase, as for a network that is trained already.
        progressive: whether the number of zeros grows in equal steps from round to round, and reaches
            its full value in the last one. An extension of the paper.
        include: layer names or regular expressions; without it all layers with kernels.
        exclude: likewise, these stay dense.

    Raises:
        ValueError: when made or at the beginning of training: an argument is out of range, a pattern
            matches no layer, no kernel is concerned, `k` is larger than a kernel, or the planned epochs would
            end in a dense phase.

    Logs `"sparsity"` at the end of each epoch: the share of zeros in the kernels concerned.

    >>> callback = IterativeHardThresholding(0.9, dense_epochs=2, sparse_epochs=3)
    >>> [callback.is_sparse(epoch) for epoch in range(6)]
    [False, False, True, True, True, False]
    """

    def __init__(
        self,
        sparsity: Any = None,
        *,
        k: Mapping[str, int] | None = None,
        dense_epochs: int = 1,
        sparse_epochs: int = 1,
        sparse_first: bool = False,
        progressive: bool = False,
        include: Patterns = None,
        exclude: Patterns = None,
    ):
        super().__init__()
        if (sparsity is None) == (k is None):
            raise ValueError(f"Give either sparsity or k, got sparsity={sparsity!r} and k={k!r}.")
        if k is not None and not isinstance(k, Mapping):
            raise ValueError(f"k is a dict from layer names to whole numbers, got {k!r}.")
        for share in sparsity.values() if isinstance(sparsity, Mapping) else [sparsity] if k is None else []:
            check_sparsity(share)
        for name, epochs in (("dense_epochs", dense_epochs), ("sparse_epochs", sparse_epochs)):
            check_whole(name, epochs)
        self.sparsity, self.k = sparsity, k
        self.dense_epochs, self.sparse_epochs = dense_epochs, sparse_epochs
        self.sparse_first, self.progressive = sparse_first, progressive
        self.include, self.exclude = include, exclude

    @property
    def _round(self) -> int:
        return self.dense_epochs + self.sparse_epochs

    def _place(self, epoch: int) -> tuple[int, int]:
        """The number of the round, and the epoch within it; a round is a dense and then a sparse phase."""
        return divmod(epoch + self.dense_epochs * self.sparse_first, self._round)

    def is_sparse(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, belongs to a sparse phase."""
        return self._place(epoch)[1] >= self.dense_epochs

    def on_train_begin(self, logs: Any = None) -> None:
        last = self.params["epochs"] - 1
        if not self.is_sparse(last):
            raise ValueError(
                f"{last + 1} epochs would end in a dense phase, with a dense model. With "
                f"dense_epochs={self.dense_epochs} and sparse_epochs={self.sparse_epochs} train for "
                f"{self._good_epochs(last + 1)} epochs."
            )
        self._last_round = self._place(last)[0]
        kernels = _kernels.by_layer(self.model)
        paths = chosen(kernels, self.include, self.exclude)
        self._kept = [
            (weight, kept)
            for path, wanted in self._wanted(kernels, paths)
            for weight, kept in ((weight, self._count(path, weight, wanted)) for weight, _ in kernels[path])
        ]
        if not self._kept:
            raise ValueError(
                f"No kernel of '{self.model.name}' would be thresholded: sparsity, k, include and exclude "
                "leave none."
            )
        self._zeros = Zeros(self.model)

    def _good_epochs(self, epochs: int) -> int:
        while not self.is_sparse(epochs - 1):
            epochs += 1
        return epochs + self._round - 1 - self._place(epochs - 1)[1]

    def _wanted(self, kernels: Mapping[str, Any], paths: list[str]) -> list[tuple[str, Any]]:
        """(layer, share or number) for the layers concerned; the first pattern that matches counts."""
        given = self.sparsity if self.k is None else self.k
        if not isinstance(given, Mapping):
            return [(path, given) for path in paths]
        for pattern in given:
            if not any(matches(path, pattern) for path in kernels):
                raise ValueError(near_miss("layer or pattern", pattern, kernels))
        found = [
            (path, [value for pattern, value in given.items() if matches(path, pattern)]) for path in paths
        ]
        return [(path, values[0]) for path, values in found if values]

    def _count(self, path: str, weight: keras.Variable, wanted: Any) -> int:
        """How many entries of a kernel stay."""
        size = int(np.prod(weight.shape))
        if self.k is None:
            return max(1, size - round(wanted * size))
        check_whole(f"k for '{path}'", wanted, 1, size)
        return int(wanted)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        sync(self.model)
        number, place = self._place(epoch)
        if place < self.dense_epochs:
            self._zeros.apply()
            self._zeros.release()
        elif place == self.dense_epochs:
            self._zeros.set((weight, self._largest(weight, kept, number)) for weight, kept in self._kept)
        elif not self._zeros.masks:
            # What is zero is read off the weights, so that training resumed from a backup goes on alike.
            self._zeros.set((weight, to_numpy(weight) != 0) for weight, _ in self._kept)

    def _largest(self, weight: keras.Variable, kept: int, number: int) -> np.ndarray:
        values = np.abs(to_numpy(weight))
        share = (number + 1) / (self._last_round + 1) if self.progressive else 1.0
        return largest(values, values.size - round(share * (values.size - kept)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        sync(self.model)
        self._zeros.apply()
        if logs is not None:
            zeros = sum(int((to_numpy(weight) == 0).sum()) for weight, _ in self._kept)
            logs["sparsity"] = zeros / sum(int(np.prod(weight.shape)) for weight, _ in self._kept)

    def on_train_end(self, logs: Any = None) -> None:
        full = [pair for pair in self._kept if np.count_nonzero(to_numpy(pair[0])) > pair[1]]
        if full:
            warnings.warn(
                f"Training did not end with the weights of a sparse phase: '{full[0][0].path}' had more than "
                f"{full[0][1]} entries that are not zero. Kernels are cut to their largest now, with no "
                "training after it. Let fit() run to its end, or train on; EarlyStopping belongs before "
                "IterativeHardThresholding in the list of callbacks.",
                stacklevel=2,
            )
            self._zeros.set((weight, self._largest(weight, kept, self._last_round)) for weight, kept in full)
        self._zeros.apply()
        self._zeros.release()
