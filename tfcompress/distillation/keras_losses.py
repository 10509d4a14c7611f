"""The losses of `keras.distillation`, as losses of ours.

>>> ours(keras.distillation.LogitsDistillation(temperature=3.0))[0].temperature
3.0
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfcompress import _losses
from tfcompress.distillation.loss import FEATURES, OUTPUTS, DistillationLoss
from tfcompress.distillation.soft_targets import SoftTargets


def ours(given: Any) -> list[DistillationLoss]:
    """A loss or several as a list of ours.

    Raises:
        ValueError: there is none, or one is no distillation loss.
    """
    listed = list(given) if isinstance(given, Sequence) else [given]
    if not listed or given is None:
        raise ValueError("Say at least one distillation loss, such as SoftTargets().")
    return [_ours(one) for one in listed]


def _ours(loss: Any) -> DistillationLoss:
    if isinstance(loss, DistillationLoss):
        return loss
    if not isinstance(loss, keras.distillation.DistillationLoss):
        raise ValueError(
            f"A distillation loss is one of tfcompress.distillation or of keras.distillation, got {loss!r}."
        )
    if type(loss) is keras.distillation.LogitsDistillation and _is_divergence(loss.loss):
        return SoftTargets(loss.temperature)
    return KerasLoss(loss)


def _is_divergence(loss: Any) -> bool:
    """Keras 3.15 overlooks its own default, the function, and takes it of logits."""
    return isinstance(loss, keras.losses.KLDivergence) or loss is keras.losses.kl_divergence


_BY_EXAMPLE = (keras.distillation.FeatureDistillation, keras.distillation.LogitsDistillation)


@keras.saving.register_keras_serializable("tfcompress")
class KerasLoss(DistillationLoss):
    """A loss made for `keras.distillation.Distiller`.

    Those that Keras has are taken example by example, so that weights of examples count. One of your own
    gives one number for a batch, which they cannot touch.
    """

    def __init__(self, loss: Any, name: str | None = None):
        super().__init__(name=name)
        self.loss = loss
        self.teacher_layers = getattr(loss, "teacher_layer_name", None)
        self.student_layers = getattr(loss, "student_layer_name", None)

    @property
    def looks_at(self) -> str:  # type: ignore[override]
        return OUTPUTS if self.teacher_layers is None else FEATURES

    def call(self, teacher: Sequence[Any], student: Sequence[Any], labels: Any = None) -> Any:
        if type(self.loss) in _BY_EXAMPLE:
            scale = getattr(self.loss, "temperature", 1.0)
            return self._by_example([one / scale for one in teacher], [one / scale for one in student])
        ones, others = (listed[0] if len(listed) == 1 else listed for listed in (teacher, student))
        self.loss.validate_outputs(ones, others)
        return ops.broadcast_to(self.loss.compute_loss(ones, others), (ops.shape(student[0])[0],))

    def _by_example(self, teacher: Sequence[Any], student: Sequence[Any]) -> Any:
        functions = keras.tree.flatten(self.loss.loss)
        if len(functions) != len(teacher):
            raise ValueError(
                f"'{self.name}' has {len(functions)} losses, but there are {len(teacher)} outputs."
            )
        terms = [
            _losses.each(function)(one, other)
            for function, one, other in zip(functions, teacher, student, strict=True)
            if function is not None
        ]
        return sum(terms[1:], start=terms[0])

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "KerasLoss":
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**config | {"loss": loss})
