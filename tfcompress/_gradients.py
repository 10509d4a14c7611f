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
Pull = Callable[[list], Values]
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


def pullback(
    function: Callable[[Values], tuple[list, Any]], values: Values, state: list[keras.Variable]
) -> tuple[list, Any, Pull]:
    """Runs `function(values) -> (outputs, aside)` once, to be differentiated afterwards.

    Args:
        function: of tensors; it may read and assign variables.
        values: what is differentiated by.
        state: all variables that it reads.

    Returns:
        `outputs` and `aside`, and a function from derivatives of something by the outputs to name ->
        derivatives by the values. Those can be differentiated again, by whatever is watched around it.
    """
    return _PULLBACKS[keras.backend.backend()](function, values, state)


def _tensorflow_pullback(function: Any, values: Values, state: list) -> tuple[list, Any, Pull]:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        outputs, aside = function(values)

    def pull(slopes: list) -> Values:
        return tape.gradient(outputs, values, output_gradients=slopes, unconnected_gradients="zero")

    return outputs, aside, pull


def _jax_pullback(function: Any, values: Values, state: list) -> tuple[list, Any, Pull]:
    import jax

    def pure(values: Values) -> tuple[list, Any]:
        with keras.StatelessScope([(variable, variable.value) for variable in state]) as scope:
            outputs, aside = function(values)
        return outputs, (aside, [scope.get_current_value(variable) for variable in state])

    outputs, pull, (aside, assigned) = jax.vjp(pure, values, has_aux=True)
    for variable, value in zip(state, assigned, strict=True):
        if not variable.trainable:
            variable.assign(value)
    return outputs, aside, lambda slopes: pull(slopes)[0]


def _torch_pullback(function: Any, values: Values, state: list) -> tuple[list, Any, Pull]:
    import torch

    values = {name: value.detach().requires_grad_() for name, value in values.items()}
    outputs, aside = function(values)

    def pull(slopes: list) -> Values:
        found = torch.autograd.grad(
            outputs,
            list(values.values()),
            slopes,
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(values, found, strict=True))

    return outputs, aside, pull


_PULLBACKS = {"tensorflow": _tensorflow_pullback, "jax": _jax_pullback, "torch": _torch_pullback}
