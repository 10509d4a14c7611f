"""Gradients under any backend of Keras, which has no function for them of its own.

>>> import keras
>>> def cube(values):
...     return values["x"] ** 3, "seen on the way"
>>> aside, slopes = gradients(cube, {"x": keras.ops.convert_to_tensor(2.0)})
>>> aside, float(slopes["x"])
('seen on the way', 12.0)
"""

from collections.abc import Callable
from typing import Any

import keras

Values = dict[str, Any]
Function = Callable[[Values], tuple[Any, Any]]


def gradients(function: Function, values: Values) -> tuple[Any, Values]:
    """Differentiates `function(values) -> (scalar, aside)`.

    Returns:
        `aside`, and name -> derivative of the scalar by that value; zeros where it does not depend on it.
    """
    return _BACKENDS[keras.backend.backend()](function, values)


def _tensorflow(function: Function, values: Values) -> tuple[Any, Values]:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        scalar, aside = function(values)
    return aside, tape.gradient(scalar, values, unconnected_gradients="zero")


def _jax(function: Function, values: Values) -> tuple[Any, Values]:
    import jax

    found, aside = jax.grad(function, has_aux=True)(values)
    return aside, found


def _torch(function: Function, values: Values) -> tuple[Any, Values]:
    import torch

    with torch.enable_grad():
        values = {name: value.detach().requires_grad_() for name, value in values.items()}
        scalar, aside = function(values)
    found = torch.autograd.grad(scalar, list(values.values()), allow_unused=True, materialize_grads=True)
    return aside, dict(zip(values, found, strict=True))


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
