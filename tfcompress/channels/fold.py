"""Fold channels that are constant into the biases of the layers that read them."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from tfcompress import _calls, _cloning
from tfcompress.channels.constants import Seen, unwrapped, watch
from tfcompress.channels.graph import ChannelGraph
from tfcompress.channels.ids import Ids, Keep
from tfcompress.channels.specs import stock_class

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
    """One tensor that one call of a layer reads.

    `path` and `layer` are those of the layer that has the weights: where `TimeDistributed` runs it, the
    one inside, and then `steps` counts the leading axes that are not its own. `values` is one
    image of what it reads, without batch axis, zero but for removed channels that are constant;
    `ids` are those of these channels.
    """

    path: str
    layer: Any
    steps: int
    values: np.ndarray
    ids: np.ndarray


def fold_constants(model: keras.Model, graph: ChannelGraph, keep: Mapping[str, np.ndarray]) -> keras.Model:
    """Returns a copy in which removed channels that are constant are added to biases instead.

    A filter that is all zero still sends a constant through BatchNormalization and activation. What
    the layer that reads it makes of that constant is added to this layer's bias (which it gets if it
    has none). Constant is what stays the same whatever the weighted layers before say wherever
    their filters are not zero (see `channels.constants`); channels that only look constant on some
    data are not folded. Readers are Dense and the convolutions, also grouped, separable and
    transposed ones, subclasses that inherit `call`, and those inside `TimeDistributed`.

    It is exact, to rounding, where every output sees the same of the constant. The mean over positions is
    added, and a warning says by how much single positions are off, where

    * the reader pads (`"same"`, `"causal"`): at the border it sees less of the constant;
    * the reader is transposed: there windows overlap in different numbers, at the border and, if the
      strides do not divide the kernel, everywhere;
    * the constant itself differs from position to position: behind ZeroPadding, or behind a depthwise
      convolution that pads. Where the model leaves its input size open, the mean is that at size 16.

    The channels are lost, their constants with them, and a warning names their group and the reader, where

    * the reader is of another kind: a recurrent layer, attention, a layer registered by the user, or a
      model inside `TimeDistributed`;
    * the reader is called several times and does not read the same constants each time.

    In training, too, it is exact only as long as the constant would have stayed one: in training mode Dropout
    in between would have varied it, and further steps would have changed it.

    The weights that read those channels are unchanged: follow up with `shrink`, as
    `shrink(..., fold_constants=True)` does.

    Raises:
        ValueError: as `shrink`.
    """
    shares: dict[str, np.ndarray] = {}
    readers: dict[str, Any] = {}
    for path, readings in _by_reader(model, graph, graph.keep_ids(keep)).items():
        fault = _fault(readings)
        if fault is None:
            shares[path], readers[path] = _share(readings[0]), readings[0].layer
        else:
            _say_lost(graph, readings, fault)
    lacking = {path for path in shares if not readers[path].use_bias}
    copy = _cloning.copy(model, configure=lambda path: {"use_bias": True} if path in lacking else {})
    targets = dict(_calls.walk(copy))
    for path, share in shares.items():
        bias = targets[path].bias
        if path in lacking:
            bias.assign(np.zeros(bias.shape))
        _cloning.add(copy, bias, share)
    return copy


# ------------------------------------------------------------------ who reads which constants


def _by_reader(model: keras.Model, graph: ChannelGraph, kept: Keep) -> dict[str, list[_Reading]]:
    """layer path -> all it reads, for layers that read removed constants."""
    readings: dict[str, list[_Reading]] = {}
    for seen in watch(model, _reads(model, graph), through=False):
        for reading in _readings(seen, graph.ledger.tensors[seen.path, seen.number], kept):
            readings.setdefault(reading.path, []).append(reading)
    return {path: found for path, found in readings.items() if any(len(r.ids) for r in found)}


def _reads(model: keras.Model, graph: ChannelGraph) -> Any:
    """operation -> whether it has weights, itself or inside, that read channels."""
    paths = [path for (path, _), axes in graph.ledger.axes.items() if any(a.reads for a in axes.values())]
    reading = {
        id(operation)
        for path, operation in _calls.walk(model)
        if any(f"{p}/".startswith(f"{path}/") for p in paths)
    }
    return lambda operation: id(operation) in reading and not _calls.is_functional(operation)


def _readings(seen: Seen, tensors: list[Any], kept: Keep) -> Iterator[_Reading]:
    inner, steps = unwrapped(seen.operation)
    path = "/".join([seen.path, *(layer.name for layer in inner)])
    layer = [seen.operation, *inner][-1]
    for ids, values, same in zip(tensors, seen.values, seen.same, strict=True):
        if not isinstance(ids, Ids) or len(ids.varying) != 1:
            continue
        by_channel = np.moveaxis(values, ids.varying[0], -1)
        places = tuple(range(values.ndim - 1))
        constant = np.moveaxis(same, ids.varying[0], -1).all(axis=places) & (by_channel != 0).any(axis=places)
        channels = ids.array.ravel()
        gone = constant & ~kept[channels]
        alone = np.moveaxis(by_channel * gone, -1, ids.varying[0])
        yield _Reading(path, layer, steps, alone, channels[gone])


def _fault(readings: list[_Reading]) -> str | None:
    """Why the bias of a layer cannot take the constants it reads; None if it can."""
    first, *others = readings
    if stock_class(first.layer, _READERS) is None:
        return f"{type(first.layer).__name__} cannot hold them in a bias"
    if any(not np.allclose(_mean(first), _mean(other), rtol=1e-5, atol=1e-6) for other in others):
        return "it is called several times and reads other constants each time"
    return None


def _say_lost(graph: ChannelGraph, readings: list[_Reading], fault: str) -> None:
    classes = graph.class_of[np.concatenate([reading.ids for reading in readings])]
    for group in graph.free:
        lost = np.isin(group.classes, classes)
        if lost.any():
            warnings.warn(
                f"{lost.sum()} channels of group '{group.name}' are constant, but what '{readings[0].path}' "
                f"makes of them is lost: {fault}.",
                stacklevel=4,
            )


# ------------------------------------------------------------------ what it makes of them


def _share(reading: _Reading) -> np.ndarray:
    """What goes into the bias, `(outputs,)`."""
    made, mean = _made(reading), _mean(reading)
    off = float(np.abs(made - mean).max())
    if off > 1e-6 * max(1.0, float(np.abs(mean).max())):
        warnings.warn(
            f"Constants folded into the bias of '{reading.path}' are exact only on average over positions: "
            f"padding, or windows that overlap unevenly, make them differ by up to {off:.2g} at some.",
            stacklevel=4,
        )
    return mean


def _mean(reading: _Reading) -> np.ndarray:
    made = _made(reading)
    return made.mean(axis=tuple(range(made.ndim - 1)))


def _made(reading: _Reading) -> np.ndarray:
    return contribution(reading.layer, reading.values.reshape(-1, *reading.values.shape[reading.steps :]))


def contribution(layer: Any, inputs: np.ndarray) -> np.ndarray:
    """What a reader makes of `inputs`, without bias and activation: `(batch, positions..., outputs)`."""
    stock: Any = stock_class(layer, _READERS)
    config = {**stock.get_config(layer), "dtype": layer.variable_dtype, "activation": None, "use_bias": False}
    linear = stock.from_config(config)
    linear.build(inputs.shape)
    for weight, source in zip(linear.weights, layer.weights, strict=False):
        weight.assign(source.value)
    made = np.asarray(keras.ops.convert_to_numpy(linear(inputs)), "float64")
    first = getattr(layer, "data_format", None) == "channels_first"
    return np.moveaxis(made, 1, -1) if first else made
