"""Where to look at the activations of a layer: after its normalization and activation function."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
from keras import layers

from tfcompress import _calls
from tfcompress._calls import Call, Recipe, Ref
from tfcompress._checks import near_miss

# What a signal passes on its way to an activation function, and is looked at behind, even if none comes.
_PASSED = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Activation,  # a linear one; the others end the way
)
# What it passes too, but only if an activation function comes behind: it leaves channels apart, and mixes
# or repeats their positions.
_PASSED_IN_BETWEEN = tuple(
    getattr(layers, f"{kind}{rank}D")
    for kind in (
        "MaxPooling",
        "AveragePooling",
        "GlobalMaxPooling",
        "GlobalAveragePooling",
        "ZeroPadding",
        "Cropping",
        "UpSampling",
    )
    for rank in (1, 2, 3)
)
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Softmax)
_MERGES, _MERGING_OPS = (layers.Add,), {"Add"}
_PASSED_OPS_IN_BETWEEN = {"MaxPool", "AveragePool"}
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


@dataclass(frozen=True)
class Place:
    """Where something is called.

    Attributes:
        recipe: of the innermost model around it.
        name: of the operation in that recipe.
        call: which of its calls.
        outer: where that model is called; None for the outermost.
    """

    recipe: Recipe
    name: str
    call: int = 0
    outer: "Place | None" = None

    @property
    def operation(self) -> keras.Operation:
        return self.recipe.operations[self.name]


@dataclass(frozen=True)
class Site:
    """The tensor to look at for a layer: the first output of a call.

    Attributes:
        operation: whose output it is.
        call: which of its calls.
        activated: whether an activation function made it.
    """

    operation: keras.Operation
    call: int
    activated: bool


def operations(model: keras.Model, paths: Sequence[str]) -> dict[str, keras.Operation]:
    """layer path -> operation, for all of the model.

    Raises:
        ValueError: one of `paths` is not there.
    """
    found = dict(_calls.walk(model))
    for path in paths:
        if path.partition(":")[0] not in found:
            raise ValueError(near_miss("layer", path, found))
    return found


def owners(model: keras.Model) -> dict[str, Place]:
    """layer path -> where it is called first; a wrapped layer is at its wrapper."""
    paths = {id(operation): path for path, operation in _calls.walk(model)}
    found: dict[str, Place] = {}
    waiting: list[tuple[keras.Model, Place | None]] = [(model, None)]
    while waiting:
        inner, outer = waiting.pop()
        recipe = _calls.read(inner)
        for name, operation in recipe.operations.items():
            place = found[paths[id(operation)]] = Place(recipe, name, 0, outer)
            if _calls.is_functional(operation):
                waiting.append((operation, place))
            elif isinstance(operation, layers.TimeDistributed):
                found[paths[id(operation.layer)]] = place
    return found


def site(place: Place, *, merged: bool = True) -> Site:
    """The tensor to look at for the layer at `place`.

    From the layer's output the way goes on while one operation alone reads the signal, into and out
    of nested models, and that operation is a normalization, an addition, dropout, pooling or padding; it
    ends behind the first activation function. Where there is none, the tensor is the last one before
    any pooling and padding.

    Args:
        place: where the layer is called.
        merged: whether the way goes on behind an addition, where others' signals have joined.
    """
    found = Site(place.operation, 0, _has_activation(place.operation))
    if found.activated:
        return found
    settled = False
    for call in readers(place):
        if activates(call.operation):
            return Site(call.operation, call.index, True)
        merges = _is(call.operation, _MERGES, _MERGING_OPS)
        passed = (merges and merged) or _is(call.operation, _PASSED, set())
        if not passed and not _is(call.operation, _PASSED_IN_BETWEEN, _PASSED_OPS_IN_BETWEEN):
            break
        settled = settled or not passed
        found = found if settled else Site(call.operation, call.index, False)
    return found


def normalization(place: Place) -> layers.BatchNormalization | None:
    """The BatchNormalization that alone reads the layer's output, if there is one."""
    call = next(readers(place), None)
    return call.operation if call and isinstance(call.operation, layers.BatchNormalization) else None


def readers(place: Place) -> Iterator[Call]:
    """The calls that a signal goes through one after the other, as long as each is alone in reading it."""
    ref = Ref(place.name, place.call, 0)
    while True:
        calls = [call for call in place.recipe.calls if ref in call.inputs]
        outputs = [n for n, output in enumerate(keras.tree.flatten(place.recipe.outputs)) if output == ref]
        if len(calls) + len(outputs) != 1:
            return
        if outputs:
            if place.outer is None:
                return
            place = place.outer
            ref = Ref(place.name, place.call, outputs[0])
        elif _calls.is_functional(calls[0].operation):
            inside = _inside(place, calls[0], ref)
            if inside is None:
                return
            place, ref = inside
        else:
            yield calls[0]
            ref = Ref(calls[0].name, calls[0].index, 0)


def _inside(place: Place, call: Call, ref: Ref) -> tuple[Place, Ref] | None:
    """Where a nested model takes the signal in; None where several calls or inputs would be mixed up."""
    calls = [other for other in place.recipe.calls if other.operation is call.operation]
    recipe = _calls.read(call.operation)
    inputs = dict(enumerate(keras.tree.flatten(recipe.inputs)))
    taken = inputs.get(call.inputs.index(ref))
    if len(calls) != 1 or call.inputs.count(ref) != 1 or taken is None:
        return None
    return Place(
        recipe, taken.operation, taken.call, Place(place.recipe, call.name, call.index, place.outer)
    ), taken


def _has_activation(operation: keras.Operation) -> bool:
    """Whether a layer has an activation function of its own, or is one."""
    function = getattr(_wrapped(operation), "activation", None)
    return activates(operation) if function is None else function is not keras.activations.linear


def activates(operation: keras.Operation) -> bool:
    """Whether it is an activation function, and nothing else: channels stay what they are."""
    if not _is(operation, _ACTIVATIONS, _ACTIVATION_OPS):
        return False
    return getattr(_wrapped(operation), "activation", None) is not keras.activations.linear


def _is(operation: keras.Operation, classes: tuple, names: set[str]) -> bool:
    """Whether a layer is of one of the classes, or another operation of one of the names."""
    operation = _wrapped(operation)
    if not isinstance(operation, layers.Layer):
        return type(operation).__name__ in names
    return isinstance(operation, classes)


def _wrapped(operation: keras.Operation) -> keras.Operation:
    """The layer that TimeDistributed runs at every step."""
    return operation.layer if isinstance(operation, layers.TimeDistributed) else operation
