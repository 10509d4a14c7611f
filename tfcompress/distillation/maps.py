"""Maps `(batch, ..., channels)`: of equal size, of length 1, flat.

>>> import numpy as np
>>> large, small = np.arange(8.0).reshape(1, 4, 2, 1), np.zeros((1, 2, 2, 5))
>>> ops.convert_to_numpy(same_size(large, small)[0]).ravel().tolist()
[1.0, 2.0, 5.0, 6.0]
"""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfcompress.distillation.watch import Shape

SMALL = 1e-12  # below it a length is zero


def rows(values: Any) -> Any:
    """`(batch, ...)` as `(batch, values)`."""
    return ops.reshape(values, (ops.shape(values)[0], -1))


def length(squares: Any) -> Any:
    """The square root, with a slope of zero at zero."""
    return ops.where(squares > SMALL**2, ops.sqrt(ops.maximum(squares, SMALL**2)), 0.0)


def unit(maps: Any) -> Any:
    """`(batch, values)`, each row of length 1, whatever its scale; rows of zeros stay zero."""
    flat = rows(maps)
    flat = flat / ops.stop_gradient(ops.maximum(ops.max(ops.abs(flat), axis=-1, keepdims=True), SMALL))
    return flat / ops.maximum(length(ops.sum(flat**2, axis=-1, keepdims=True)), SMALL)


def same_size(teacher: Any, student: Any) -> tuple[Any, Any]:
    """Maps of equal size: the larger are averaged over windows.

    Args:
        teacher: `(batch, height, width, channels)`, or with another number of axes of positions.
        student: likewise, with channels of its own.
    """
    if len(teacher.shape) != len(student.shape):
        raise ValueError(
            f"Maps {tuple(teacher.shape)} of the teacher and {tuple(student.shape)} of the student cannot be "
            "compared: name layers that have as many axes."
        )
    for axis in range(1, len(teacher.shape) - 1):
        teacher, student = _as_small(teacher, student, axis), _as_small(student, teacher, axis)
    return teacher, student


def _as_small(maps: Any, other: Any, axis: int) -> Any:
    """The means over windows along one axis, as many as the other has positions, if that has fewer.

    Window *i* of *n* over *m* positions goes from `floor(i m / n)` to `ceil((i + 1) m / n)`.
    """
    have, want = maps.shape[axis], other.shape[axis]
    if have is None or want is None or have <= want:
        return maps
    windows = ops.stack(
        [
            [float(i * have // want <= j < -(-(i + 1) * have // want)) for j in range(have)]
            for i in range(want)
        ]
    )
    windows = ops.cast(windows / ops.sum(windows, axis=1, keepdims=True), maps.dtype)
    return ops.moveaxis(ops.tensordot(maps, windows, axes=([axis], [1])), -1, axis)


def check_sizes(loss: keras.layers.Layer, teacher: Sequence[Shape], student: Sequence[Shape]) -> None:
    """Warns of maps that will be averaged to the size of their partners.

    Raises:
        ValueError: a layer has more axes than its partner.
    """
    for one, other in zip(teacher, student, strict=True):
        if len(one) != len(other):
            raise ValueError(
                f"'{loss.name}' cannot compare {one} of the teacher with {other} of the student: name "
                "layers with as many axes."
            )
        if one[1:-1] != other[1:-1]:
            warnings.warn(
                f"'{loss.name}' compares maps of {one[1:-1]} of the teacher with maps of {other[1:-1]} of "
                "the student: the larger ones are averaged to the size of the others.",
                stacklevel=2,
            )


def check_maps(loss: keras.layers.Layer, teacher: Sequence[Shape], student: Sequence[Shape]) -> None:
    """As `check_sizes`, for layers that must have positions."""
    for shape in (*teacher, *student):
        if len(shape) < 3:
            raise ValueError(
                f"'{loss.name}' compares maps, but a layer says {shape}, which has no positions."
            )
    check_sizes(loss, teacher, student)
