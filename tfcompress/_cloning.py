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
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress import _calls
from tfcompress._arrays import to_numpy

Configure = Callable[[str], dict]
Rearrange = Callable[[str, int, Any], Any]
Take = Callable[[str, int, np.ndarray], np.ndarray]
Convert = Callable[[str, Any, Callable[[Any], Any]], Any]


def _same_config(path: str) -> dict:
    return {}


def _same_arguments(path: str, call: int, args: Any) -> Any:
    return args


def _same_array(path: str, index: int, array: np.ndarray) -> np.ndarray:
    return array


def _same_operation(path: str, operation: Any, copied: Callable[[Any], Any]) -> Any:
    return copied(operation)


def _as_it_is(new: keras.Model) -> None:
    pass


def clone(model: keras.Model) -> keras.Model:
    """An independent copy: the same layers, weights, compile and optimizer state."""
    return copy(model)


def copy(
    model: keras.Model,
    *,
    configure: Configure = _same_config,
    rearrange: Rearrange = _same_arguments,
    take: Take = _same_array,
    convert: Convert = _same_operation,
    finish: Callable[[keras.Model], None] = _as_it_is,
) -> keras.Model:
    """Builds the model again and carries over what it has learned.

    The copy has the weights, the trainable flags of layers and of single variables, the regularizers and
    constraints that were set on variables, the compile state and the optimizer's state. Initializers that
    hold arrays become zeros, since an array fits one shape only.

    Args:
        model: a functional or built Sequential model; it is not changed.
        configure: layer path -> entries that replace those of the layer's config.
        rearrange: (path, call number, positional arguments) -> the arguments of the new call.
        take: (path, weight index, array) -> the array for the new weight. It is applied to the
            optimizer's slots of that weight, too.
        convert: (path, operation, function that copies an operation) -> what is called in the
            operation's place: its copy, or that in a wrapper, or the copy of what it wraps.
        finish: what is done to the copy once it has its weights, before it is compiled.

    Raises:
        ValueError: the model is subclassed or not built, a layer cannot be copied, or a new weight does
            not fit.
    """
    _calls.check_functional(model)
    paths = {id(operation): path for path, operation in _calls.walk(model)}
    with keras.saving.custom_object_scope(_custom_objects(model)):
        builder = _Builder(paths, configure, rearrange, convert)
        new = builder.model(model)
        _carry_trainable([("", model, new), *builder.pairs])
        partners = list(_partners(builder.pairs, take))
        for partner in partners:
            partner.new.assign(partner.fit(to_numpy(partner.old)))
            partner.new.trainable = partner.old.trainable
            _carry_rules(partner, configure)
        finish(new)
        carry_training(model, new, partners)
    return new


def fresh(model: keras.Model) -> keras.Model:
    """The same layers with new weights, compiled as `model` is, with an optimizer that has not begun.

    Raises:
        ValueError: see `copy`.
    """
    _calls.check_functional(model)
    paths = {id(operation): path for path, operation in _calls.walk(model)}
    with keras.saving.custom_object_scope(_custom_objects(model)):
        builder = _Builder(paths)
        new = builder.model(model)
        _carry_trainable([("", model, new), *builder.pairs])
        _compile_alike(model, new)
    return new


class _Builder:
    """Makes one new operation for each old one, and calls it as the old one was called."""

    def __init__(
        self,
        paths: dict[int, str],
        configure: Configure = _same_config,
        rearrange: Rearrange = _same_arguments,
        convert: Convert = _same_operation,
    ):
        self.paths, self.configure, self.rearrange, self.convert = paths, configure, rearrange, convert
        self.copies: dict[int, tuple[Any, Any]] = {}
        self.stand_ins: dict[int, Any] = {}

    @property
    def pairs(self) -> list[tuple[str, Any, Any]]:
        """(path, operation, its copy) of all that was copied."""
        return [(self.paths[key], old, made) for key, (old, made) in self.copies.items()]

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
            return _calls.made_like(model, [self.stand_in(layer) for layer in layers])
        structures = (recipe.inputs, recipe.outputs)
        inputs, outputs = keras.tree.map_structure(values.get, structures)
        return _calls.made_like(model, inputs, outputs)

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
        config = settings(operation) | self.configure(self.paths[id(operation)])
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


def settings(operation: Any) -> dict[str, Any]:
    """The config that an operation can be made again from, in another shape, too.

    Initializers that hold arrays are zeros, and functions without names are the very same.
    """
    config = _without_arrays(_calls.config_of(operation))
    return {key: _live(operation, key, value) for key, value in config.items()}


def _live(operation: Any, key: str, value: Any) -> Any:
    """A function without a name cannot be found by its config: the copy gets the very same one."""
    live = getattr(operation, key, None)
    nameless = getattr(live, "__name__", "") == "<lambda>"
    return live if nameless or (isinstance(operation, keras.layers.Lambda) and key == "function") else value


def _without_arrays(config: dict) -> dict:
    """A config without initial values that fit one shape only: the copy may have another, and gets values."""
    arrays = [key for key, value in config.items() if key.endswith("initializer") and _holds_array(value)]
    return config | dict.fromkeys(arrays, "zeros")


def _holds_array(initializer: Any) -> bool:
    settings = initializer.get("config") if isinstance(initializer, dict) else None
    return isinstance(settings, dict) and any(isinstance(v, (dict, list, tuple)) for v in settings.values())


def _carry_trainable(pairs: list) -> None:
    for _, old, new in sorted(pairs, key=lambda pair: pair[0].count("/")):
        if isinstance(old, keras.layers.Layer) and new.trainable != old.trainable:
            new.trainable = old.trainable


class Partner(NamedTuple):
    """A variable of a model and its counterpart in the copy.

    `fit` makes of an array that is shaped like the one an array that is shaped like the other.
    """

    path: str
    old: keras.Variable
    new: keras.Variable
    fit: Callable[[np.ndarray], np.ndarray] = np.asarray


def equal_weights(model: keras.Model, new: keras.Model) -> list[Partner]:
    """The weights that two models have at the same path, under the same number, in the same shape."""
    held = {(path, index): weight for path, index, weight in _calls.weights(model)}
    return [
        Partner(path, held[path, index], weight)
        for path, index, weight in _calls.weights(new)
        if (path, index) in held and held[path, index].shape == weight.shape
    ]


def _partners(pairs: list, take: Take) -> Iterator[Partner]:
    for path, old, new in pairs:
        if not isinstance(old, keras.layers.Layer):
            continue
        places = {id(weight): index for index, weight in enumerate(old.weights)}
        for variable, made in _variable_pairs(path, _calls.own_variables(old), _calls.own_variables(new)):
            index = places.get(id(variable))
            fit = np.asarray if index is None else functools.partial(take, path, index)
            yield Partner(path, variable, made, fit)


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


def _carry_rules(partner: Partner, configure: Configure) -> None:
    """The regularizer and the constraint, where they were set on the variable and not in the config."""
    for kind in ("regularizer", "constraint"):
        rule, made = getattr(partner.old, kind), getattr(partner.new, kind)
        if _alike(rule, made) or any(_alike(made, value) for value in configure(partner.path).values()):
            continue
        try:
            setattr(partner.new, kind, _again(rule))
        except _UNREPEATABLE:
            # It is not shared: it may hold an array, such as a mask, that fits this one variable.
            warnings.warn(
                f"The {kind} on '{partner.old.path}' is not in the copy, because its class "
                f"({type(rule).__name__}) has no get_config() that tells all of it.",
                stacklevel=2,
            )


def _alike(one: Any, other: Any) -> bool:
    if one is other:
        return True
    serialize = keras.saving.serialize_keras_object
    return type(one) is type(other) and hasattr(one, "get_config") and serialize(one) == serialize(other)


_UNREPEATABLE = (TypeError, ValueError, NotImplementedError)


def _again(thing: Any) -> Any:
    """Made anew from its config; the very same if it has none, as functions have none."""
    if not hasattr(thing, "get_config"):
        return thing
    return type(thing).from_config(_calls.config_of(thing))


def _again_or_shared(thing: Any) -> Any:
    try:
        return _again(thing)
    except _UNREPEATABLE:
        return thing


def carry_training(model: keras.Model, new: keras.Model, partners: list[Partner]) -> None:
    """Compiles `new` as `model` was compiled, and carries the optimizer's state.

    Slots go with the weights they belong to, whichever of these were trained when `model` was compiled, and
    are now. Those of weights that have no partner, or none that was trained, begin anew.
    """
    optimizer = _compile_alike(model, new)
    if optimizer is not None:
        _carry_exclusions(model.optimizer, optimizer, partners)
        optimizer.build(new.trainable_variables)
        _carry_state(model.optimizer, optimizer, partners)


def _compile_alike(model: keras.Model, new: keras.Model) -> Any:
    """Compiles `new` as `model` was compiled, and returns the optimizer it has then, if any."""
    if not model.compiled:
        return None
    with keras.saving.custom_object_scope(_custom_objects(model)):
        try:
            optimizer = _again(model.optimizer)
        except _UNREPEATABLE as error:
            warnings.warn(
                f"'{new.name}' is not compiled, because the optimizer of '{model.name}' cannot be "
                f"repeated from its config; call compile(). Keras says: {error}",
                stacklevel=3,
            )
            return None
        # Metrics count, so the copy has its own where it can; losses hold nothing, and are shared.
        arguments = _compiled_with(model)
        for kind in ("metrics", "weighted_metrics"):
            arguments[kind] = keras.tree.map_structure(_again_or_shared, arguments[kind])
    # The optimizer scales the loss already if it is to.
    new.compile(**arguments | {"optimizer": optimizer, "auto_scale_loss": False})
    return optimizer


def _carry_exclusions(old: Any, new: Any, partners: list[Partner]) -> None:
    excluded, names = _excluded_from_decay(_innermost(old), [partner.old for partner in partners])
    keys = set(map(id, excluded))
    copies = [partner.new for partner in partners if id(partner.old) in keys]
    if copies or names:
        _innermost(new).exclude_from_weight_decay(copies, names)


def _carry_state(old: Any, new: Any, partners: list[Partner]) -> None:
    if not old.built:
        return
    origins = {id(partner.new): partner for partner in partners}
    held = _by_owner(old)
    for (owner, kind), (weight, targets) in _by_owner(new).items():
        partner = origins.get(owner)
        key = owner if partner is None else id(partner.old)
        _, sources = held.get((key, kind), (None, []))
        fit = np.asarray if partner is None else partner.fit
        if len(sources) == len(targets):
            _assign(targets, [fit(to_numpy(source)) for source in sources])
        elif kind == "average":
            # A moving average that began at zero would replace the weight by next to nothing.
            _assign(targets, [to_numpy(weight)] * len(targets))


def _assign(targets: list[keras.Variable], values: list[np.ndarray]) -> None:
    for target, value in zip(targets, values, strict=True):
        if value.shape == tuple(target.shape):
            target.assign(value)


class _State(NamedTuple):
    """A variable of an optimizer, the weight it is a slot of, if of any, and what it is called."""

    variable: keras.Variable
    weight: keras.Variable | None
    kind: str


def _by_owner(optimizer: Any) -> dict[tuple[int, str], tuple[Any, list[keras.Variable]]]:
    """(`id()` of a weight or of None, kind) -> that weight, and the variables, in order."""
    found: dict = {}
    for state in _states(optimizer):
        found.setdefault((id(state.weight), state.kind), (state.weight, []))[1].append(state.variable)
    return found


def slots(optimizer: Any, variables: list) -> list[tuple[keras.Variable, keras.Variable]]:
    """(optimizer variable, the weight it belongs to) for every slot there is so far of these weights."""
    if not optimizer.built:
        return []
    wanted = set(map(id, variables))
    return [(state.variable, state.weight) for state in _states(optimizer) if id(state.weight) in wanted]


def add(model: keras.Model, weight: keras.Variable, change: np.ndarray) -> None:
    """Adds to a weight, and to the moving average that the optimizer would put in its place."""
    optimizer = getattr(model, "optimizer", None)
    states = _states(optimizer) if optimizer is not None and optimizer.built else []
    averages = [state.variable for state in states if state.weight is weight and state.kind == "average"]
    for variable in (weight, *averages):
        variable.assign(to_numpy(variable) + change)


def _states(optimizer: Any) -> list[_State]:
    """Every variable of a built optimizer.

    A second optimizer of the same config is built on the same weights while its
    `add_variable_from_reference`, through which every optimizer makes its slots, is watched.
    """
    probe = _again(optimizer)
    maker = _innermost(probe)
    made: dict[int, tuple[keras.Variable, str]] = {}
    make = maker.add_variable_from_reference

    def watched(reference_variable, name=None, *args, **kwargs):
        slot = make(reference_variable, name, *args, **kwargs)
        made[id(slot)] = (reference_variable, name or "")
        return slot

    maker.add_variable_from_reference = watched
    probe.build(_trained_by(optimizer))
    pairs = zip(optimizer.variables, probe.variables, strict=True)
    return [_State(variable, *made.get(id(twin), (None, twin.name))) for variable, twin in pairs]


def _innermost(optimizer: Any) -> Any:
    """The optimizer inside a LossScaleOptimizer."""
    return getattr(optimizer, "inner_optimizer", optimizer)


# Keras keeps these to itself. A test names them, so that a release that renames them is noticed.


def _trained_by(optimizer: Any) -> list[keras.Variable]:
    """The weights an optimizer was built on, which are not those that are trainable now."""
    return optimizer._trainable_variables


def _compiled_with(model: keras.Model) -> dict[str, Any]:
    """The arguments of `compile()` as they were given; `get_compile_config()` only describes them."""
    return dict(model._compile_config.config)


def _excluded_from_decay(optimizer: Any, weights: list) -> tuple[list[keras.Variable], list[str]]:
    """The arguments of `exclude_from_weight_decay()`: which of these weights, and parts of names."""
    keys: set = getattr(optimizer, "_exclude_from_weight_decay", set())
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    chosen = [weight for weight in weights if optimizer._var_key(weight) in keys]
    return chosen, [] if pattern is None else [pattern.pattern]


def _custom_objects(model: keras.Model) -> dict[str, Any]:
    """The user's own classes and functions that configs of this model may name."""
    holders = [operation for _, operation in _calls.walk(model)]
    if model.compiled and model.optimizer is not None:
        holders += [model.optimizer, _innermost(model.optimizer)]
    objects = [value for holder in holders for value in vars(holder).values()]
    found = {}
    for value in objects:
        named = value if callable(value) and hasattr(value, "__name__") else type(value)
        if not named.__module__.startswith(("keras.", "builtins")):
            found[named.__name__] = named
            found[keras.saving.get_registered_name(named)] = named
    return found
