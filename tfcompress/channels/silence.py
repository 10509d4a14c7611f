"""Silence channels: the model keeps its shape, but nothing reads them any more."""

from collections.abc import Mapping

import keras
import numpy as np

from tfcompress import _calls
from tfcompress.channels.graph import ChannelGraph
from tfcompress.channels.ids import Axis, Keep
from tfcompress.channels.shrink import check_same_model


def silence(model: keras.Model, graph: ChannelGraph, keep: Mapping[str, np.ndarray]) -> None:
    """Sets to zero, in place, every weight that reads a channel `keep` leaves out.

    The outputs become those of `shrink(model, graph, keep)`.

    Raises:
        ValueError: as `shrink`.
    """
    for weight, mask in reading_masks(model, graph, keep):
        weight.assign(keras.ops.convert_to_numpy(weight) * mask)


def reading_masks(model: keras.Model, graph: ChannelGraph, keep: Mapping[str, np.ndarray]):
    """Yields (weight, array that broadcasts to it: 1 = keep) for every weight that loses inputs."""
    check_same_model(model, graph)
    kept = graph.keep_ids(keep)
    for path, operation in _calls.walk(model):
        for index, weight in enumerate(getattr(operation, "weights", [])):
            reads = [axis for axis in graph.ledger.axes.get((path, index), {}).values() if axis.reads]
            if any(not kept[axis.ids].all() for axis in reads):
                yield weight, _mask(tuple(weight.shape), reads, kept).astype(weight.dtype)


def _mask(shape: tuple[int, ...], reads: list[Axis], keep: Keep) -> np.ndarray:
    mask = np.ones(shape, bool)
    for axis in reads:
        mask &= _along(keep[axis.ids], axis, shape)
    return mask


def _along(kept: np.ndarray, axis: Axis, shape: tuple[int, ...]) -> np.ndarray:
    """Spreads a bool per entry of one axis (and block of outputs) over the whole weight."""
    place = axis.axis % len(shape)
    if kept.ndim == 1:
        return kept.reshape([-1 if a == place else 1 for a in range(len(shape))])
    per_output = np.repeat(kept.T, shape[-1] // len(kept), axis=1)
    return per_output.reshape([1] * (len(shape) - 2) + list(per_output.shape))
