"""Penalties that make whole structures of a kernel vanish while `model.fit` trains.

>>> import keras
>>> layer = keras.layers.Conv2D(16, 3, kernel_regularizer=GroupLasso("filters", 1e-3))

`tfcompress.attach(model, GroupLasso("filters", 1e-3))` gives it to every kernel of a model, with the
layout of each.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress._arrays import to_numpy
from tfcompress._checks import check_choice, check_number, is_whole

# What one group runs over. With convolution groups the outputs are two axes: "conv", then "outputs". With
# blocks outputs and channels each are two: "block", and what is in it.
_SPANS = {
    "filters": {"taps", "channels"},
    "channels": {"taps", "outputs"},
    "shapes": {"outputs"},
    "depth": {"taps", "channels", "outputs", "conv"},
    "blocks": {"channels", "outputs"},
}
GROUPS = tuple(_SPANS)
_SCALES: dict[str | None, Callable[[int], float]] = {None: lambda size: 1.0, "sqrt": math.sqrt}


@keras.saving.register_keras_serializable(package="tfcompress")
class GroupLasso(keras.regularizers.Regularizer):
    """Group lasso: the sum of the norms of groups of weights, which becomes zero group by group.

        strength * sum_g scale_g * ||w_g||_2

    Read as a matrix, a kernel has one row per output and one column per tap and input channel. The
    groups of Wen et al. (2016), section 3, are:

    * `"filters"`: the rows, what one output is made with. `tfcompress.remove_zeroed` removes them.
    * `"channels"`: all that reads one input channel.
    * `"shapes"`: the columns, what reads one input channel at one tap. `tfcompress.compact` leaves
      empty ones out. In a convolution with groups each has columns of its own.
    * `"depth"`: the whole kernel; only where a shortcut goes around the layer.

    And for kernels that leave out blocks, such as those of `tfcompress.load_delegate`:

    * `"blocks"`: `block=(outputs, inputs)` neighbouring entries of the matrix: `(16, 4)`, `(1, 4)`.

    Rows and columns together: `Sum([GroupLasso("filters"), GroupLasso("shapes")])`.

    The gradient of a group is `strength * scale * w_g / ||w_g||_2`, exactly, and 0 where the group is
    zero. It alone does not stop at zero but swings around it by a step of the optimizer: add
    `constraints.Threshold`, as the paper's code does, or use `constraints.Proximal` instead of the
    penalty.

    Args:
        groups: one of the five.
        strength: the factor, called lambda_g in the paper; 1e-3 is that of its AlexNet. It can be
            set while the model trains: on TensorFlow it counts from the next step on, on JAX after
            `model.make_train_function(force=True)`, as `callbacks.ReachSparsity` calls it.
        size_scaling: scale_g. None for 1, as in the paper's code; `"sqrt"` for the square root of the
            number of weights in the group, so that big groups do not die last for being big.
        outputs: the axis (or axes) of the kernel that runs over outputs.
        channels: the axis (or axes) that runs over input channels. The others are taps. The defaults
            are those of Dense and Conv; a transposed convolution has `outputs=-2, channels=-1`, a
            depthwise one `outputs=(-2, -1), channels=()`.
        conv_groups: the convolution's `groups`.
        block: of `"blocks"`, how many outputs and input channels are in one.

    Shapes:
        kernel: any, two axes or more. Result: scalar.

    Raises:
        ValueError: the groups or the scaling are unknown, the strength is negative or not finite, blocks
            have no sizes; when called: the kernel lacks an axis, it has no channels of its own to group by,
            or blocks do not divide it.

    Departs from the paper: squares below what the dtype can hold count as zero (in float32, weights
    below 1e-19).

    Wei Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016, equations 3-6.

    >>> kernel = np.zeros((1, 1, 2, 2), "float32")
    >>> kernel[0, 0, :, 0] = 3, 4
    >>> lasso = GroupLasso("filters", 0.5)
    >>> float(lasso(kernel)), lasso.zeroed(kernel).tolist()
    (2.5, [False, True])
    """

    def __init__(
        self,
        groups: str = "filters",
        strength: float = 1e-3,
        *,
        size_scaling: str | None = None,
        outputs: int | Sequence[int] = -1,
        channels: int | Sequence[int] = -2,
        conv_groups: int = 1,
        block: Sequence[int] | None = None,
    ):
        check_choice("groups", groups, GROUPS)
        self.block = _checked_block(groups, block)
        check_choice("size_scaling", size_scaling, _SCALES)
        self.groups, self.size_scaling, self.conv_groups = groups, size_scaling, conv_groups
        self.outputs, self.channels = _axes(outputs), _axes(channels)
        if conv_groups < 1 or (conv_groups > 1 and len(self.outputs) != 1):
            raise ValueError(
                f"conv_groups={conv_groups} with outputs={self.outputs}: it must be 1 or more, and "
                "more than 1 only where one axis runs over the outputs."
            )
        self._strength = _checked_strength(strength)
        self._variable = keras.Variable(self._strength, trainable=False, dtype="float32", name="strength")

    @property
    def strength(self) -> float:
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._strength = _checked_strength(value)
        self._variable.assign(self._strength)

    def __call__(self, kernel: Any) -> Any:
        kernel = self._split(ops.convert_to_tensor(kernel))
        return (
            ops.cast(self._variable, kernel.dtype) * self._scale(kernel.shape) * ops.sum(self._norms(kernel))
        )

    def norms(self, kernel: Any) -> Any:
        """The norm of every group, `(groups,)`."""
        return ops.reshape(self._norms(self._split(ops.convert_to_tensor(kernel))), (-1,))

    def proximal(self, kernel: Any, step: Any) -> Any:
        """The proximal operator of `step` times this penalty.

            w_g <- max(0, 1 - step * strength * scale_g / ||w_g||_2) * w_g

        It makes a group exactly zero if `||w_g||_2 <= step * strength * scale_g`.
        """
        whole = ops.convert_to_tensor(kernel)
        split = self._split(whole)
        norms = self._norms(split)
        least = ops.cast(step * self._variable * self._scale(split.shape), split.dtype)
        lives = norms > least
        left = ops.where(lives, 1 - least / ops.where(lives, norms, ops.ones_like(norms)), 0)
        return ops.reshape(split * ops.cast(left, split.dtype), whole.shape)

    def zeroed(self, kernel: Any, threshold: float = 0.0) -> np.ndarray:
        """Which groups have no weight above the threshold in magnitude: bool `(groups,)`."""
        return ~self._alive(_array(kernel), threshold).ravel()

    def mask(self, kernel: Any, threshold: float = 0.0) -> np.ndarray:
        """The same for every weight: bool of the kernel's shape, False where its group is zero."""
        array = _array(kernel)
        return self.spread(~self.zeroed(array, threshold), array.shape)

    def spread(self, values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """From one value per group, `(groups,)`, to one per weight of a kernel of this shape."""
        split = self._split_shape(tuple(shape))
        spanned = self._spanned(len(split))
        kept = [1 if axis in spanned else size for axis, size in enumerate(split)]
        return np.broadcast_to(values.reshape(kept), split).reshape(shape)

    def lives(self, kernel: Any, strength: float) -> np.ndarray:
        """`||w_g|| / (strength * scale_g)`, `(groups,)`: how much shrinking a group outlasts.

        It tells which groups go first, across kernels of different sizes and penalties.
        """
        shape = self._split_shape(_array(kernel).shape)
        return np.asarray(ops.convert_to_numpy(self.norms(kernel))) / (strength * self._scale(shape))

    def for_layout(
        self, outputs: Sequence[int], channels: Sequence[int], conv_groups: int = 1
    ) -> "GroupLasso":
        """The same penalty for a kernel of another layout."""
        config = self.get_config() | {"outputs": outputs, "channels": channels, "conv_groups": conv_groups}
        return type(self).from_config(config)

    def check(self, shape: Sequence[int]) -> None:
        """Raises `ValueError` unless a kernel of this shape can be grouped so."""
        self._spanned(len(self._split_shape(tuple(shape))))

    def get_config(self) -> dict[str, Any]:
        return {
            "groups": self.groups,
            "strength": self.strength,
            "size_scaling": self.size_scaling,
            "outputs": list(self.outputs),
            "channels": list(self.channels),
            "conv_groups": self.conv_groups,
            "block": None if self.block is None else list(self.block),
        }

    def _scale(self, split_shape: Sequence[int]) -> float:
        """scale_g; all groups of a kernel are of one size."""
        spanned = self._spanned(len(split_shape))
        return _SCALES[self.size_scaling](math.prod(split_shape[axis] for axis in spanned))

    def _norms(self, split: Any) -> Any:
        """Of the split kernel, every spanned axis of length 1.

        The inner `where` keeps the square root, whose slope at 0 is infinite, away from 0, so that
        the gradient there is 0 and not NaN; the outer one gives the norm its value.
        """
        squares = ops.sum(ops.square(split), axis=self._spanned(len(split.shape)), keepdims=True)
        alive = squares > 0
        roots = ops.sqrt(ops.where(alive, squares, ops.ones_like(squares)))
        return ops.where(alive, roots, ops.zeros_like(squares))

    def _alive(self, array: np.ndarray, threshold: float) -> np.ndarray:
        split = np.abs(array.reshape(self._split_shape(array.shape)))
        return (split > threshold).any(axis=self._spanned(split.ndim), keepdims=True)

    def _split(self, kernel: Any) -> Any:
        """The kernel with axes of their own for convolution groups and for what is in a block."""
        shape = tuple(kernel.shape)
        split = self._split_shape(shape)
        return kernel if split == shape else ops.reshape(kernel, split)

    def _split_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        axes = zip(shape, self._roles(len(shape)), strict=True)
        return tuple(part for size, role in axes for part in self._sizes(size, role))

    def _sizes(self, size: int, role: str) -> list[int]:
        """What an axis of this size is split into."""
        outer = [self.conv_groups] if role == "outputs" and self.conv_groups > 1 else []
        inner = [self.block[role == "channels"]] if self.block and role in _SPANS["blocks"] else []
        middle, rest = divmod(size, math.prod(outer + inner))
        if rest:
            blocks = f"Blocks of {self.block} (outputs, inputs)" if inner else ""
            conv = f"{self.conv_groups} convolution groups" if outer else ""
            raise ValueError(f"{' in '.join(filter(None, (blocks, conv)))} do not divide {size} {role}.")
        return [*outer, middle, *inner]

    def _spanned(self, rank: int) -> tuple[int, ...]:
        """The axes of the split kernel that one group runs over."""
        whole = rank - (self.conv_groups > 1) - 2 * (self.block is not None)
        names = [name for role in self._roles(whole) for name in self._names(role)]
        return tuple(axis for axis, name in enumerate(names) if name in _SPANS[self.groups])

    def _names(self, role: str) -> list[str]:
        """Of what an axis is split into."""
        outer = ["conv"] if role == "outputs" and self.conv_groups > 1 else []
        return [*outer, *(["block"] if self.block and role in _SPANS["blocks"] else []), role]

    def _roles(self, rank: int) -> list[str]:
        axes = [axis + rank if axis < 0 else axis for axis in (*self.outputs, *self.channels)]
        if len(set(axes)) < len(axes) or not all(0 <= axis < rank for axis in axes):
            raise ValueError(
                f"A kernel of {rank} axes has no outputs {self.outputs} beside channels {self.channels}. "
                "Say which axes run over what: GroupLasso(outputs=..., channels=...)."
            )
        if self.groups == "channels" and not self.channels:
            raise ValueError(
                "This kernel has no axis of input channels: each output has one of its own, as in a "
                "depthwise convolution. Use groups='filters'."
            )
        if self.block and (len(self.outputs), len(self.channels)) != (1, 1):
            raise ValueError(
                f"Blocks need one axis of outputs and one of channels, got outputs={self.outputs} and "
                f"channels={self.channels}. Leave the layer out."
            )
        named = dict.fromkeys(axes, "channels") | dict.fromkeys(axes[: len(self.outputs)], "outputs")
        return [named.get(axis, "taps") for axis in range(rank)]


@keras.saving.register_keras_serializable(package="tfcompress")
class Sum(keras.regularizers.Regularizer):
    """Several penalties on one kernel, such as group lasso over rows and over columns, and L2.

    Args:
        members: Keras regularizers. A `Sum` among them is taken apart.

    Raises:
        ValueError: there is none, or one cannot be called.

    >>> penalty = Sum([GroupLasso("filters", 1.0), keras.regularizers.L2(1.0)])
    >>> float(penalty(np.array([[3.0], [4.0]], "float32")))
    30.0
    """

    def __init__(self, members: Sequence[Any]):
        self.members: list[Any] = []
        for member in members:
            self.members += member.members if isinstance(member, Sum) else [member]
        if not self.members or not all(callable(member) for member in self.members):
            raise ValueError(f"Expected a list of regularizers, got {members!r}.")

    def __call__(self, kernel: Any) -> Any:
        return sum((member(kernel) for member in self.members[1:]), self.members[0](kernel))

    def proximal(self, kernel: Any, step: Any) -> Any:
        """One member's step after the other; exact only where their groups have no weight in common."""
        for member in self.members:
            kernel = member.proximal(kernel, step)
        return kernel

    def for_layout(self, outputs: Sequence[int], channels: Sequence[int], conv_groups: int = 1) -> "Sum":
        """The same penalties for a kernel of another layout."""
        return Sum([for_layout(member, outputs, channels, conv_groups) for member in self.members])

    def check(self, shape: Sequence[int]) -> None:
        """Raises `ValueError` unless a kernel of this shape can be grouped so."""
        for lasso in lassos(self):
            lasso.check(shape)

    def get_config(self) -> dict[str, Any]:
        return {"members": [keras.saving.serialize_keras_object(member) for member in self.members]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Sum":
        return cls([keras.saving.deserialize_keras_object(member) for member in config["members"]])


def for_layout(penalty: Any, outputs: Sequence[int], channels: Sequence[int], conv_groups: int = 1) -> Any:
    """The penalty (or constraint) for a kernel of this layout; the same one if it knows no groups."""
    if not hasattr(penalty, "for_layout"):
        return penalty
    return penalty.for_layout(outputs, channels, conv_groups)


def lassos(penalty: Any) -> list[GroupLasso]:
    """The `GroupLasso`s in a regularizer or constraint, however they are combined."""
    if isinstance(penalty, GroupLasso):
        return [penalty]
    inner = [*getattr(penalty, "members", ()), getattr(penalty, "penalty", None)]
    return [lasso for part in inner if part is not None for lasso in lassos(part)]


def _checked_block(groups: str, block: Sequence[int] | None) -> tuple[int, int] | None:
    if groups != "blocks" and block is not None:
        raise ValueError(f"block={block!r} goes with groups='blocks', not with {groups!r}.")
    if groups != "blocks":
        return None
    sizes = tuple(block) if isinstance(block, Sequence) else ()
    if len(sizes) != 2 or not all(map(is_whole, sizes)):
        raise ValueError(f"groups='blocks' needs block=(outputs, inputs), such as (16, 4), got {block!r}.")
    return int(sizes[0]), int(sizes[1])


def _axes(axes: int | Sequence[int]) -> tuple[int, ...]:
    return (axes,) if isinstance(axes, int) else tuple(axes)


def _checked_strength(value: float) -> float:
    check_number("strength", value, "[0, inf)")
    return float(value)


def _array(kernel: Any) -> np.ndarray:
    return to_numpy(kernel) if isinstance(kernel, keras.Variable) else np.asarray(kernel)
