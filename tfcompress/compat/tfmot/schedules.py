"""tfmot's schedules. Their steps begin at 1, as tfmot counts them: the first batch is step 1.

>>> PolynomialDecay(0.5, 0.9, begin_step=0, end_step=1000)(500)
(True, 0.8499...)
"""

import abc
from typing import Any

import keras
import numpy as np

SEARCH = 100_000  # steps to look ahead for the next update of a schedule of the user's own


class PruningSchedule(abc.ABC):
    """When to prune, and to which sparsity. Subclasses implement `__call__` and `get_config`.

    To load a model with a schedule of your own, be inside `keras.saving.custom_object_scope({"Mine": Mine})`.
    """

    @abc.abstractmethod
    def __call__(self, step: int) -> tuple[bool, float]:
        """Whether masks are updated at this step, and the sparsity they get."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """`{"class_name": ..., "config": arguments}`."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PruningSchedule":
        return cls(**config)

    def next_update(self, step: int) -> int | None:
        """The first step from `step` on at which masks are updated.

        Training asks before every batch, so what was found silent is not searched again.
        """
        begin, end = vars(self).get("_silent", (step, step))
        if not begin <= step <= end:
            begin = end = step
        while end < step + SEARCH and not self(end)[0]:
            end += 1
        self._silent = (begin, end)
        return end if end < step + SEARCH else None

    def _should_prune_in_step(self, step: int, begin_step: int, end_step: int, frequency: int) -> bool:
        """Every `frequency` steps from `begin_step` to `end_step`, both included; -1: without end."""
        in_range = begin_step <= step and (step <= end_step or end_step < 0)
        return bool(in_range and (step - begin_step) % frequency == 0)

    def _validate_step(self, begin_step: int, end_step: int, frequency: int, allow_negative_1: bool) -> None:
        if begin_step < 0:
            raise ValueError(f"begin_step should be >= 0, got {begin_step}.")
        if end_step == -1 and not allow_negative_1:
            raise ValueError("end_step cannot be -1.")
        if end_step < -1:
            raise ValueError(f"end_step can be -1 or >= 0, got {end_step}.")
        if end_step != -1 and end_step < begin_step:
            raise ValueError(
                f"begin_step should be <= end_step if end_step != -1, got {begin_step} and {end_step}."
            )
        if frequency <= 0:
            raise ValueError(f"frequency should be > 0, got {frequency}.")

    def _validate_sparsity(self, sparsity: float, variable_name: str) -> None:
        if not 0.0 <= sparsity < 1.0:
            raise ValueError(f"{variable_name} must be in range [0,1), got {sparsity}.")

    def __eq__(self, other: Any) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(repr(self.get_config()))


class _Steps(PruningSchedule):
    """A schedule whose steps are given by `begin_step`, `end_step` and `frequency`."""

    def __init__(self, begin_step: int, end_step: int, frequency: int):
        self.begin_step = _whole("begin_step", begin_step)
        self.end_step = _whole("end_step", end_step)
        self.frequency = _whole("frequency", frequency)

    def next_update(self, step: int) -> int | None:
        rounds = max(0, -((self.begin_step - step) // self.frequency))  # rounded up
        due = self.begin_step + rounds * self.frequency
        return due if due <= self.end_step or self.end_step < 0 else None

    def _is_due(self, step: int) -> bool:
        return self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)

    def _config(self, **settings: float) -> dict[str, Any]:
        steps = {"begin_step": self.begin_step, "end_step": self.end_step, "frequency": self.frequency}
        return {"class_name": type(self).__name__, "config": {**settings, **steps}}


class ConstantSparsity(_Steps):
    """The same sparsity at every update.

    Args:
        target_sparsity: in [0, 1).
        begin_step: the first step at which masks are updated.
        end_step: the last one; -1: there is none.
        frequency: how many steps lie between one update and the next.
    """

    def __init__(self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100):
        super().__init__(begin_step, end_step, frequency)
        self._validate_step(self.begin_step, self.end_step, self.frequency, True)
        self._validate_sparsity(target_sparsity, "target_sparsity")
        self.target_sparsity = float(target_sparsity)

    def __call__(self, step: int) -> tuple[bool, float]:
        return self._is_due(step), float(np.float32(self.target_sparsity))

    def get_config(self) -> dict[str, Any]:
        return self._config(target_sparsity=self.target_sparsity)


class PolynomialDecay(_Steps):
    """From one sparsity to another: `final + (initial - final) * (1 - progress) ** power`.

    Args:
        initial_sparsity: at `begin_step`, in [0, 1).
        final_sparsity: at `end_step`, in [0, 1).
        begin_step: the first step at which masks are updated.
        end_step: the last one at which they may be.
        power: 1 for a straight line.
        frequency: how many steps lie between one update and the next.
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ):
        super().__init__(begin_step, end_step, frequency)
        self._validate_step(self.begin_step, self.end_step, self.frequency, False)
        self._validate_sparsity(initial_sparsity, "initial_sparsity")
        self._validate_sparsity(final_sparsity, "final_sparsity")
        self.initial_sparsity, self.final_sparsity = float(initial_sparsity), float(final_sparsity)
        self.power = float(power)

    def __call__(self, step: int) -> tuple[bool, float]:
        """In single precision, and with the backend's power, as tfmot computes it outside of a graph."""
        single = np.float32
        change = single(self.initial_sparsity - self.final_sparsity)
        left = keras.ops.power(single(1) - self._progress(step), single(self.power))
        sparsity = change * single(keras.ops.convert_to_numpy(left)) + single(self.final_sparsity)
        return self._is_due(step), float(sparsity)

    def _progress(self, step: int) -> np.float32:
        if self.end_step == self.begin_step:
            return np.float32(step >= self.begin_step)
        done = np.float32(step - self.begin_step) / np.float32(self.end_step - self.begin_step)
        return np.clip(done, np.float32(0), np.float32(1))

    def get_config(self) -> dict[str, Any]:
        return self._config(
            initial_sparsity=self.initial_sparsity, final_sparsity=self.final_sparsity, power=self.power
        )


def from_config(config: dict[str, Any]) -> PruningSchedule:
    """The schedule whose `get_config()` this is.

    Raises:
        ValueError: its class is not known.
    """
    name = config["class_name"]
    known = {kind.__name__: kind for kind in (ConstantSparsity, PolynomialDecay)}
    kind = known.get(name) or keras.saving.get_registered_object(name)
    if kind is None:
        raise ValueError(
            f"The pruning schedule '{name}' is not known here. Load the model inside "
            f'`with keras.saving.custom_object_scope({{"{name}": {name}}}):`.'
        )
    return kind.from_config(config["config"])


def _whole(name: str, number: Any) -> int:
    """Scripts compute steps with NumPy: `np.ceil(images / batch_size) * epochs`."""
    if number != int(number):
        raise ValueError(f"{name} is a number of steps, got {number}.")
    return int(number)
