"""How much accuracy each layer costs (Li et al. 2017, section 3.1)."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfcompress import _cloning, channels
from tfcompress._arrays import to_numpy
from tfcompress.analysis import grouping
from tfcompress.selection import Selection, check_sparsity

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def sensitivity(
    model: keras.Model,
    criterion: Any,
    evaluate: Callable[[keras.Model], float],
    *,
    sparsities: Sequence[float] = SPARSITIES,
    data: Any = None,
    include: grouping.Patterns = None,
    exclude: grouping.Patterns = None,
    selection: Selection = Selection(round_to=1),
) -> dict[str, dict[float, float]]:
    """Prunes each group of coupled layers alone, by more and more, without retraining.

    Layers whose accuracy falls early are sensitive: give them a low sparsity, or leave them out.
    Channels are silenced in a copy, whose outputs are those of the pruned model, so that
    nothing is built anew and the model itself stays as it is, bit for bit.

    Args:
        model: a built functional or Sequential model. It is not changed.
        criterion: see `tfcompress.prune`.
        evaluate: from a model of the same shape, compiled as `model` was, to the number to report,
            e.g. `lambda m: m.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]`.
        sparsities: the shares to remove, each in [0, 1).
        data: see `tfcompress.prune`.
        include: see `tfcompress.prune`.
        exclude: see `tfcompress.prune`.
        selection: rounding and pooling, see `Selection`.

    Returns:
        Group name -> sparsity -> what `evaluate` gave; the entry for 0.0 is the unpruned model.
        `plots.sensitivity_curves` draws it.

    Raises:
        ValueError: see `tfcompress.prune`.

    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, keras.layers.Dense(1)(keras.layers.Dense(10, name="wide")(x)))
    >>> curves = sensitivity(model, "l1", lambda m: 1.0, sparsities=[0.5])
    >>> curves
    {'wide': {0.0: 1.0, 0.5: 1.0}}
    """
    criterion = grouping.criterion_of(criterion)
    for share in sparsities:
        check_sparsity(share)
    if not callable(evaluate):
        raise ValueError(f"evaluate must be a function from a model to a number, got {evaluate!r}.")
    graph = channels.trace(model)
    scores = grouping.scores(model, grouping.chosen(graph, include, exclude), criterion, data, selection.pool)
    copy = _cloning.clone(model)
    whole = float(evaluate(copy))
    curves = {name: {0.0: whole} for name in scores}
    for name, values in scores.items():
        for share in sparsities:
            keep = selection.masks({name: values}, share, graph.balances)
            curves[name][float(share)] = float(_silenced(copy, graph, keep, evaluate))
    return curves


def _silenced(copy: keras.Model, graph: channels.ChannelGraph, keep: dict, evaluate: Callable) -> float:
    """Evaluates the copy with channels silenced, and puts its weights back."""
    silenced = [
        (weight, mask, to_numpy(weight)) for weight, mask in channels.reading_masks(copy, graph, keep)
    ]
    for weight, mask, value in silenced:
        weight.assign(value * mask)
    result = evaluate(copy)
    for weight, _, value in silenced:
        weight.assign(value)
    return result
