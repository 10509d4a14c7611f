"""Remove the channels that training has silenced."""

import keras

from tfcompress import channels
from tfcompress.pruning.prune import untouched
from tfcompress.pruning.removed import Removed, removals


def shrink_silenced(model: keras.Model) -> keras.Model:
    """Removes every channel that nothing reads: all weights that would multiply it are zero.

    `callbacks.LayerwisePruning` silences channels during `fit`; group lasso does it, too. The outputs
    stay equal.

    Args:
        model: a built functional or Sequential model. It is not changed.

    Raises:
        ValueError: the model is subclassed or unbuilt.
    """
    graph = channels.trace(model)
    keep = channels.silenced(model, graph)
    small = channels.shrink(model, graph, keep)
    small.removed = Removed(tuple(removals(graph, keep)), untouched(graph, keep))
    return small
