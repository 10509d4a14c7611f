"""Copy a model, with changes on the way: other configs, other weights, the same state of training.

>>> import keras
>>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
>>> copy = clone(model)
>>> bool((copy.get_weights()[0] == model.get_weights()[0]).all())
True
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfcompress import _calls
from tfcompress._arrays import to_numpy

Configure = Callable[[str], dict]
Rearrange = Callable[[str, int, Any], Any]
Take = Callable[[str, int, np.ndarray], np.ndarray]
Convert = Callable[[str, Any, Callable[[Any], Any]], Any]


def clone(model: keras.Model) -> keras.Model:
    """An independent copy: the same layers, weights, compile and optimizer state."""
    return copy(model)


def copy(
    model: keras.Model,
    *,
    configure: Configure = lambda path: {},
    rearrange: Rearrange = lambda path, call, args: args,
    take: Take = lambda path, index, array: array,
    convert: Convert = lambda path, operation, copied: copied(operation),
) -> keras.Model:
    """Builds the model again and carries over what it has learned.

    Args:
        model: a functional or built Sequential model; it is not changed.
        configure: layer path -> entries that replace those of the layer's config.
        rearrange: (path, call number, positional arguments) -> the arguments of the new call.
        take: (path, weight index, array) -> the array for the new weight. It is applied to the
            optimizer's slots of that weight, too.
        convert: (path, operation, function that copies an operation) -> what is called in the
            operation's place: its copy, or that in a wrapper, or the copy of what it wraps.

    Raises:
        ValueError: a layer cannot be copied, or a new weight does not fit.
    """
    paths = {id(operation): path for path, operation in _calls.walk(model)}
    with keras.saving.custom_object_scope(_custom_objects(model)):
        builder = _Builder(paths, configure, rearrange, convert)
        new = builder.model(model)
        pairs = [(paths[key], old, made) for key, (old, made) in builder.copies.items()]
        _carry_trainable(pairs)
        _carry_weights(pairs, take)
        _carry_training(model, new, _slices(pairs, take))
    return new


class _Builder:
    """Makes one new operation for each old one, and calls it as the old one was called."""

    def __init__(self, paths: dict[int, str], configure: Configure, rearrange: Rearrange, convert: Convert):
        self.paths, self.configure, self.rearrange, self.convert = paths, configure, rearrange, convert
        self.copies: dict[int, tuple[Any, Any]] = {}
        self.stand_ins: dict[int, Any] = {}

    def model(self, model: keras.Model) -> keras.Model:
        recipe = _calls.read(model)
        inputs = {
            ref: self.stand_in(recipe.operations[ref.operation]).output
            for ref in keras.tree.flatten(recipe.inputs)
        }

        def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
            args = self.rearrange(self.paths[id(step.operation)], step.index, args)
            return self.stand_in(step.operation)(*args, **kwargs)

        values = recipe.values(list(inputs.values()), call)
        if isinstance(model, keras.Sequential):
            layers = [*(recipe.operations[ref.operation] for ref in inputs), *model.layers]
            return keras.Sequential([self.stand_in(layer) for layer in layers], name=model.name)
        structures = (recipe.inputs, recipe.outputs)
        inputs, outputs = keras.tree.map_structure(values.get, structures)
        return keras.Model(inputs, outputs, name=model.name)

    def stand_in(self, operation: Any) -> Any:
        """What is called where the operation was called."""
        if id(operation) not in self.stand_ins:
            path = self.paths[id(operation)]
            self.stand_ins[id(operation)] = self.convert(path, operation, self.copied)
        return self.stand_ins[id(operation)]

    def copied(self, operation: Any) -> Any:
        if id(operation) not in self.copies:
            made = self.model(operation) if _calls.is_functional(operation) else self.operation(operation)
            self.copies[id(operation)] = (operation, made)
        return self.copies[id(operation)][1]

    def operation(self, operation: Any) -> Any:
        config = _calls.config_of(operation)
        config = {key: _live(operation, key, value) for key, value in config.items()}
        config |= self.configure(self.paths[id(operation)])
        if inner := _calls.wrapped_layers(operation):
            return self.wrapper(operation, inner, config)
        if isinstance(operation, keras.layers.Lambda):
            return type(operation)(**config)
        return type(operation).from_config(config)

    def wrapper(self, operation: Any, inner: list, config: dict) -> Any:
        config.update(zip(("layer", "backward_layer"), map(self.copied, inner), strict=False))
        made = type(operation)(**config)
        # Bidirectional wraps copies of what it is given, so the pairs are made from what it holds.
        for old, new in zip(inner, _calls.wrapped_layers(made), strict=True):
            self.copies[id(old)] = (old, new)
        return made


def _live(operation: Any, key: str, value: Any) -> Any:
    """A function without a name cannot be found by its config: the copy gets the very same one."""
    live = getattr(operation, key, None)
    nameless = getattr(live, "__name__", "") == "<lambda>"
    return live if nameless or (isinstance(operation, keras.layers.Lambda) and key == "function") else value


def _carry_trainable(pairs: list) -> None:
    for _, old, new in sorted(pairs, key=lambda pair: pair[0].count("/")):
        if isinstance(old, keras.layers.Layer) and new.trainable != old.trainable:
            new.trainable = old.trainable


def _layers(pairs: list) -> Iterator[tuple[str, keras.layers.Layer, keras.layers.Layer]]:
    return ((path, old, new) for path, old, new in pairs if isinstance(old, keras.layers.Layer))


def _carry_weights(pairs: list, take: Take) -> None:
    for path, old, new in _layers(pairs):
        places = {id(weight): index for index, weight in enumerate(old.weights)}
        for variable, target in _variable_pairs(path, _calls.own_variables(old), _calls.own_variables(new)):
            value = to_numpy(variable)
            index = places.get(id(variable))
            target.assign(value if index is None else take(path, index, value))


def _variable_pairs(path: str, old: list, new: list) -> Iterator[tuple[keras.Variable, keras.Variable]]:
    """In order; by name where the copy has more variables, such as a bias it was given."""
    if len(old) == len(new):
        yield from zip(old, new, strict=True)
        return
    named = {variable.name: variable for variable in new}
    for variable in old:
        if variable.name not in named:
            raise ValueError(
                f"The copy of layer '{path}' lacks its variable '{variable.name}': the layer's "
                "get_config() does not tell all that it is made of."
            )
        yield variable, named[variable.name]


def _slices(pairs: list, take: Take) -> dict[int, Callable[[np.ndarray], np.ndarray]]:
    """For each new weight, by `id()`: how an array shaped like the old weight becomes one for it."""
    return {
        id(weight): functools.partial(take, path, index)
        for path, _, new in _layers(pairs)
        for index, weight in enumerate(new.weights)
        if not _calls.is_functional(new) and not _calls.wrapped_layers(new)
    }


def _carry_training(model: keras.Model, new: keras.Model, slices: dict) -> None:
    """Compiles `new` as `model` was compiled, and carries the optimizer's state."""
    if not model.compiled:
        return
    try:
        new.compile_from_config(model.get_compile_config())
    except (TypeError, ValueError) as error:
        warnings.warn(
            f"'{new.name}' is not compiled, because the way '{model.name}' was compiled cannot be "
            f"repeated from its config; call compile(). Keras says: {error}",
            stacklevel=2,
        )
        return
    if model.optimizer is not None and model.optimizer.built:
        _carry_optimizer(model.optimizer, new.optimizer, new.trainable_variables, slices)


def _carry_optimizer(old: Any, new: Any, variables: list, slices: dict) -> None:
    references = _references(new, variables)
    for index, (source, target) in enumerate(zip(old.variables, new.variables, strict=True)):
        value = to_numpy(source)
        if index in references and source.shape != target.shape:
            value = slices[id(references[index])](value)
        if value.shape == tuple(target.shape):
            target.assign(value)


def slots(optimizer: Any, variables: list) -> list[tuple[keras.Variable, keras.Variable]]:
    """(optimizer variable, the model variable it belongs to) for every slot there is so far."""
    if not optimizer.built:
        return []
    references = _references(optimizer, variables)
    return [(optimizer.variables[index], reference) for index, reference in references.items()]


def _references(optimizer: Any, variables: list) -> dict[int, keras.Variable]:
    """For each optimizer variable, by number: the model variable it is a slot of.

    A second optimizer of the same config is built on the same variables while its
    `add_variable_from_reference`, through which every optimizer makes its slots, is watched.
    """
    probe = type(optimizer).from_config(optimizer.get_config())
    maker = getattr(probe, "inner_optimizer", probe)
    made: dict[int, keras.Variable] = {}
    make = maker.add_variable_from_reference

    def watched(reference_variable, *args, **kwargs):
        slot = make(reference_variable, *args, **kwargs)
        made[id(slot)] = reference_variable
        return slot

    maker.add_variable_from_reference = watched
    probe.build(variables)
    return {index: made[id(slot)] for index, slot in enumerate(probe.variables) if id(slot) in made}


def _custom_objects(model: keras.Model) -> dict[str, Any]:
    """The user's own classes and functions that configs of this model may name."""
    objects = [value for _, operation in _calls.walk(model) for value in vars(operation).values()]
    if model.compiled:
        objects += [*keras.tree.flatten(model.loss), model.optimizer, *model.metrics]
    found = {}
    for value in objects:
        named = value if callable(value) and hasattr(value, "__name__") else type(value)
        if not named.__module__.startswith(("keras.", "builtins")):
            found[named.__name__] = named
            found[keras.saving.get_registered_name(named)] = named
    return found
