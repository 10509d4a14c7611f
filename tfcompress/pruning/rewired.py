"""A copy of a model in which some layers are others, and some calls are left out."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfcompress import _calls, _cloning

Change = Callable[[Any, list], Any]


def rewired(
    model: keras.Model,
    *,
    layers: Mapping[str, Callable[..., Any]] | None = None,
    calls: Mapping[tuple[str, int], Change] | None = None,
) -> keras.Model:
    """Returns a copy with other layers or calls in it; what no output depends on any more is gone.

    Weights, trainable flags, compile and optimizer state of what stays are carried over. A Sequential
    model comes back as one, unless a change puts a bare operation or branches into it.

    Args:
        model: a built functional or Sequential model. It is not changed.
        layers: path of a layer -> what is called instead, at all its calls: a built layer, or a function that
            calls built layers.
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
    _cloning.carry_training(copy, new, _cloning.equal_weights(copy, new))
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
        values = recipe.values([layer.output for layer in inputs], self.call)
        structures = (recipe.inputs, recipe.outputs)
        inputs, outputs = keras.tree.map_structure(values.get, structures)
        if not isinstance(model, keras.Sequential):
            return _calls.made_like(model, inputs, outputs)
        made = keras.Model(inputs, outputs, name=model.name)
        return _calls.made_like(model, made.layers) if _is_chain(made) else made

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


def _is_chain(model: keras.Model) -> bool:
    """Whether nothing but layers is called, each once, on what the one before it gave."""
    recipe = _calls.read(model)
    before = keras.tree.flatten(recipe.inputs)
    for call in recipe.calls:
        if not isinstance(call.operation, keras.Layer) or call.index or call.inputs != before:
            return False
        before = [_calls.Ref(call.name, call.index, 0)]
    return keras.tree.flatten(recipe.outputs) == before


def _symbols(args: Any, kwargs: dict) -> list[keras.KerasTensor]:
    return [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, keras.KerasTensor)]
