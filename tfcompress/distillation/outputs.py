"""Losses between outputs: logits of both networks, whatever they end in."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from tfcompress import _calls, _losses, _names
from tfcompress._checks import check_choice, check_number, near_miss
from tfcompress.distillation.loss import OUTPUTS, DistillationLoss

ACTIVATIONS = ("softmax", "sigmoid")
TINY = 1e-37  # below it float32 has no probabilities
HALF_ULP = 6e-8  # nearer to 1 it has none either


class OutputLoss(DistillationLoss):
    """Compares what two networks think of classes. Implement `compare`, which is given logits.

    Of a teacher that is an ensemble the mean of the probabilities counts, at this temperature.

    Args:
        temperature: what logits are divided by, above 0.
        activation: what makes probabilities of logits: "softmax" over the last axis, "sigmoid" for units that
            are each a question of their own; None: "sigmoid" where a network ends in one, or has one unit.
        outputs: the names of the outputs that are compared, in both networks; None: all.
        teacher_from_logits: whether the teacher gives logits; None: what its last layer tells.
        student_from_logits: likewise.

    Raises:
        ValueError: an argument is wrong.
    """

    looks_at: ClassVar[str] = OUTPUTS
    temperature: float
    activation: str | None
    outputs: list[str] | None
    teacher_from_logits: bool | None
    student_from_logits: bool | None

    def __init__(
        self,
        temperature: float = 4.0,
        *,
        activation: str | None = None,
        outputs: _names.Patterns = None,
        teacher_from_logits: bool | None = None,
        student_from_logits: bool | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_number("temperature", temperature, "(0, inf)")
        check_choice("activation", activation, (*ACTIVATIONS, None))
        self.temperature, self.activation = float(temperature), activation
        self.outputs = None if outputs is None else _names.listed(outputs)
        self.teacher_from_logits, self.student_from_logits = teacher_from_logits, student_from_logits
        self.kinds: Any = None

    def compare(self, teacher: Any, student: Any, activation: str, labels: Any) -> Any:
        """From logits `(batch, ..., classes)` of both to `(batch, ...)` losses.

        Args:
            teacher: of the teacher.
            student: of the student.
            activation: "softmax" or "sigmoid".
            labels: of this output, if there are any.
        """
        raise NotImplementedError

    def build(self, teacher_shape: Sequence[Any], student_shape: Sequence[Any]) -> None:
        for one, other in zip(teacher_shape, student_shape, strict=True):
            if one is not None and other is not None and (len(one), one[-1]) != (len(other), other[-1]):
                raise ValueError(
                    f"'{self.name}' compares classes, but the teacher gives {one} and the student {other}."
                )

    def declare(self, teachers: Sequence[list[str | None]], student: list[str | None], units: list) -> None:
        """Is told what the compared outputs are.

        Args:
            teachers: of each network of the teacher "softmax", "sigmoid", "linear" or None by output.
            student: likewise.
            units: by output, the number of classes, or None.

        Raises:
            ValueError: nobody knows whether an output is logits.
        """
        ones = [[_kind(kind, self.teacher_from_logits, "teacher") for kind in of_one] for of_one in teachers]
        others = [_kind(kind, self.student_from_logits, "student") for kind in student]
        found = zip(zip(*ones, strict=True), others, units, strict=True)
        self.kinds = [
            {
                "activation": self._activation((*of_all, of_student), classes),
                "teachers": of_all,
                "student": of_student,
            }
            for of_all, of_student, classes in found
        ]

    def _activation(self, kinds: Sequence[str], units: int | None) -> str:
        if self.activation is not None:
            return self.activation
        return "sigmoid" if "sigmoid" in kinds or units == 1 else "softmax"

    def call(self, teacher: Sequence[Any], student: Sequence[Any], labels: Any = None) -> Any:
        return self.of_ensemble([teacher], student, labels)

    def of_ensemble(self, teachers: Sequence[Sequence[Any]], student: Sequence[Any], labels: Any) -> Any:
        found = []
        for number, kinds in enumerate(self.kinds):
            activation = kinds["activation"]
            ones = [
                _logits(t[number], kind, activation)
                for t, kind in zip(teachers, kinds["teachers"], strict=True)
            ]
            other = _logits(student[number], kinds["student"], activation)
            label = None if labels is None else labels[number]
            values = self.compare(self._together(ones, activation), other, activation, label)
            positions = tuple(range(1, len(values.shape)))
            found.append(ops.mean(values, axis=positions) if positions else values)
        return sum(found[1:], start=found[0])

    def _together(self, logits: list, activation: str) -> Any:
        """The logits whose probabilities, at this temperature, are the mean of those of all."""
        if len(logits) == 1:
            return logits[0]
        scaled = ops.stack([one / self.temperature for one in logits])
        if activation == "softmax":
            return self.temperature * _log_mean(ops.log_softmax(scaled, axis=-1))
        yes, no = _log_mean(ops.log_sigmoid(scaled)), _log_mean(ops.log_sigmoid(-scaled))
        return self.temperature * (yes - no)

    def get_config(self) -> dict[str, Any]:
        keys = ("temperature", "activation", "outputs", "teacher_from_logits", "student_from_logits")
        return super().get_config() | {key: getattr(self, key) for key in keys}


def _log_mean(logs: Any) -> Any:
    """The logarithm of the mean over the first axis."""
    return ops.logsumexp(logs, axis=0) - ops.log(ops.cast(ops.shape(logs)[0], logs.dtype))


def _kind(found: str | None, from_logits: bool | None, whose: str) -> str:
    if from_logits is None and found is None:
        raise ValueError(
            f"Nobody can tell whether the {whose} gives logits or probabilities, since its last layer is "
            f"one of your own, or it is a subclassed model. Say {whose}_from_logits=True or False."
        )
    if from_logits is None or (not from_logits and found in ACTIVATIONS):
        return str(found)
    return "linear" if from_logits else "probabilities"


def _logits(outputs: Any, kind: str, activation: str) -> Any:
    """Logits, up to a constant that softmax does not see."""
    outputs = ops.cast(outputs, "float32")
    if kind == "linear":
        return outputs
    if activation == "softmax":
        return ops.log(ops.maximum(outputs, TINY))
    return ops.log(ops.maximum(outputs, TINY)) - ops.log(ops.maximum(1 - outputs, HALF_ULP))


def places_of(model: keras.Model, names: Sequence[str]) -> list[int]:
    """The places of outputs in flat order.

    Raises:
        ValueError: a name is not that of an output.
    """
    available = _losses.output_names(model) if _calls.is_functional(model) else []
    for name in names:
        if name not in available:
            raise ValueError(f"In '{model.name}': " + near_miss("output", name, available))
    return [available.index(name) for name in names]
