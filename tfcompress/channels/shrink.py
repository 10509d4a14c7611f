"""A model without some of its channels."""

from collections.abc import Mapping

import keras
import numpy as np

from tfcompress import _calls, _cloning
from tfcompress.channels.fold import fold_constants as fold
from tfcompress.channels.graph import ChannelGraph, trace, weight_shapes
from tfcompress.channels.ids import Axis, Keep


def shrink(
    model: keras.Model,
    graph: ChannelGraph,
    keep: Mapping[str, np.ndarray],
    *,
    fold_constants: bool = False,
) -> keras.Model:
    """Returns a smaller model: the channels that `keep` leaves out are gone for good.

    The result is made of the same stock layers under the same names, with the weights, trainable
    flags, dtypes, regularizers, compile state and optimizer slots of what stays; only where the model
    has a `tfcompress.layers.ChannelShuffle` does it need tfcompress to load. Its outputs are
    those of `model` with every weight that reads a removed channel set to zero. A Sequential model
    comes back as one; a subclass of `keras.Model` that is functional inside as a plain model.

    Args:
        model: the model `graph` was traced from, or a copy of it. It is not changed.
        graph: from `trace(model)`.
        keep: group name -> bool array `(size,)`, True where the channel stays. Groups left out
            stay whole.
        fold_constants: add removed channels that are constant to the biases of their readers first
            (see `fold_constants`), so that removing them does not change the outputs.

    Raises:
        ValueError: `keep` names an unknown or locked group, has a wrong shape, would empty a
            group or unbalance a grouped convolution; or the graph is another model's.
    """
    check_same_model(model, graph)
    if fold_constants:
        model = fold(model, graph, keep)
        graph = trace(model, approximate=graph.approximate)
    kept = graph.keep_ids(keep)
    ledger = graph.ledger

    def configure(path: str) -> dict:
        return (
            {}
            if kept.all()
            else {k: v for change in ledger.edits.get(path, []) for k, v in change(kept).items()}
        )

    def rearrange(path: str, call: int, args):
        change = ledger.arguments.get((path, call))
        return args if change is None else (args[0], change(kept), *args[2:])

    return _cloning.copy(model, configure=configure, rearrange=rearrange, take=remaining(graph, keep))


def remaining(graph: ChannelGraph, keep: Mapping[str, np.ndarray]) -> _cloning.Take:
    """From (layer path, weight index, array shaped like that weight) to the part of it that `shrink` leaves.

    Raises:
        ValueError: see `shrink`.
    """
    kept = graph.keep_ids(keep)
    return lambda path, index, array: compress(array, graph.ledger.axes.get((path, index), {}), kept)


def check_same_model(model: keras.Model, graph: ChannelGraph) -> None:
    """Raises `ValueError` unless the graph fits the model's weights."""
    _calls.check_functional(model)
    if graph.shapes != weight_shapes(model):
        raise ValueError(
            f"This ChannelGraph does not fit '{model.name}': it was traced from another model, or before "
            "the model changed. Call trace(model) again."
        )


def compress(array: np.ndarray, axes: Mapping[int, Axis], keep: Keep) -> np.ndarray:
    """The part of a weight (or of anything shaped like it) that belongs to kept channels."""
    for axis in sorted(axes.values(), key=lambda axis: -axis.ids.ndim):
        if axis.ids.ndim == 1:
            array = np.compress(keep[axis.ids], array, axis.axis)
        else:
            blocks = np.split(array, len(axis.ids), -1)
            pairs = zip(blocks, axis.ids, strict=True)
            array = np.concatenate([np.compress(keep[ids], block, axis.axis) for block, ids in pairs], -1)
    return array
