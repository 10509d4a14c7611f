"""Silence channels: the model keeps its shape, but nothing reads them any more."""

from collections.abc import Mapping

import keras
import numpy as np

from tfcompress import _calls
from tfcompress._arrays import to_numpy
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
        weight.assign(to_numpy(weight) * mask)


def reading_masks(model: keras.Model, graph: ChannelGraph, keep: Mapping[str, np.ndarray]):
    """Yields (weight, array that broadcasts to it: 1 = keep) for every weight that loses inputs."""
    check_same_model(model, graph)
    kept = graph.keep_ids(keep)
    for path, index, weight in _calls.weights(model):
        reads = _reads(graph, path, index)
        if any(not kept[axis.ids].all() for axis in reads):
            yield weight, _mask(tuple(weight.shape), reads, kept).astype("float32")


def _reads(graph: ChannelGraph, path: str, index: int) -> list[Axis]:
    return [axis for axis in graph.ledger.axes.get((path, index), {}).values() if axis.reads]


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


def silenced(model: keras.Model, graph: ChannelGraph) -> dict[str, np.ndarray]:
    """Finds what `silence` did: group name -> bool array, False where all reading weights are zero.

    Channels that no weight reads count as alive. Where a whole group is silent its first
    channel stays; where removing all silent channels would unbalance a grouped convolution, the
    groups concerned stay whole.
    """
    check_same_model(model, graph)
    read = np.zeros(len(graph.class_of), bool)
    alive = np.zeros(len(graph.class_of), bool)
    for path, index, weight in _calls.weights(model):
        for axis in _reads(graph, path, index):
            read[axis.ids] = True
            np.logical_or.at(alive, axis.ids, _nonzero(to_numpy(weight), axis))
    silent = np.zeros(graph.class_of.max() + 1, bool)
    silent[graph.class_of[read]] = True
    silent[graph.class_of[alive]] = False
    keep = {group.name: _at_least_one(~silent[group.classes]) for group in graph.free}
    return _balanced(graph, {name: mask for name, mask in keep.items() if not mask.all()})


def _nonzero(weight: np.ndarray, axis: Axis) -> np.ndarray:
    """For each entry of `axis.ids`: whether any weight that reads it differs from zero."""
    place = axis.axis % weight.ndim
    if axis.ids.ndim == 1:
        return (weight != 0).any(axis=tuple(a for a in range(weight.ndim) if a != place))
    blocks = np.split(weight != 0, len(axis.ids), -1)
    return np.stack([block.any(axis=tuple(a for a in range(weight.ndim) if a != place)) for block in blocks])


def _at_least_one(mask: np.ndarray) -> np.ndarray:
    return mask if mask.any() else np.arange(len(mask)) == 0


def _balanced(graph: ChannelGraph, keep: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    while broken := [balance for balance in graph.balances if len(set(balance.counts(keep))) > 1]:
        concerned = {name for block in broken[0].blocks for name in block}
        keep = {name: mask for name, mask in keep.items() if name not in concerned}
    return keep
