"""What a distillation loss is: from what teacher and student say to one number per example.

Your own is one small class:

>>> import numpy as np
>>> class Closest(FeatureLoss):
...     def compare(self, teacher, student):
...         others = tuple(range(1, len(teacher.shape)))
...         return keras.ops.max(keras.ops.abs(teacher - student), axis=others)
>>> loss = Closest("conv4", "conv2")
>>> loss.call([np.ones((2, 3))], [np.zeros((2, 3))]).shape
TensorShape([2])
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from tfcompress import _names
from tfcompress.distillation.watch import RESOLUTIONS

OUTPUTS, FEATURES, GRADIENTS, SYMMETRY = "outputs", "features", "gradients", "symmetry"


class DistillationLoss(keras.layers.Layer):
    """Says how far the student is from the teacher, for every example of a batch.

    It is a layer, so that what it trains along, such as an adapter between different widths, trains and is
    saved with the `Distiller`, and stays behind with it: the student has nothing of it. It computes in
    float32 whatever the networks compute in.

    Subclasses say in `looks_at` what they are given of both networks, as lists of tensors: "outputs",
    "features" of layers, or "gradients" by the inputs; or, of the student alone, "symmetry".
    """

    looks_at: ClassVar[str] = OUTPUTS
    needs_labels: ClassVar[bool] = False

    def __init__(self, name: str | None = None):
        super().__init__(name=name, dtype="float32")

    @property
    def title(self) -> str:
        """Its name, without the number by which Keras tells layers of one class apart."""
        own = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        return own if re.fullmatch(rf"{own}_\d+", self.name) else self.name

    def build(self, teacher_shape: Sequence[Any], student_shape: Sequence[Any]) -> None:
        """Makes what it trains along, and checks shapes: those of what it looks at, in order."""

    def call(self, teacher: Sequence[Any], student: Sequence[Any], labels: Any = None) -> Any:
        """Returns `(batch,)` losses.

        Args:
            teacher: what the loss looks at, in order; no gradients go there.
            student: likewise, of the student.
            labels: of the outputs, in order; None where there are none.
        """
        raise NotImplementedError

    def of_ensemble(self, teachers: Sequence[Sequence[Any]], student: Sequence[Any], labels: Any) -> Any:
        """Returns `(batch,)` losses against several teachers: by default the mean over them."""
        found = [self(teacher, student, labels) for teacher in teachers]
        return sum(found[1:], start=found[0]) / len(found)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


class FeatureLoss(DistillationLoss):
    """Compares what layers say, pair by pair; the losses of pairs add up. Implement `compare`.

    Args:
        teacher_layers: a name or path of a layer of the teacher, a regular expression for such, or a list; or
            "last_of_each_resolution": the last layers of each size of maps that both networks have.
        student_layers: their partners in the student; None: as `teacher_layers`.
    """

    looks_at: ClassVar[str] = FEATURES

    def __init__(
        self,
        teacher_layers: _names.Patterns = RESOLUTIONS,
        student_layers: _names.Patterns = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.teacher_layers = _spelled(teacher_layers)
        self.student_layers = self.teacher_layers if student_layers is None else _spelled(student_layers)

    def compare(self, teacher: Any, student: Any) -> Any:
        """From what two layers say, `(batch, ..., channels)` each, to `(batch,)` losses."""
        raise NotImplementedError

    def call(self, teacher: Sequence[Any], student: Sequence[Any], labels: Any = None) -> Any:
        found = [self.compare(one, other) for one, other in zip(teacher, student, strict=True)]
        return sum(found[1:], start=found[0])

    def get_config(self) -> dict[str, Any]:
        layers = {"teacher_layers": self.teacher_layers, "student_layers": self.student_layers}
        return super().get_config() | layers


def _spelled(layers: _names.Patterns) -> str | list[str]:
    listed = _names.listed(layers)
    if not listed:
        raise ValueError("Say which layers are compared: a name, a regular expression or a list of them.")
    return layers if isinstance(layers, str) else listed
