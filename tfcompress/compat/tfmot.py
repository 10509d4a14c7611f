"""The pruning interface of tensorflow-model-optimization (tfmot), on Keras 3.

Change the import, and scripts written for tfmot go on working:

>>> import keras
>>> from tfcompress.compat import tfmot
>>> x = keras.Input((8,))
>>> model = keras.Model(x, keras.layers.Dense(4)(x))
>>> schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000)
>>> pruned = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
>>> type(tfmot.sparsity.keras.strip_pruning(pruned).layers[1]).__name__
'Dense'

Names, arguments and the values of schedules are tfmot's; the machinery is `tfcompress.layers`.
docs/from-tfmot.md lists what differs.
"""

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import layers, schedules
from tfcompress.callbacks import UpdateMasks
from tfcompress.layers import MagnitudePruning, MaskedLayer

SEARCH = 100_000  # steps to look ahead for the next update of a schedule of the user's own


class PruningSchedule:
    """When to prune, and to which sparsity. Subclasses implement `__call__` and `get_config`."""

    def __call__(self, step: int) -> tuple[bool, float]:
        """Whether masks are updated at this step, and the sparsity they get."""
        raise NotImplementedError

    def next_update(self, step: int) -> int | None:
        """The first step from `step` on at which masks are updated."""
        return next((due for due in range(step, step + SEARCH) if self(due)[0]), None)

    def get_config(self) -> dict[str, Any]:
        """`{"class_name": ..., "config": arguments}`."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PruningSchedule":
        return cls(**config)


class _Steps(PruningSchedule):
    """Updates every `frequency` steps from `begin_step` to `end_step`, both included; -1: without end."""

    def __init__(self, begin_step: int, end_step: int, frequency: int, **sparsities: float):
        for name, sparsity in sparsities.items():
            if not 0.0 <= sparsity < 1.0:
                raise ValueError(f"{name} must be in range [0,1), got {sparsity}.")
        if end_step < -1:
            raise ValueError(f"end_step can be -1 or >= 0, got {end_step}.")
        last = None if end_step == -1 else end_step
        self._steps = schedules.Constant(0.0, begin_step=begin_step, end_step=last, frequency=frequency)
        self._config = {**sparsities, "begin_step": begin_step, "end_step": end_step, "frequency": frequency}

    def next_update(self, step: int) -> int | None:
        return self._steps.next_update(step)

    def get_config(self) -> dict[str, Any]:
        return {"class_name": type(self).__name__, "config": dict(self._config)}


class ConstantSparsity(_Steps):
    """The same sparsity at every update."""

    def __init__(self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100):
        super().__init__(begin_step, end_step, frequency, target_sparsity=target_sparsity)
        self.target_sparsity = target_sparsity

    def __call__(self, step: int) -> tuple[bool, float]:
        return self.next_update(step) == step, float(np.float32(self.target_sparsity))


class PolynomialDecay(_Steps):
    """From one sparsity to another: `final + (initial - final) * (1 - progress) ** power`."""

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ):
        if end_step == -1:
            raise ValueError("end_step cannot be -1.")
        sparsities = {"initial_sparsity": initial_sparsity, "final_sparsity": final_sparsity}
        super().__init__(begin_step, end_step, frequency, **sparsities)
        self.initial_sparsity, self.final_sparsity = initial_sparsity, final_sparsity
        self.begin_step, self.end_step, self.power = begin_step, end_step, power
        self._config["power"] = power

    def __call__(self, step: int) -> tuple[bool, float]:
        """In single precision, as tfmot computes it."""
        single = np.float32
        with np.errstate(all="ignore"):  # a schedule of one step divides by zero, in tfmot, too
            progress = single(step - self.begin_step) / single(self.end_step - self.begin_step)
        left = single(1) - min(single(1), max(single(0), progress))
        change = single(self.initial_sparsity - self.final_sparsity)
        sparsity = change * np.power(left, single(self.power)) + single(self.final_sparsity)
        return self.next_update(step) == step, float(sparsity)


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclass(frozen=True, eq=False)
class TfmotSchedule(schedules.Schedule):
    """A `PruningSchedule` where tfcompress wants a schedule of its own."""

    pruning_schedule: PruningSchedule

    def __call__(self, step: int) -> float:
        return float(self.pruning_schedule(step)[1])

    def next_update(self, step: int) -> int | None:
        return self.pruning_schedule.next_update(step)

    def get_config(self) -> dict[str, Any]:
        return self.pruning_schedule.get_config()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TfmotSchedule":
        kind = globals().get(config["class_name"]) or keras.saving.get_registered_object(config["class_name"])
        return cls(kind.from_config(config["config"]))

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, TfmotSchedule) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(repr(self.get_config()))


HALF = ConstantSparsity(0.5, 0)


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: PruningSchedule = HALF,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: Any = None,
    sparsity_m_by_n: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Returns a model, a layer or a list of layers whose small weights are masked while it trains.

    Train it with the callback `UpdatePruningStep()`; then `strip_pruning` gives a plain model.

    Args:
        to_prune: a functional or Sequential model, a layer, or a list of layers.
        pruning_schedule: such as `PolynomialDecay(...)`.
        block_size: (inputs, outputs) of the blocks that are masked as one, as in the kernel of a Dense layer.
        block_pooling_type: `"AVG"` or `"MAX"`, of the magnitudes in a block.
        pruning_policy: an object whose `allow_pruning(layer)` says which layers of a model to prune.
        sparsity_m_by_n: `(m, n)`: of every n consecutive input channels m are masked.
        **kwargs: for the wrapper of a single layer.

    Raises:
        ValueError: `to_prune` is none of these, or a setting is wrong.
    """
    rule = _rule(pruning_schedule, block_size, block_pooling_type, sparsity_m_by_n)
    if isinstance(to_prune, keras.Model):
        return _prune_model(to_prune, rule, pruning_policy)
    if isinstance(to_prune, list):
        return [_prune_layer(layer, rule) for layer in to_prune]
    if isinstance(to_prune, keras.layers.Layer):
        return _prune_layer(to_prune, rule, **kwargs)
    raise ValueError(
        "`prune_low_magnitude` can only prune a Sequential or functional keras.Model, a keras layer or a "
        f"list of layers, got {type(to_prune).__name__}."
    )


def strip_pruning(model: keras.Model) -> keras.Model:
    """Returns the model without its masks: what they hide is zero.

    Raises:
        ValueError: nothing in the model is masked.
    """
    return layers.strip(model)


class UpdatePruningStep(UpdateMasks):
    """Updates the masks while `model.fit` trains, as `callbacks.UpdateMasks` does."""

    def __init__(self) -> None:
        super().__init__()


class PruningSummaries(keras.callbacks.TensorBoard):
    """TensorBoard with the sparsity of every masked weight, as `<path of the weight>/sparsity`."""

    def __init__(self, log_dir: str, update_freq: Any = "epoch", **kwargs: Any):
        if not isinstance(log_dir, str) or not log_dir:
            raise ValueError(f"`log_dir` must be a non-empty string, got {log_dir!r}.")
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        sparsities = {
            f"{masked.path}/sparsity": float((~masked.kept).mean())
            for masked in layers.masked_weights(self.model)
        }
        super().on_epoch_end(epoch, {**(logs or {}), **sparsities})


def _rule(
    schedule: PruningSchedule, block_size: Sequence[int], pooling: str, m_by_n: Sequence[int] | None
) -> MagnitudePruning:
    if pooling not in ("AVG", "MAX"):
        raise ValueError(f"block_pooling_type must be 'AVG' or 'MAX', got {pooling!r}.")
    inputs, outputs = block_size
    return MagnitudePruning(
        TfmotSchedule(schedule),
        block=(int(outputs), int(inputs)),
        pool={"AVG": "mean", "MAX": "max"}[pooling],
        n_of_m=None if m_by_n is None else (m_by_n[1] - m_by_n[0], m_by_n[1]),
    )


def _prune_model(model: keras.Model, rule: MagnitudePruning, policy: Any) -> keras.Model:
    if policy is None:
        return layers.wrap(model, rule)
    if hasattr(policy, "ensure_model_supports_pruning"):
        policy.ensure_model_supports_pruning(model)
    return layers.wrap(
        model, lambda layer: MaskedLayer(layer, rule) if policy.allow_pruning(layer) else layer
    )


def _prune_layer(layer: Any, rule: MagnitudePruning, **kwargs: Any) -> Any:
    if isinstance(layer, (MaskedLayer, keras.layers.InputLayer)):
        return layer
    return MaskedLayer(layer, rule, **kwargs)


sparsity = types.SimpleNamespace(
    keras=types.SimpleNamespace(
        ConstantSparsity=ConstantSparsity,
        PolynomialDecay=PolynomialDecay,
        PruningSchedule=PruningSchedule,
        PruningSummaries=PruningSummaries,
        UpdatePruningStep=UpdatePruningStep,
        prune_low_magnitude=prune_low_magnitude,
        strip_pruning=strip_pruning,
    )
)
