"""Dynamic network surgery (Guo et al. 2016): connections are cut while training, and spliced back."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np

from tfcompress._arrays import to_numpy
from tfcompress._checks import check_number
from tfcompress._kernels import Layout
from tfcompress.layers.blocked import Blocks
from tfcompress.layers.rules import MaskedWeight, MaskRule
from tfcompress.schedules import check_sparsity

NOT_YET = -1.0  # a centre is never negative


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclass(frozen=True)
class DynamicNetworkSurgery(MaskRule):
    """Cuts small connections and splices them back when they have grown, so that mistakes mend.

    Masked entries go on training: the loss is that of `w * T`, its gradient moves all of `w` (eq. 3).
    The masks `T` follow with hysteresis (eq. 4):

        T = 0           where |w| <= a,   a = 0.9 c
        T = unchanged   where a < |w| <= b
        T = 1           where |w| > b,    b = 1.1 c
        c = max(0, mean(|w|) + c_rate * deviation(|w|)),

    mean and standard deviation over the entries of the kernel that are not zero, once, at the first update of
    each kernel. At step `t < stop` every kernel is updated with probability `(1 + gamma t) ** -power`,
    each with a draw of its own. `callbacks.UpdateMasks` makes the updates.

    `c_rate` decides how much goes, and with it the sparsity. It is the same for all the kernels under one
    rule: give layers rules of their own, as the authors do, by wrapping in several steps. Or say with
    `sparsity` where to begin: then `c` is so large that this share of each kernel is cut at once. What
    training makes of it is up to the surgery.

    Departures from the authors' code: it masks biases, too; here they are left alone unless `mask_bias` says
    otherwise. `sparsity` is ours. Draws depend on the seed, the step and the kernel's place only, so that a
    resumed training draws as one that was never interrupted.

    Args:
        c_rate: how many deviations above the mean a connection must be to stay. Code: 3; LeNet-5: 4.
        sparsity: in the place of `c_rate`, the share of the entries that are not zero to cut first.
        gamma: how fast updates become rare.
        power: likewise.
        stop: the step from which on masks stay as they are.
        seed: of the draws.
        mask_bias: mask biases, too. As in the code of the authors all that is masked in a layer, kernels and
            bias, then has one mean, one deviation and one draw.

        block: cut and splice blocks of `(outputs, inputs)` entries, as `MagnitudePruning` has them, in the
            place of single ones; `|w|` is then the pooled magnitude of a block. Ours, and not together with
            `mask_bias`.
        pool: `"mean"` or `"max"`, of the magnitudes in a block.

    Raises:
        ValueError: gamma, power or stop is negative, sparsity outside [0, 1), or block and pool are none.

    Reference: Guo, Yao & Chen, Dynamic Network Surgery for Efficient DNNs, NIPS 2016.
    """

    straight_through: ClassVar[bool] = True
    memory: ClassVar[dict[str, float]] = {"centre": NOT_YET}

    c_rate: float = 3.0
    sparsity: float | None = None
    gamma: float = 1e-3
    power: float = 1.0
    stop: int = 10_000
    seed: int = 0
    mask_bias: bool = False
    block: tuple[int, int] = (1, 1)
    pool: str = "mean"

    def __post_init__(self) -> None:
        if not self._blocks.single and self.mask_bias:
            raise ValueError("mask_bias masks single entries of a bias: no block with it.")
        if self.sparsity is not None:
            check_sparsity(self.sparsity)
        for name in ("c_rate", "gamma", "power", "stop"):
            value = getattr(self, name)
            check_number(name, value, "(-inf, inf)" if name == "c_rate" else "[0, inf)")
        if self.stop < 1:
            raise ValueError(
                "stop=0 ends the surgery before it begins; give the step at which masks are final."
            )

    @property
    def _blocks(self) -> Blocks:
        return Blocks(self.block, self.pool)

    def check(self, path: str, shape: tuple[int, ...], layout: Layout) -> None:
        self._blocks.check(path, shape, layout)

    def next_update(self, step: int) -> int | None:
        return step if step < self.stop else None

    def probability(self, step: int) -> float:
        """Of updating a kernel at this step, `sigma(step)` in the paper."""
        return (1 + self.gamma * step) ** -self.power

    @property
    def masks_biases(self) -> bool:
        return self.mask_bias

    def update(self, masked: Sequence[MaskedWeight], step: int) -> list[np.ndarray]:
        parts = self._parts(masked)
        draws = np.random.default_rng((self.seed, step)).random(len(parts))
        masks = (
            self._operated(part) if draw < self.probability(step) else [weight.kept for weight in part]
            for part, draw in zip(parts, draws, strict=True)
        )
        return [mask for part in masks for mask in part]

    def _parts(self, masked: Sequence[MaskedWeight]) -> list[list[MaskedWeight]]:
        """What is updated together: each kernel alone, or with the others of its layer and the bias."""
        if not self.mask_bias:
            return [[weight] for weight in masked]
        layers = itertools.groupby(masked, lambda weight: weight.path.rpartition("/")[0])
        return [list(part) for _, part in layers]

    def _operated(self, part: list[MaskedWeight]) -> list[np.ndarray]:
        blocks = self._blocks
        magnitudes = [blocks.scores(weight) for weight in part]
        centre = self._centre(part, magnitudes)
        return [
            blocks.spread(_cut(values, centre, blocks.kept(weight)), weight)
            for values, weight in zip(magnitudes, part, strict=True)
        ]

    def _centre(self, part: list[MaskedWeight], magnitudes: list[np.ndarray]) -> float:
        centres = [weight.memory["centre"] for weight in part]
        if float(to_numpy(centres[0])) == NOT_YET:
            live = np.concatenate([values[values > 0] for values in magnitudes])
            found = self._centre_of(live) if live.size else 0.0
            for centre in centres:
                centre.assign(found)
        return float(to_numpy(centres[0]))

    def _centre_of(self, live: np.ndarray) -> float:
        if self.sparsity is None:
            return max(0.0, live.mean() + self.c_rate * live.std())
        return np.quantile(live, self.sparsity) / 0.9


def _cut(magnitudes: np.ndarray, centre: float, kept: np.ndarray) -> np.ndarray:
    """Eq. 4."""
    return np.where(magnitudes <= 0.9 * centre, False, np.where(magnitudes > 1.1 * centre, True, kept))
