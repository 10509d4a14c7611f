"""Attention transfer: where in the image the networks look (Zagoruyko and Komodakis 2017)."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from tfcompress import _names
from tfcompress._checks import check_choice
from tfcompress.distillation.loss import GRADIENTS, SYMMETRY, DistillationLoss, FeatureLoss
from tfcompress.distillation.maps import check_maps, length, rows, same_size, unit
from tfcompress.distillation.watch import RESOLUTIONS, Shape

FORMS = {"paper": 0.1, "code": 1e3}  # and the beta that belongs to each
POOLS: dict[str, Callable[..., Any]] = {"sum": ops.sum, "max": ops.max}


@keras.saving.register_keras_serializable("tfcompress")
class AttentionTransfer(FeatureLoss):
    """Compares maps of attention, which say where the channels of a layer are active, not which.

    The map of `A` is `F = sum_c |A_c|^p` (or `max_c`), and `Q = vec(F) / ||vec(F)||` for each image
    (Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", section 3.1), so that the networks
    may differ in width, and in scale. Over pairs of layers it adds up

    * `form="paper"`: `beta / 2 ||Q_S - Q_T||`, eq. 2, beta 0.1;
    * `form="code"`: `beta mean_i (Q_S - Q_T)_i^2` over positions, which the authors' code computes, beta
      1000.

    The paper adds it to the loss by labels: `student_loss_weight=1, distillation_weight=1`.

    Args:
        teacher_layers: see `FeatureLoss`; the paper takes the ends of the groups of a residual network.
        student_layers: likewise.
        p: the power, above 0.
        pool: "sum" or "max".
        form: "paper" or "code".
        beta: the weight; None: that of the form.

    >>> loss = AttentionTransfer("block", form="code", beta=1.0)
    >>> maps = ops.convert_to_tensor([[[[1.0, 2.0], [0.0, 0.0]]]])  # one image, 1 x 2 positions, 2 channels
    >>> float(loss([maps], [3 * maps])[0])
    0.0
    """

    def __init__(
        self,
        teacher_layers: _names.Patterns = RESOLUTIONS,
        student_layers: _names.Patterns = None,
        *,
        p: float = 2.0,
        pool: str = "sum",
        form: str = "paper",
        beta: float | None = None,
        name: str | None = None,
    ):
        super().__init__(teacher_layers, student_layers, name)
        if not p > 0:
            raise ValueError(f"p must be above 0, got {p!r}.")
        check_choice("pool", pool, POOLS)
        check_choice("form", form, FORMS)
        self.p, self.pool, self.form = float(p), pool, form
        self.beta = FORMS[form] if beta is None else float(beta)

    def build(self, teacher_shape: Sequence[Shape], student_shape: Sequence[Shape]) -> None:
        check_maps(self, teacher_shape, student_shape)

    def compare(self, teacher: Any, student: Any) -> Any:
        teacher, student = same_size(
            *(ops.expand_dims(self.attention(maps), -1) for maps in (teacher, student))
        )
        apart = (unit(student) - unit(teacher)) ** 2
        if self.form == "code":
            return self.beta * ops.mean(apart, axis=-1)
        return self.beta / 2 * length(ops.sum(apart, axis=-1))

    def attention(self, maps: Any) -> Any:
        """From `(batch, ..., channels)` to `(batch, ...)`."""
        return POOLS[self.pool](ops.abs(maps) ** self.p, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {key: getattr(self, key) for key in ("p", "pool", "form", "beta")}


@keras.saving.register_keras_serializable("tfcompress")
class GradientAttention(DistillationLoss):
    """Compares on which inputs the losses of the networks depend: `beta / 2 ||J_S - J_T||`.

    `J = dL / dx` is the derivative of an image's loss by the image; the teacher's is a constant (Zagoruyko
    and Komodakis 2017, section 3.2, eq. 5). The student is differentiated twice.

    Args:
        beta: the weight.
    """

    looks_at: ClassVar[str] = GRADIENTS
    needs_labels: ClassVar[bool] = True

    def __init__(self, beta: float = 1.0, name: str | None = None):
        super().__init__(name=name)
        self.beta = float(beta)

    def call(self, teacher: Sequence[Any], student: Sequence[Any], labels: Any = None) -> Any:
        apart = [
            ops.sum(rows(one - other) ** 2, axis=-1) for one, other in zip(teacher, student, strict=True)
        ]
        return self.beta / 2 * length(sum(apart[1:], start=apart[0]))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"beta": self.beta}


@keras.saving.register_keras_serializable("tfcompress")
class GradientSymmetry(DistillationLoss):
    """`beta / 2 ||J(x) - flip(J(flip(x)))||`: attention to an image shall not depend on left and right.

    J is the derivative of an image's loss by the image (Zagoruyko and Komodakis 2017, section 3.2, eq. 6). It
    is of the student alone, which is run once more, on flipped images, and remembers nothing of that.

    Args:
        beta: the weight.
        axis: which axis of the images is flipped; by default the width of channels_last images.
    """

    looks_at: ClassVar[str] = SYMMETRY
    needs_labels: ClassVar[bool] = True

    def __init__(self, beta: float = 1.0, axis: int = 2, name: str | None = None):
        super().__init__(name=name)
        self.beta, self.axis = float(beta), int(axis)

    def call(self, teacher: Sequence[Any], student: Sequence[Any], labels: Any = None) -> Any:
        ((slopes, flipped),) = student
        apart = [ops.sum(rows(one - other) ** 2, axis=-1) for one, other in zip(slopes, flipped, strict=True)]
        return self.beta / 2 * length(sum(apart[1:], start=apart[0]))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"beta": self.beta, "axis": self.axis}
