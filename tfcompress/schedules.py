"""How much to remove at which step of training.

>>> schedule = Polynomial(0.5, 0.9, end_step=1000)
>>> [round(schedule(step), 4) for step in (0, 500, 1000, 2000)]
[0.5, 0.85, 0.9, 0.9]
>>> schedule.next_update(1), schedule.next_update(1001)
(100, None)

A step is a step of the optimizer, counted from 0: `optimizer.iterations` before it is taken.
"""

import math
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress._checks import check_number, check_whole, is_number
from tfcompress._settings import Settings


@dataclass(frozen=True, kw_only=True)
class Schedule(Settings):
    """When masks are updated, and to which sparsity. Subclasses implement `__call__`.

    Args:
        begin_step: the first step at which masks are updated.
        end_step: the last one at which they may be; None: there is none.
        frequency: how many steps lie between one update and the next.

    Raises:
        ValueError: a step is negative, the end comes before the beginning, or `frequency` is not positive.
    """

    begin_step: int = 0
    end_step: int | None = None
    frequency: int = 100

    def __post_init__(self) -> None:
        check_whole("begin_step", self.begin_step, 0)
        check_whole("frequency", self.frequency)
        check_whole("end_step", self.end_step, 0, or_none=True)
        if self.end_step is not None and self.end_step < self.begin_step:
            raise ValueError(
                f"The schedule ends before it begins: end_step={self.end_step}, begin_step={self.begin_step}."
            )

    def __call__(self, step: int) -> float:
        """The sparsity, in [0, 1), that masks get at this step."""
        raise NotImplementedError

    def next_update(self, step: int) -> int | None:
        """The first step from `step` on at which masks are updated; None if there is none."""
        rounds = max(0, math.ceil((step - self.begin_step) / self.frequency))
        due = self.begin_step + rounds * self.frequency
        return due if self.end_step is None or due <= self.end_step else None


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclass(frozen=True)
class Constant(Schedule):
    """The same sparsity at every update.

    >>> Constant(0.5, begin_step=10).next_update(0)
    10
    """

    sparsity: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sparsity(self.sparsity)

    def __call__(self, step: int) -> float:
        return self.sparsity


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclass(frozen=True)
class Polynomial(Schedule):
    """Fast in the beginning, while there is much that nobody misses, and slow at the end.

    `s(t) = final + (initial - final) * (1 - (t - begin) / (end - begin)) ** power`, and `final` after
    the end (Zhu & Gupta 2017, "To prune, or not to prune", eq. 1, where the power is 3).

    Args:
        initial: the sparsity at `begin_step`.
        final: the sparsity at `end_step`, which must be given.
        power: 1 for a straight line.

    Raises:
        ValueError: as `Schedule`; or a sparsity is outside [0, 1), or there is no end.
    """

    initial: float
    final: float
    power: float = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sparsity(self.initial)
        check_sparsity(self.final)
        if self.end_step is None or self.end_step == self.begin_step:
            raise ValueError("A polynomial schedule needs an end_step after its begin_step.")
        check_number("power", self.power, "(0, inf)")

    def __call__(self, step: int) -> float:
        assert self.end_step is not None
        done = (step - self.begin_step) / (self.end_step - self.begin_step)
        return self.final + (self.initial - self.final) * (1 - min(max(done, 0.0), 1.0)) ** self.power

    def next_update(self, step: int) -> int | None:
        """As every schedule; and once at the end, so that the final sparsity is reached."""
        due = super().next_update(step)
        return self.end_step if due is None and self.end_step is not None and step <= self.end_step else due


def get(sparsity: Any) -> Schedule:
    """The schedule itself, or a constant one from step 0 on for a number.

    Raises:
        ValueError: it is neither, or a number outside [0, 1).
    """
    return sparsity if isinstance(sparsity, Schedule) else Constant(check_sparsity(sparsity))


def check_sparsity(sparsity: Any) -> float:
    """Returns the sparsity, or raises `ValueError` unless it is a number in [0, 1)."""
    if not is_number(sparsity, "[0, 1)"):
        raise ValueError(
            f"A sparsity is the share to remove, a number in [0, 1), or a Schedule, got {sparsity!r}."
        )
    return float(sparsity)
