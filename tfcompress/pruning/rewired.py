"""A copy of a model in which some layers are others, and some calls are left out."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfcompress import _calls, _cloning
from tfcompress._arrays import to_numpy

Change = Callable[[Any, list], Any]


def rewired(
    model: keras.Model,
    *,
    layers: Mapping[str, keras.Layer] | None = None,
    calls: Mapping[tuple[str, int], Change] | None = None,
) -> keras.Model:
    """Returns a copy with other layers or calls in it; what no output depends on any more is gone.

    Weights, trainable flags, compile and optimizer state of what stays are carried over. A Sequential
    model comes back as one.

    Args:
        model: a built functional or Sequential model. It is not changed.
        layers: path of a layer -> the built layer that stands in for it, at all its calls.
        calls: (path, call number) -> function of the operation and the call's tensors, which gives
            the output instead.

    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, keras.layers.Add(name="twice")([x, x]))
    >>> len(rewired(model, calls={("twice", 0): lambda add, tensors: tensors[0]}).layers)
    1
    """
    copy = _cloning.clone(model)
    paths = {id(operation): path for path, operation in _calls.walk(copy)}
    made = _Rewiring(paths, layers or {}, calls or {}).model(copy)
    new = _cloning.clone(made)  # whose layers know nothing of the calls in the old graph
    _carry_training(copy, new)
    return new


class _Rewiring:
    """Calls the operations of a model again, in a graph of another shape."""

    def __init__(self, paths: Mapping[int, str], layers: Mapping, calls: Mapping):
        self.paths, self.layers, self.calls = paths, layers, calls
        self.made: dict[int, Any] = {}

    def model(self, model: keras.Model) -> keras.Model:
        recipe = _calls.read(model)
        sources = [recipe.operations[ref.operation] for ref in keras.tree.flatten(recipe.inputs)]
        inputs = [type(source).from_config(_calls.config_of(source)) for source in sources]
        if isinstance(model, keras.Sequential):
            return keras.Sequential([*inputs, *map(self.operation, model.layers)], name=model.name)
        values = recipe.values([layer.output for layer in inputs], self.call)
        structures = (recipe.inputs, recipe.outputs)
        return keras.Model(*keras.tree.map_structure(values.get, structures), name=model.name)

    def call(self, step: _calls.Call, args: Any, kwargs: dict) -> Any:
        change = self.calls.get((self.paths[id(step.operation)], step.index))
        if change is not None:
            return change(self.operation(step.operation), _symbols(args, kwargs))
        return self.operation(step.operation)(*args, **kwargs)

    def operation(self, operation: Any) -> Any:
        key = id(operation)
        if key not in self.made:
            nested = _calls.is_functional(operation)
            stand_in = self.layers.get(self.paths[key], operation)
            self.made[key] = self.model(operation) if nested else stand_in
        return self.made[key]


def _symbols(args: Any, kwargs: dict) -> list[keras.KerasTensor]:
    return [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, keras.KerasTensor)]


def _carry_training(model: keras.Model, new: keras.Model) -> None:
    """As in `_cloning`, for a model that may lack some of the variables and have others."""
    if not model.compiled:
        return
    with keras.saving.custom_object_scope(_cloning._custom_objects(model)):
        new.compile_from_config(model.get_compile_config())
    if model.optimizer is None or not model.optimizer.built:
        return
    new.optimizer.build(new.trainable_variables)
    held = {key: (slot, shape) for key, slot, shape in _states(model)}
    for key, slot, shape in _states(new):
        # A weight of another shape is another weight: its slots begin anew.
        if key in held and held[key][1] == shape:
            slot.assign(to_numpy(held[key][0]))


def _states(model: keras.Model) -> list[tuple[tuple, keras.Variable, tuple]]:
    """(key, optimizer variable, shape of its weight): slots by weight, the others by their order."""
    optimizer = model.optimizer
    weights = {id(weight): (path, index) for path, index, weight in _calls.weights(model)}
    slots = {
        id(slot): (weights[id(weight)], tuple(weight.shape))
        for slot, weight in _cloning.slots(optimizer, model.trainable_variables)
    }
    found: list[tuple[tuple, keras.Variable, tuple]] = []
    count: dict[tuple, int] = {}
    for variable in optimizer.variables:
        owner, shape = slots.get(id(variable), ((), ()))
        count[owner] = count.get(owner, 0) + 1
        found.append(((*owner, count[owner]), variable, shape))
    return found
