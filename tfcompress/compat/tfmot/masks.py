"""The rule by which tfmot masks weights.

It is `layers.MagnitudePruning` but for what tfmot rounds, pads and leaves alone in its own way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress._checks import check_choice, is_whole
from tfcompress._ranking import largest
from tfcompress.compat.tfmot import schedules
from tfcompress.compat.tfmot.schedules import PruningSchedule
from tfcompress.layers import MaskedWeight, MaskRule

POOLING = ("AVG", "MAX")


@keras.saving.register_keras_serializable(package="tfcompress.tfmot")
@dataclass(frozen=True)
class LowMagnitude(MaskRule):
    """What `prune_low_magnitude` masks.

    Of a kernel with `n` entries `max(1, round(n * (1 - sparsity)))` stay, computed in single precision
    and rounded half to even; with blocks, of its `n` blocks. m by n masks are made in the first batch, and
    stay: the schedule does not count for them. Depthwise kernels are not masked.

    Args:
        pruning_schedule: counts the first batch as step 1.
        block_size: (inputs, outputs), as the axes of a Dense kernel.
        block_pooling_type: `"AVG"` or `"MAX"`, of the magnitudes in a block.
        sparsity_m_by_n: (m, n): of every n consecutive input channels the m smallest are masked. Where n does
            not divide the channels, zeros fill up the last group.

    Raises:
        ValueError: a setting is out of range.
    """

    pruning_schedule: Any
    block_size: tuple[int, ...] = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.pruning_schedule, PruningSchedule):
            raise ValueError(
                "pruning_schedule must be a PruningSchedule of tfcompress.compat.tfmot, such as "
                f"PolynomialDecay(...), got {self.pruning_schedule!r}."
            )
        check_choice("block_pooling_type", self.block_pooling_type, POOLING)
        if not _is_pair(self.block_size) or min(self.block_size) < 1:
            raise ValueError(f"block_size must be two positive whole numbers, got {self.block_size!r}.")
        m_by_n = self.sparsity_m_by_n
        if m_by_n is not None and not (_is_pair(m_by_n) and m_by_n[0] < m_by_n[1]):
            raise ValueError(f"sparsity_m_by_n must be whole numbers (m, n) with m < n, got {m_by_n!r}.")

    def next_update(self, step: int) -> int | None:
        if self.sparsity_m_by_n is not None:
            return 0 if step <= 0 else None
        due = self.pruning_schedule.next_update(step + 1)
        return None if due is None else due - 1

    def update(self, masked: Sequence[MaskedWeight], step: int) -> list[np.ndarray]:
        sparsity = float(self.pruning_schedule(step + 1)[1])
        return [self._mask(weight, sparsity) for weight in masked]

    def _mask(self, masked: MaskedWeight, sparsity: float) -> np.ndarray:
        magnitudes = np.abs(masked.value)
        if not masked.layout.channels:
            return np.ones(magnitudes.shape, bool)
        if self.sparsity_m_by_n is None and self.block_size == (1, 1):
            return _kept(magnitudes, sparsity)
        lowered = masked.layout.lower(magnitudes)
        if self.sparsity_m_by_n is not None:
            mask = _m_by_n(lowered, *self.sparsity_m_by_n)
        else:
            mask = _blocks(lowered, sparsity, self.block_size, self.block_pooling_type)
        return masked.layout.lift(mask, magnitudes.shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pruning_schedule": self.pruning_schedule.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LowMagnitude":
        schedule = schedules.from_config(config["pruning_schedule"])
        return super().from_config({**config, "pruning_schedule": schedule})


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(is_whole(size, 0) for size in value)


def _kept(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """The mask of the largest scores."""
    share = np.float32(1) - np.float32(sparsity)
    return largest(scores, max(1, int(np.round(np.float32(scores.size) * share))))


def _blocks(lowered: np.ndarray, sparsity: float, size: tuple[int, ...], pooling: str) -> np.ndarray:
    """The mask of `(outputs, taps, channels)` entries, all those of a block alike."""
    sizes = {2: size[0], 0: size[1]}  # axis -> entries of a block
    counts, pooled = np.ones_like(lowered), lowered
    for axis, step in sizes.items():
        starts = np.arange(0, lowered.shape[axis], step)
        counts = np.add.reduceat(counts, starts, axis)
        pooled = (np.add if pooling == "AVG" else np.maximum).reduceat(pooled, starts, axis)
    mask = _kept(pooled / counts if pooling == "AVG" else pooled, sparsity)
    for axis, step in sizes.items():
        mask = np.repeat(mask, step, axis).take(range(lowered.shape[axis]), axis)
    return mask


def _m_by_n(lowered: np.ndarray, m: int, n: int) -> np.ndarray:
    """The mask of `(outputs, taps, channels)` entries that hides the m smallest of n along the channels."""
    channels = lowered.shape[-1]
    padded = np.pad(lowered, ((0, 0), (0, 0), (0, -channels % n)))
    groups = padded.reshape(-1, n)
    order = np.argsort(-groups, axis=1, kind="stable")[:, : n - m]
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask.reshape(padded.shape)[:, :, :channels]
