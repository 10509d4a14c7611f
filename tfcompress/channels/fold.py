"""Fold channels that are constant into the biases of the layers that read them."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from tfcompress import _calls, _cloning
from tfcompress._arrays import to_numpy
from tfcompress.channels.graph import ChannelGraph
from tfcompress.channels.ids import Axis

_READERS = (
    layers.Dense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)


class _Reading(NamedTuple):
    """One call of a layer that reads removed channels, and what it read from several images."""

    path: str
    layer: keras.layers.Layer
    inputs: np.ndarray
    axis: int
    removed: np.ndarray


def fold_constants(model: keras.Model, graph: ChannelGraph, keep: Mapping[str, np.ndarray]) -> keras.Model:
    """Returns a copy in which removed channels that are constant are added to biases instead.

    A filter that is all zero still sends a constant through BatchNormalization and activation.
    Here a channel counts as constant if random inputs leave it the same, position by position. What
    the reading layer makes of it is added to that layer's bias (which it gets if it has none). That
    is exact where the layer is Dense or does not pad; where padding makes the contribution
    differ between border and middle, the mean over positions is added, and a warning says by
    how much the border is off.

    The weights that read those channels are unchanged: follow up with `shrink`, as
    `shrink(..., fold_constants=True)` does.

    Raises:
        ValueError: as `shrink`.
    """
    readings = [r for r in _readings(model, graph, keep) if _constant(r).any()]
    lacking = {reading.path for reading in readings if not reading.layer.use_bias}
    copy = _cloning.copy(model, configure=lambda path: {"use_bias": True} if path in lacking else {})
    targets = dict(_calls.walk(copy))
    for reading in readings:
        share = _contribution(reading)
        mean = share.mean(axis=tuple(range(share.ndim - 1)))
        off = float(np.abs(share - mean).max())
        if off > 1e-6 * max(1.0, float(np.abs(mean).max())):
            warnings.warn(
                f"Constants folded into the bias of '{reading.path}' are exact only on average over "
                f"positions: its padding makes them differ by up to {off:.2g} at the border.",
                stacklevel=3,
            )
        bias = targets[reading.path].bias
        bias.assign(to_numpy(bias) + mean)
    return copy


def _readings(model: keras.Model, graph: ChannelGraph, keep: Mapping[str, np.ndarray]) -> Iterator[_Reading]:
    kept = graph.keep_ids(keep)
    for path, (layer, calls) in _inputs_of_readers(model).items():
        axes = [
            axis
            for (p, _), known in graph.ledger.axes.items()
            if p == path
            for axis in known.values()
            if axis.reads
        ]
        if len(calls) == 1 and axes and axes[0].ids.ndim == 1:
            inputs = calls[0]
            axis = 1 if getattr(layer, "data_format", None) == "channels_first" else inputs.ndim - 1
            removed = ~kept[_input_ids(axes[0], inputs.shape[axis])]
            if removed.any():
                yield _Reading(path, layer, inputs, axis, removed)


def _input_ids(axis: Axis, channels: int) -> np.ndarray:
    """The ids of a layer's inputs; a depth multiplier repeats them in its pointwise kernel."""
    return axis.ids[:: len(axis.ids) // channels]


def _inputs_of_readers(model: keras.Model) -> dict[str, tuple[Any, list[np.ndarray]]]:
    """layer path -> (layer, its input at each call), for three random images."""
    paths = {id(operation): path for path, operation in _calls.walk(model)}
    found: dict[str, tuple[Any, list[np.ndarray]]] = {}

    def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
        if _calls.is_functional(step.operation):
            return _calls.read(step.operation).run(_calls.tensors(args, kwargs), call)
        if type(step.operation) in _READERS:
            read = found.setdefault(paths[id(step.operation)], (step.operation, []))
            read[1].append(keras.ops.convert_to_numpy(args[0]))
        return step.operation(*args, **kwargs)

    _calls.read(model).run(_probes(model), call)
    return found


def _probes(model: keras.Model) -> list:
    rng = np.random.default_rng(0)
    shapes = [(3, *(size or 16 for size in tensor.shape[1:])) for tensor in model.inputs]
    return [
        keras.ops.cast(
            rng.normal(size=shape) if t.dtype.startswith("float") else rng.integers(0, 2, shape), t.dtype
        )
        for shape, t in zip(shapes, model.inputs, strict=True)
    ]


def _constant(reading: _Reading) -> np.ndarray:
    """Which of the removed channels are the same, and not zero, for all images."""
    first = np.moveaxis(reading.inputs, reading.axis, -1)
    places = tuple(range(first.ndim - 1))
    same = (first == first[:1]).all(axis=places)
    return same & (first != 0).any(axis=places) & reading.removed


def _contribution(reading: _Reading) -> np.ndarray:
    """What the layer makes of the constant channels alone, `(positions..., outputs)`."""
    shape = [1] * reading.inputs.ndim
    shape[reading.axis] = -1
    alone = reading.inputs[:1] * _constant(reading).reshape(shape)
    config = {**reading.layer.get_config(), "activation": None, "use_bias": False}
    linear = type(reading.layer).from_config(config)
    linear.build(alone.shape)
    for weight, source in zip(linear.weights, reading.layer.weights, strict=False):
        weight.assign(source.value)
    made = keras.ops.convert_to_numpy(linear(alone))[0]
    return np.moveaxis(made, 0, -1) if reading.axis == 1 and made.ndim > 1 else made
