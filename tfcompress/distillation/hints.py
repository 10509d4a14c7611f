"""FitNets: a layer of the student learns to say what one of the teacher says (Romero et al. 2015)."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfcompress import _names
from tfcompress.distillation.loss import FeatureLoss
from tfcompress.distillation.maps import check_sizes, same_size
from tfcompress.distillation.watch import Shape


@keras.saving.register_keras_serializable("tfcompress")
class Hints(FeatureLoss):
    """`1/2 ||u - r(v)||^2`, the mean over its entries, of what teacher and student say, u and v.

    Where the student is narrower or wider, r is a 1x1 convolution (a dense layer without positions), trained
    along and dropped with the distiller (Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3;
    their r is a larger convolution for maps of other sizes, which here are averaged instead, and they add up
    entries where this divides by their number). Where widths are equal r is nothing.

    Args:
        teacher_layers: see `FeatureLoss`.
        student_layers: likewise.
        adapt: whether to have an r at equal widths, too.
    """

    def __init__(
        self,
        teacher_layers: _names.Patterns,
        student_layers: _names.Patterns = None,
        *,
        adapt: bool = False,
        name: str | None = None,
    ):
        super().__init__(teacher_layers, student_layers, name)
        self.adapt = adapt
        self.adapters: list[keras.layers.Layer] = []

    def build(self, teacher_shape: Sequence[Shape], student_shape: Sequence[Shape]) -> None:
        check_sizes(self, teacher_shape, student_shape)
        self.adapters = [
            adapter(one, other, self.adapt) for one, other in zip(teacher_shape, student_shape, strict=True)
        ]

    def call(self, teacher: Sequence[Any], student: Sequence[Any], labels: Any = None) -> Any:
        return super().call(
            teacher, [adapt(one) for adapt, one in zip(self.adapters, student, strict=True)], labels
        )

    def compare(self, teacher: Any, student: Any) -> Any:
        teacher, student = same_size(teacher, student)
        return 0.5 * ops.mean((teacher - student) ** 2, axis=tuple(range(1, len(teacher.shape))))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"adapt": self.adapt}


def adapter(teacher: Shape, student: Shape, always: bool = False) -> keras.layers.Layer:
    """A built layer from the student's width to the teacher's: over single positions, and linear."""
    if teacher[-1] == student[-1] and not always:
        return keras.layers.Identity(dtype="float32")
    made = keras.layers.Dense(teacher[-1], dtype="float32")
    made.build(student)
    return made
