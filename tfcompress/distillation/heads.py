"""Whether a model's outputs are logits or probabilities already.

>>> x = keras.Input((4,))
>>> head_of(keras.Model(x, keras.layers.Dense(3, activation="softmax")(x)))
['softmax']
>>> head_of(keras.Model(x, keras.layers.Dense(3)(x)))
['linear']
"""

from typing import Any

import keras

from tfcompress import _calls
from tfcompress._calls import Recipe, Ref

# What only moves values, or drops some while training: what is before it tells.
_PASSED = (
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.Dropout,
    keras.layers.Identity,
)
_PASSED_OPS = ("Reshape", "Transpose", "Squeeze", "ExpandDims", "Cast")
_KINDS = {keras.activations.softmax: "softmax", keras.activations.sigmoid: "sigmoid"}
_OPS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}


def head_of(model: keras.Model) -> list[str | None]:
    """For every output, in flat order: "softmax", "sigmoid", "linear", or None where nobody can tell."""
    if not _calls.is_functional(model):
        return [None] * max(1, len(getattr(model, "outputs", None) or []))
    recipe = _calls.read(model)
    return [_kind(recipe, ref) for ref in keras.tree.flatten(recipe.outputs)]


def _kind(recipe: Recipe, ref: Ref) -> str | None:
    call = next((one for one in recipe.calls if (one.name, one.index) == (ref.operation, ref.call)), None)
    if call is None:
        return None  # an input
    operation = call.operation
    if _calls.is_functional(operation):
        inner = _calls.read(operation)
        return _kind(inner, keras.tree.flatten(inner.outputs)[ref.index])
    if _passes(operation):
        return _kind(recipe, call.inputs[0])
    return _said_by(operation)


def _passes(operation: Any) -> bool:
    linear = (
        isinstance(operation, keras.layers.Activation) and operation.activation is keras.activations.linear
    )
    return linear or isinstance(operation, _PASSED) or _op_name(operation) in _PASSED_OPS


def _said_by(operation: Any) -> str | None:
    for layer in _calls.wrapped_layers(operation)[:1]:
        return _said_by(layer)
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    activation = getattr(operation, "activation", keras.activations.linear)
    if (
        isinstance(operation, keras.layers.Lambda)
        or not _of_keras(type(operation))
        or not _of_keras(activation)
    ):
        return None
    return _KINDS.get(activation) or _OPS.get(_op_name(operation), "linear")


def _of_keras(thing: Any) -> bool:
    return getattr(thing, "__module__", type(thing).__module__).startswith("keras.")


def _op_name(operation: Any) -> str:
    """The class of an operation that is no layer; nothing for a layer."""
    return "" if isinstance(operation, keras.layers.Layer) else type(operation).__name__
