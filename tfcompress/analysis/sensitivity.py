"""How much accuracy each layer costs (Li et al. 2017, section 3.1)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfcompress import _cloning, channels
from tfcompress._arrays import to_numpy
from tfcompress._figures import check_functions, figure
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
    selection: Selection = Selection(round_to=1, floor=0.0),
) -> dict[str, dict[float, float]]:
    """Prunes each group of coupled layers alone, by more and more, without retraining.

    Layers whose accuracy falls early are sensitive: give them a low sparsity, or leave them out.
    Groups that must keep equal numbers, as around a grouped convolution, are pruned together and have
    one curve. Channels are silenced in a copy, whose outputs are those of the pruned model, so that
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
        selection: rounding, floor and pooling, see `Selection`.

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
        _check_share(share)
    check_functions(evaluate=evaluate)
    plan = grouping.plan(model, criterion, data, include=include, exclude=exclude, pool=selection.pool)
    copy = _cloning.clone(model)
    whole = figure(evaluate, copy)
    curves = {name: {0.0: whole} for name in plan.scores}
    for names in grouping.steps(plan.graph, plan.groups, "forward"):
        scores = {name: plan.scores[name] for name in names}
        for share in sparsities:
            keep = selection.masks(scores, share, plan.graph.balances)
            result = _silenced(copy, plan.graph, keep, evaluate)
            for name in names:
                curves[name][float(share)] = result
    return curves


def _silenced(copy: keras.Model, graph: channels.ChannelGraph, keep: dict, evaluate: Callable) -> float:
    """Evaluates the copy with channels silenced, and puts its weights back."""
    silenced = [
        (weight, mask, to_numpy(weight)) for weight, mask in channels.reading_masks(copy, graph, keep)
    ]
    for weight, mask, value in silenced:
        weight.assign(value * mask)
    result = figure(evaluate, copy)
    for weight, _, value in silenced:
        weight.assign(value)
    return result


def _check_share(share: Any) -> None:
    if isinstance(share, Mapping) or callable(share):
        raise ValueError(f"sparsities are numbers in [0, 1), got {share!r}.")
    check_sparsity(share)
