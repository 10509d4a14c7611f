"""Masks and shared values for a whole model: put on, and taken off again."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _cloning, _kernels
from tfcompress._arrays import to_numpy
from tfcompress._names import Patterns, chosen, shares
from tfcompress.layers.masked import MaskedLayer, has_adapters, is_masked
from tfcompress.layers.rules import MaskRule, masked_weights
from tfcompress.layers.shared import SharedLayer
from tfcompress.layers.substituted import SubstitutedLayer

Wrap = Callable[[keras.layers.Layer], keras.layers.Layer]


def wrap(
    model: keras.Model,
    wrapper: MaskRule | Wrap | Mapping[str, MaskRule | Wrap],
    *,
    include: Patterns = None,
    exclude: Patterns = None,
) -> keras.Model:
    """Returns a copy of a model in which layers with kernels are masked.

    Train it with `callbacks.UpdateMasks()`; then `strip` gives a stock Keras model with the masks folded in.
    The copy has the same layer names, weights, compile and optimizer state; with that it has the count of
    steps, on which schedules go: `compile()` it anew to begin at step 0. A class of your own is kept where
    its constructor takes `(inputs, outputs)`; where not, a warning says what is lost. Inside nested models
    layers are wrapped one by one, a layer in a Keras wrapper (TimeDistributed, Bidirectional) together with
    that.

    Args:
        model: a built functional or Sequential model. It is not changed.
        wrapper: a rule such as `MagnitudePruning(0.8)`; or a function from a layer to the layer that
            replaces it, such as `lambda layer: MaskedLayer(layer)`; or a dict from layer paths or regular
            expressions to such, of which the first match counts, and layers that none matches stay as they
            are.
        include: layer paths or regular expressions; only these layers are wrapped. Without it: all that have
            kernels and are not masked yet.
        exclude: likewise, these are not.

    Returns:
        The model; its attribute `left_alone` says of each other layer why it is not masked.

    Raises:
        ValueError: the model is subclassed (see `constrain`) or not built, a pattern matches no layer, a
            layer named by `include` or the dict has no kernel or is masked already, or a rule does not fit a
            layer.

    >>> x = keras.Input((8,))
    >>> model = keras.Model(x, keras.layers.Dense(4, name="head")(x))
    >>> from tfcompress.layers import MagnitudePruning
    >>> type(wrap(model, MagnitudePruning(0.5)).get_layer("head")).__name__
    'MaskedLayer'
    """
    _calls.check_functional(model)
    layers = dict(outermost(model))
    given = _given(layers, wrapper)
    named = wrapper if isinstance(wrapper, Mapping) else ()
    paths = [path for path in _maskable(model, layers, include, exclude, named) if path in given]
    if not paths:
        raise ValueError(
            f"No layer of '{model.name}' is left to mask: none of {list(given)} can be or is chosen."
        )
    for path in paths:
        _check_rule(given[path], path, layers[path])
    places = {path: place for place, path in enumerate(layers)}

    def convert(path: str, operation: Any, copied: Callable) -> Any:
        if path not in paths:
            return copied(operation)
        made = _made(given[path], copied(operation))
        if not isinstance(made, keras.layers.Layer):
            raise ValueError(f"The wrapper must return a layer, got {made!r} for '{path}'.")
        if isinstance(made, MaskedLayer):
            made.place = places[path]
        return made

    wrapped = _cloning.copy(model, convert=convert)
    wrapped.left_alone = left_alone(layers, paths)
    return wrapped


def left_alone(layers: Mapping[str, keras.layers.Layer], chosen: Collection[str]) -> dict[str, str]:
    """Path -> why a layer is not among the chosen ones."""
    reasons = _reasons(layers)
    return {path: reasons.get(path, "not chosen") for path in layers if path not in chosen}


def strip(model: keras.Model) -> keras.Model:
    """Returns a copy of a model without its wrappers: what masks hide is zero, weights that share values have
    them, and outputs are equal.

    The copy consists of the layers that were wrapped, under their names, and loads without tfcompress.

    Warns if a rule was to make masks and none hides anything: training lacked `callbacks.UpdateMasks()`.

    Args:
        model: a built functional or Sequential model. It is not changed.

    Raises:
        ValueError: the model is subclassed or not built, nothing in it is masked or shared, or something is
            within a layer of which this would not make a stock layer.
    """
    _calls.check_functional(model)
    wrappers = {path: op for path, op in _calls.walk(model) if isinstance(op, SubstitutedLayer)}
    if not wrappers:
        raise ValueError(f"'{model.name}' has no masked or shared layers, so there is nothing to strip.")
    masks = dict(_masks(model))

    def take(path: str, index: int, array: np.ndarray) -> np.ndarray:
        return np.where(masks[path, index], array, 0) if (path, index) in masks else array

    stripped = _cloning.copy(
        model,
        convert=lambda path, operation, copied: copied(operation.layer if path in wrappers else operation),
        take=take,
        finish=lambda new: _settle(model, new),
    )
    if left := masked_weights(stripped):
        raise ValueError(
            f"The mask of '{left[0].path}' is held by another layer, out of which it cannot be taken. Mask "
            "the outermost layer, as MaskedLayer(TimeDistributed(layer)) does."
        )
    ruled = any(getattr(wrapper, "rule", None) for wrapper in wrappers.values())
    if ruled and all(mask.all() for mask in masks.values()):
        warnings.warn(
            f"No mask of '{model.name}' hides anything, so that it comes back dense. Was it trained with "
            "callbacks=[tfcompress.callbacks.UpdateMasks()]?",
            stacklevel=2,
        )
    return stripped


def _settle(model: keras.Model, new: keras.Model) -> None:
    """Gives kernels the values they shared; they are trained again."""
    layers = dict(_calls.walk(new))
    for path, wrapper in _calls.walk(model):
        if not isinstance(wrapper, SharedLayer):
            continue
        for shared, (weight, _) in zip(wrapper.shared, _kernels.kernels(layers[path]), strict=True):
            weight.assign(shared.value)
            weight.trainable = shared.codebook.trainable


def maskable(
    model: keras.Model, include: Patterns = None, exclude: Patterns = None
) -> dict[str, keras.layers.Layer]:
    """Path -> the layers that `wrap` masks; see there."""
    _calls.check_functional(model)
    layers = dict(outermost(model))
    return {path: layers[path] for path in _maskable(model, layers, include, exclude)}


def _maskable(
    model: keras.Model,
    layers: Mapping[str, keras.layers.Layer],
    include: Patterns,
    exclude: Patterns,
    named: Collection[str] = (),
) -> list[str]:
    """The paths that are chosen and can be masked; those that are asked for must be."""
    reasons, paths = _reasons(layers), chosen(layers, include, exclude)
    asked = [path for path in paths if path in reasons and (include is not None or path in named)]
    if asked:
        raise ValueError(f"Layer '{asked[0]}' cannot be masked: {reasons[asked[0]]}.")
    paths = [path for path in paths if path not in reasons]
    if not paths:
        raise ValueError(f"No layer of '{model.name}' is left to mask: {reasons or 'all are excluded'}.")
    return paths


def _given(layers: Mapping[str, keras.layers.Layer], wrapper: Any) -> dict[str, MaskRule | Wrap]:
    """Path -> the rule or function for it."""
    for one in wrapper.values() if isinstance(wrapper, Mapping) and wrapper else [wrapper]:
        if not isinstance(one, MaskRule) and (isinstance(one, type) or not callable(one)):
            raise ValueError(
                "Expected a rule such as MagnitudePruning(0.5), a function from layer to layer, or a dict "
                f"from layers to such, got {one!r}."
            )
    return shares(layers, wrapper)


def _made(wrapper: MaskRule | Wrap, layer: keras.layers.Layer) -> Any:
    return MaskedLayer(layer, wrapper) if isinstance(wrapper, MaskRule) else wrapper(layer)


def outermost(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Every layer that is in no wrapper."""
    inside: set[int] = set()
    for path, operation in _calls.walk(model):
        inner = _calls.wrapped_layers(operation)
        inside.update(map(id, inner))
        if id(operation) in inside:
            inside.update(map(id, inner))
        elif isinstance(operation, keras.layers.Layer) and not _calls.is_functional(operation):
            yield path, operation


def _reasons(layers: Mapping[str, keras.layers.Layer]) -> dict[str, str]:
    """Path -> why a layer cannot be masked."""
    return {path: reason for path, layer in layers.items() if (reason := _why_not(layer))}


def _why_not(layer: keras.layers.Layer) -> str:
    if is_masked(layer):
        return "masked already"
    if has_adapters(layer):
        return "it has LoRA adapters, which no mask hides; save and load the model to merge them"
    return "" if _kernels.kernels(layer) else f"{type(layer).__name__} has no kernel"


def _check_rule(wrapper: MaskRule | Wrap, path: str, layer: keras.layers.Layer) -> None:
    if isinstance(wrapper, MaskRule):
        for weight, layout in _kernels.kernels(layer):
            wrapper.check(path, tuple(weight.shape), layout)


def _masks(model: keras.Model) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
    """(path, index in `layer.weights`) of every masked weight -> its mask."""
    for path, index, weight in _calls.weights(model):
        masked = getattr(weight, "masked", None)
        if masked is not None:
            yield (path, index), to_numpy(masked.mask)
