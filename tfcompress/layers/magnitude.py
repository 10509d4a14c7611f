"""Magnitude pruning: the smallest weights are masked, more and more of them while training goes on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import schedules
from tfcompress._checks import check_choice, check_number
from tfcompress._kernels import Layout
from tfcompress._ranking import largest
from tfcompress.layers.blocked import Blocks, check_pair
from tfcompress.layers.rules import MaskedWeight, MaskRule


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclass(frozen=True)
class MagnitudePruning(MaskRule):
    """Masks the weights of least magnitude.

    At each update of the schedule the `round(sparsity * entries)` entries with the smallest `|w|` are
    masked anew; of equal ones those of lower index stay. Masked entries get no gradient, but keep their
    last value, with which they compete at the next update (Zhu & Gupta 2017, "To prune, or
    not to prune", section 3). `callbacks.UpdateMasks` makes the updates.

    Args:
        sparsity: the share to mask: a number for all of the training, or a `schedules.Schedule`.
            With `n_of_m` it only says when: the sparsity is `1 - n / m`.
        scope: `"layer"`: each kernel gets that sparsity. `"global"`: one ranking over all kernels, so that
            layers with larger weights lose less; no kernel keeps less than `floor`.
        block: mask blocks of `(outputs, inputs)` entries of the kernel as a matrix, whose rows are
            outputs and whose columns are taps and input channels, channels running fastest: `(16, 1)`,
            `(1, 4)`. A block is ranked by its pooled magnitude. The native convolutions leave out `(16, 1)`
            in float32 and `(1, 4)` and `(16, 4)` in int8.
        pool: `"mean"` or `"max"`, of the magnitudes in a block.
        n_of_m: `(n, m)`: of every `m` consecutive input channels of an output and tap, the `n` largest stay.
        floor: the smallest share of a kernel's entries that a global ranking leaves.

    Raises:
        ValueError: a setting is out of range or they do not go together.

    >>> MagnitudePruning(schedules.Polynomial(0.0, 0.9, end_step=1000)).next_update(0)
    0
    """

    sparsity: Any = None
    scope: str = "layer"
    block: tuple[int, int] = (1, 1)
    pool: str = "mean"
    n_of_m: tuple[int, int] | None = None
    floor: float = 0.01

    def __post_init__(self) -> None:
        check_choice("scope", self.scope, COUNTS)
        Blocks(self.block, self.pool)
        check_number("floor", self.floor, "[0, 1]")
        if self.n_of_m is not None:
            self._check_n_of_m()
        schedules.get(self._sparsity)

    def _check_n_of_m(self) -> None:
        check_pair("n_of_m", self.n_of_m)
        n, m = self.n_of_m  # type: ignore[misc]
        if n > m:
            raise ValueError(f"n_of_m=(n, m) keeps n of every m entries, and cannot keep {n} of {m}.")
        if self.block != (1, 1) or self.scope != "layer":
            raise ValueError(
                "n_of_m fixes how many entries of each m stay: no block and no global scope with it."
            )
        given = self.schedule
        if isinstance(given, schedules.Constant) and abs(given.sparsity - (1 - n / m)) > 1e-6:
            raise ValueError(
                f"With n_of_m={self.n_of_m} the sparsity is {1 - n / m:g}: leave it out, or give "
                f"schedules.Constant({1 - n / m:g}, begin_step=...) to say when masks are updated; got "
                f"{self.sparsity!r}."
            )

    @property
    def _sparsity(self) -> Any:
        if self.sparsity is None and self.n_of_m is not None:
            return 1 - self.n_of_m[0] / self.n_of_m[1]
        return self.sparsity

    @property
    def _blocks(self) -> Blocks:
        return Blocks(self.block, self.pool)

    @property
    def schedule(self) -> schedules.Schedule:
        return schedules.get(self._sparsity)

    def next_update(self, step: int) -> int | None:
        return self.schedule.next_update(step)

    def check(self, path: str, shape: tuple[int, ...], layout: Layout) -> None:
        self._blocks.check(path, shape, layout)
        channels = layout.sizes(shape)[2]
        if self.n_of_m is not None and channels % self.n_of_m[1]:
            raise ValueError(
                f"n_of_m={self.n_of_m} needs input channels in multiples of {self.n_of_m[1]}, '{path}' has "
                f"{channels}. Leave the layer out with exclude=."
            )

    def update(self, masked: Sequence[MaskedWeight], step: int) -> list[np.ndarray]:
        if self.n_of_m is not None:
            return [self._n_of_m_mask(weight) for weight in masked]
        counts = COUNTS[self.scope](self, masked, schedules.check_sparsity(self.schedule(step)))
        blocks = self._blocks
        pairs = zip(masked, counts, strict=True)  # one at a time: scores take more memory than masks
        return [blocks.spread(largest(blocks.scores(weight), count), weight) for weight, count in pairs]

    def _counts_alike(self, masked: Sequence[MaskedWeight], sparsity: float) -> list[int]:
        """How many entries, or blocks, of each weight stay; at least one."""
        sizes = [weight.size // math.prod(self.block) for weight in masked]
        return [max(1, size - round(sparsity * size)) for size in sizes]

    def _counts_together(self, masked: Sequence[MaskedWeight], sparsity: float) -> list[int]:
        """The same by one ranking of all."""
        scores = [self._blocks.scores(weight) for weight in masked]
        entries = np.concatenate([values.ravel() for values in scores])
        kept = largest(entries, entries.size - round(sparsity * entries.size))
        starts = np.cumsum([0, *(values.size for values in scores)])
        return [
            max(1, round(self.floor * values.size), int(kept[start : start + values.size].sum()))
            for values, start in zip(scores, starts, strict=False)
        ]

    def _n_of_m_mask(self, masked: MaskedWeight) -> np.ndarray:
        n, m = self.n_of_m  # type: ignore[misc]
        lowered = masked.layout.lower(np.abs(masked.value))
        pieces = lowered.reshape(-1, m)
        order = np.argsort(-pieces, axis=1, kind="stable")[:, :n]  # m numbers a row: linear in the weights
        mask = np.zeros(pieces.shape, bool)
        np.put_along_axis(mask, order, True, axis=1)
        return masked.layout.lift(mask.reshape(lowered.shape), tuple(masked.weight.shape))


COUNTS: dict[str, Callable] = {
    "layer": MagnitudePruning._counts_alike,
    "global": MagnitudePruning._counts_together,
}
