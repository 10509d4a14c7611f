"""Rules that hold after every step of training: exact zeros.

>>> import keras
>>> from tfcompress import regularizers
>>> lasso = regularizers.GroupLasso("filters", 1e-3)
>>> layer = keras.layers.Conv2D(16, 3, kernel_constraint=Proximal(lasso, step=0.01))

`tfcompress.attach(model, Proximal(lasso))` gives it to every kernel of a model.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfcompress._checks import check_number


@keras.saving.register_keras_serializable(package="tfcompress")
class Proximal(keras.constraints.Constraint):
    """The proximal step of a group lasso after each step of the optimizer: groups become exactly 0.

        w_g <- max(0, 1 - step * strength * scale_g / ||w_g||_2) * w_g

    Use it instead of the penalty, not beside it: the two together shrink twice.

    For plain SGD this is proximal gradient descent. Adam and the like scale each gradient, and this
    does not, so there the strength means something else. For `Sum`, such as filters and shapes, the
    steps are taken one after the other, which is exact only where groups have no weight in common.

    Args:
        penalty: a `regularizers.GroupLasso`, or a `regularizers.Sum` of some.
        step: the size of a step. None for the optimizer's learning rate at that very step, schedules
            included; train with `callbacks.FollowLearningRate()` then.

    Raises:
        ValueError: the penalty has no proximal step, or `step` is not above 0; when training begins:
            `step` is None and nobody follows the learning rate.

    Departs from the paper, whose code knows no proximal step but `Threshold`.

    Neal Parikh and Stephen Boyd, "Proximal Algorithms", 2014, sections 4.2 and 6.5.4.

    >>> import numpy as np
    >>> from tfcompress.regularizers import GroupLasso
    >>> kernel = np.array([[3.0, 0.3], [4.0, 0.4]], "float32")  # columns of norm 5 and 0.5
    >>> ops.convert_to_numpy(Proximal(GroupLasso("filters", 1.0), step=1.0)(kernel)).round(3)
    array([[2.4, 0. ], [3.2, 0. ]], dtype=float32)
    """

    def __init__(self, penalty: Any, step: float | None = None):
        for member in getattr(penalty, "members", [penalty]):
            if not hasattr(member, "proximal"):
                raise ValueError(
                    f"{type(member).__name__} has no proximal step. Expected a regularizers.GroupLasso or a "
                    "regularizers.Sum of some; keep other penalties as kernel_regularizer."
                )
        if step is not None:
            check_number("step", step, "(0, inf)", or_else="None")
        self.penalty, self.step = penalty, step
        self.optimizer: Any = None  # what `callbacks.FollowLearningRate` sets

    def __call__(self, kernel: Any) -> Any:
        return self.penalty.proximal(kernel, self._step())

    def for_layout(self, outputs: Sequence[int], channels: Sequence[int], conv_groups: int = 1) -> "Proximal":
        """The same step for a kernel of another layout."""
        return type(self)(self.penalty.for_layout(outputs, channels, conv_groups), self.step)

    def get_config(self) -> dict[str, Any]:
        return {"penalty": keras.saving.serialize_keras_object(self.penalty), "step": self.step}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Proximal":
        return cls(keras.saving.deserialize_keras_object(config["penalty"]), config["step"])

    def _step(self) -> Any:
        if self.step is not None:
            return self.step
        if self.optimizer is None:
            raise ValueError(
                "Proximal(step=None) takes the optimizer's learning rate, but does not know the optimizer: "
                "pass callbacks=[tfcompress.callbacks.FollowLearningRate()] to fit(), or give a step."
            )
        # Keras applies constraints at every batch, also while an optimizer only accumulates
        # gradients. Small steps add up to the whole one: shrinking by a, then by b, is by a + b.
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        return inner.learning_rate / (inner.gradient_accumulation_steps or 1)


@keras.saving.register_keras_serializable(package="tfcompress")
class Threshold(keras.constraints.Constraint):
    """Sets every weight below the limit in magnitude to 0: |w| < limit -> 0.

    A group lasso alone swings around zero; with this rule after every update, the one of the paper's
    code, its groups stay there. Choose the limit above what one step of the optimizer moves a
    dying weight, and far below the weights that live.

    Args:
        limit: the magnitude.

    Raises:
        ValueError: the limit is not above 0.

    https://github.com/wenwei202/caffe, branch scnn, `src/caffe/solvers/sgd_solver.cpp`: 1e-4.

    >>> import numpy as np
    >>> ops.convert_to_numpy(Threshold(0.1)(np.array([-0.2, 0.05, 0.1], "float32")))
    array([-0.2,  0. ,  0.1], dtype=float32)
    """

    def __init__(self, limit: float = 1e-4):
        check_number("limit", limit, "(0, inf)")
        self.limit = limit

    def __call__(self, kernel: Any) -> Any:
        kernel = ops.convert_to_tensor(kernel)
        return ops.where(ops.abs(kernel) < self.limit, ops.zeros_like(kernel), kernel)

    def get_config(self) -> dict[str, Any]:
        return {"limit": self.limit}


@keras.saving.register_keras_serializable(package="tfcompress")
class Chain(keras.constraints.Constraint):
    """Several constraints on one kernel, one after the other.

    Args:
        members: Keras constraints. A `Chain` among them is taken apart.

    Raises:
        ValueError: there is none, or one cannot be called.

    >>> import numpy as np
    >>> chain = Chain([keras.constraints.NonNeg(), Threshold(0.1)])
    >>> ops.convert_to_numpy(chain(np.array([-0.2, 0.05, 0.1], "float32"))) + 0
    array([0. , 0. , 0.1], dtype=float32)
    """

    def __init__(self, members: Sequence[Any]):
        self.members: list[Any] = []
        for member in members:
            self.members += member.members if isinstance(member, Chain) else [member]
        if not self.members or not all(callable(member) for member in self.members):
            raise ValueError(f"Expected a list of constraints, got {members!r}.")

    def __call__(self, kernel: Any) -> Any:
        for member in self.members:
            kernel = member(kernel)
        return kernel

    def for_layout(self, outputs: Sequence[int], channels: Sequence[int], conv_groups: int = 1) -> "Chain":
        """The same constraints for a kernel of another layout."""
        layout = outputs, channels, conv_groups
        return Chain([m.for_layout(*layout) if hasattr(m, "for_layout") else m for m in self.members])

    def get_config(self) -> dict[str, Any]:
        return {"members": [keras.saving.serialize_keras_object(member) for member in self.members]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Chain":
        return cls([keras.saving.deserialize_keras_object(member) for member in config["members"]])
