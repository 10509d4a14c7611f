"""Weights that keep a value of their own while `model.fit` trains the others."""

from typing import Any

import keras
import numpy as np


def hold(weight: keras.Variable, value: np.ndarray) -> None:
    """Gives the weight this value, and it again after every step, under any optimizer, until `let_go`.

    A training step that was compiled before knows nothing of it: `make_train_function(force=True)`.
    """
    weight.assign(value)
    weight.constraint = _Held(value, _beneath(weight.constraint))


def let_go(model: keras.Model) -> None:
    """Lets all weights go that are held, also those of a training that ended in an error."""
    held = [weight for weight in model.weights if isinstance(weight.constraint, _Held)]
    for weight in held:
        weight.constraint = _beneath(weight.constraint)
    if held:
        model.make_train_function(force=True)


def _beneath(constraint: Any) -> Any:
    return constraint.before if isinstance(constraint, _Held) else constraint


class _Held(keras.constraints.Constraint):
    """The same value, whatever a step made of the weight; `before` is the constraint that rests meanwhile."""

    def __init__(self, value: np.ndarray, before: Any):
        # A tensor outside of the compiled step, which TensorFlow does not copy into its graph.
        self.value, self.before = keras.ops.convert_to_tensor(value), before

    def __call__(self, value: Any) -> Any:
        return self.value
