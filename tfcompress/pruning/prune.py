"""Prune in one shot: score all groups, remove the worst channels of each."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from tfcompress import _cloning, _data, channels
from tfcompress.analysis import grouping
from tfcompress.channels import ChannelGraph
from tfcompress.pruning.budget import Budget
from tfcompress.pruning.removed import Removed, removals
from tfcompress.selection import Selection, check_sparsity


def prune(
    model: keras.Model,
    criterion: Any,
    *,
    sparsity: Any = None,
    budget: Mapping[str, float] | Budget | None = None,
    data: Any = None,
    include: grouping.Patterns = None,
    exclude: grouping.Patterns = None,
    greedy: bool = False,
    selection: Selection = Selection(),
) -> keras.Model:
    """Returns a smaller model without the channels that the criterion ranks lowest.

    The result is made of stock Keras layers, compiled as `model` was; fine-tune it to recover
    accuracy. What was removed where is in its attribute `removed`.

    Args:
        model: a built functional or Sequential model. It is not changed.
        criterion: a name (`tfcompress.criteria.names()`), a criterion, or any function
            `(model, layers, data) -> {layer: (filters,) scores}`, higher = keep.
        sparsity: the share of channels to remove, in [0, 1): a number for all groups; or a dict
            from layer names or regular expressions to numbers, where groups that none matches stay
            whole; or a function from scores to a mask, such as `selection.Cutoff()`. No group falls
            below the selection's floor, a tenth by default.
        budget: instead of `sparsity`: `{"params": n}`, `{"macs": n}`, `{"bytes": n}` (of the weights) or
            `{"energy": n}`, at most 1 for a share of the model's own, above 1 for an absolute number; or
            `{"latency_ms": n}`, or `{"latency": share}`, measured on this machine. `Budget` says more, such
            as the input size of a model that leaves it open.
        data: for criteria that look at activations: arrays, `(inputs, labels)`, a
            `tf.data.Dataset`, a `PyDataset` or any iterable of batches.
        include: layer names or regular expressions; only groups with such a layer are pruned.
        exclude: likewise, those are not.
        greedy: go from layer to layer, and score each without what the earlier ones lost (Li et
            al. 2017, section 3.2), instead of all at once.
        selection: scope, rounding, floor and pooling (see `Selection`).

    Raises:
        ValueError: the model is subclassed or unbuilt, a name is unknown, a sparsity lies outside
            [0, 1), the budget cannot be met, a weight is NaN, data is missing or does not fit, the
            criterion's scores are not finite, one per filter, or nothing can be pruned. Nothing has been
            done then.

    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(16, 3, activation="relu", name="stem")(x)
    >>> y = keras.layers.GlobalAveragePooling2D()(y)
    >>> model = keras.Model(x, keras.layers.Dense(2)(y))
    >>> prune(model, "l1", sparsity=0.5).get_layer("stem").filters
    8
    """
    criterion = grouping.criterion_of(criterion)
    check_one(sparsity, budget, selection)
    limits = None if budget is None else Budget.of(budget)
    if greedy and limits is not None:
        raise ValueError("greedy=True needs a sparsity; a budget is solved over all layers at once.")
    data = _data.repeatable(data) if greedy else data
    plan = grouping.plan(
        model, criterion, data, sparsity=sparsity, include=include, exclude=exclude, pool=selection.pool
    )
    wanted = plan.sparsity if limits is None else limits.solve(model, plan.graph, plan.scores, selection)
    found = _greedy_scores(model, plan, criterion, data, selection) if greedy else plan.scores
    keep = selection.masks(found, wanted, plan.graph.balances)
    small = channels.shrink(model, plan.graph, keep)
    small.removed = Removed(tuple(removals(plan.graph, keep)), untouched(plan.graph, keep, plan.unscored))
    return small


def untouched(graph: ChannelGraph, keep: Iterable[str], unscored: Mapping[str, str] = {}) -> dict[str, str]:
    """Why the groups that are not in `keep` stay as they are; `unscored` gives reasons of the criterion's."""
    pruned = set(keep)
    reasons = {
        group.name: group.locked or unscored.get(group.name, "not selected")
        for group in graph.groups
        if group.name not in pruned
    }
    return reasons | {path: f"unknown layer {kind}" for path, kind in graph.unknown.items()}


def check_one(sparsity: Any, budget: Any, selection: Selection) -> None:
    """Raises `ValueError` unless exactly one of the two is given, and the sparsity is one."""
    if (sparsity is None) == (budget is None):
        raise ValueError(f"Give either sparsity or budget, got sparsity={sparsity!r} and budget={budget!r}.")
    if budget is None:
        check_sparsity(sparsity, selection.scope)


def _greedy_scores(
    model: keras.Model, plan: grouping.Plan, criterion: Any, data: Any, selection: Selection
) -> dict[str, np.ndarray]:
    """Scores group after group on a copy in which the channels chosen before are silent."""
    working = _cloning.clone(model)
    found: dict[str, np.ndarray] = {}
    for group in plan.groups:
        found |= grouping.scores(working, plan.graph, [group], criterion, data, selection.pool)
        channels.silence(working, plan.graph, selection.masks(found, plan.sparsity, plan.graph.balances))
    return found
