"""Where to look at the activations of a layer: after its normalization and activation function."""

import keras
from keras import layers

from tfcompress import _calls
from tfcompress._calls import Ref

# What a signal passes between a convolution and its activation function.
_PASSED = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.Add,
    layers.Dropout,
)
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Softmax)
_PASSED_OPS = {"Add"}
_ACTIVATION_OPS = {
    "Relu",
    "Relu6",
    "LeakyRelu",
    "Elu",
    "Gelu",
    "Silu",
    "Sigmoid",
    "HardSigmoid",
    "HardSilu",
    "Tanh",
}


def owners(model: keras.Model) -> dict[str, tuple[_calls.Recipe, str]]:
    """layer path -> (the recipe it is called in, its name there); a wrapped layer is at its wrapper."""
    paths = {id(operation): path for path, operation in _calls.walk(model)}
    found, waiting = {}, [model]
    while waiting:
        recipe = _calls.read(waiting.pop())
        for name, operation in recipe.operations.items():
            found[paths[id(operation)]] = (recipe, name)
            if _calls.is_functional(operation):
                waiting.append(operation)
            elif isinstance(operation, layers.TimeDistributed):
                found[paths[id(operation.layer)]] = (recipe, name)
    return found


def site(recipe: _calls.Recipe, name: str) -> Ref:
    """The tensor to look at for the layer `name` of the recipe's model.

    From the layer's output the walk goes on while one operation alone reads it and that operation
    is a normalization or an addition; it ends behind the first activation function. Where there is
    none, it is the last tensor reached.
    """
    ref = Ref(name, 0, 0)
    operation = recipe.operations[name]
    while not _activates(operation):
        readers = [call for call in recipe.calls if ref in call.inputs]
        if len(readers) != 1 or ref in keras.tree.flatten(recipe.outputs):
            break
        operation = readers[0].operation
        if not (_activates(operation) or _passes(operation)):
            break
        ref = Ref(operation.name, readers[0].index, 0)
    return ref


def _activates(operation: keras.Operation) -> bool:
    if not isinstance(operation, layers.Layer):
        return type(operation).__name__ in _ACTIVATION_OPS
    function = getattr(operation, "activation", None)
    if function is not None:
        return function is not keras.activations.linear
    return isinstance(operation, _ACTIVATIONS)


def _passes(operation: keras.Operation) -> bool:
    if not isinstance(operation, layers.Layer):
        return type(operation).__name__ in _PASSED_OPS
    return isinstance(operation, (*_PASSED, layers.Activation))


def normalization(recipe: _calls.Recipe, name: str) -> layers.BatchNormalization | None:
    """The BatchNormalization that alone reads the layer's output, if there is one."""
    readers = [call.operation for call in recipe.calls if Ref(name, 0, 0) in call.inputs]
    alone = len(readers) == 1 and isinstance(readers[0], layers.BatchNormalization)
    return readers[0] if alone else None
