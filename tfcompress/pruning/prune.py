"""Prune in one shot: score all groups, remove the worst channels of each."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from tfcompress import _cloning, channels
from tfcompress.analysis import grouping
from tfcompress.channels import ChannelGraph, Group
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
            whole; or a function from scores to a mask, such as `selection.Cutoff()`.
        budget: instead of `sparsity`: `{"params": n}`, `{"macs": n}` or `{"bytes": n}`, at most 1 for
            a share of the model's own, above 1 for an absolute number. Bytes are those of the
            weights. `Budget` says more, such as the input size of a model that leaves it open.
        data: for criteria that look at activations: arrays, `(inputs, labels)`, a
            `tf.data.Dataset`, a `PyDataset` or any iterable of batches.
        include: layer names or regular expressions; only groups with such a layer are pruned.
        exclude: likewise, those are not.
        greedy: go from layer to layer, and score each without what the earlier ones lost (Li et
            al. 2017, section 3.2), instead of all at once.
        selection: scope, rounding, floor and pooling (see `Selection`).

    Raises:
        ValueError: the model is subclassed or unbuilt, a name is unknown, a sparsity lies outside
            [0, 1), the budget cannot be met, data is missing or does not fit, or nothing can be
            pruned. Nothing has been done then.

    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(16, 3, activation="relu", name="stem")(x)
    >>> y = keras.layers.GlobalAveragePooling2D()(y)
    >>> model = keras.Model(x, keras.layers.Dense(2)(y))
    >>> prune(model, "l1", sparsity=0.5).get_layer("stem").filters
    8
    """
    criterion = grouping.criterion_of(criterion)
    _check_one(sparsity, budget)
    check_sparsity({} if sparsity is None else sparsity)
    graph = channels.trace(model)
    groups = grouping.chosen(graph, include, exclude)
    wanted = grouping.per_group(graph, groups, sparsity)
    if greedy:
        found = _greedy_scores(model, graph, groups, criterion, wanted, data, selection)
    else:
        found = grouping.scores(model, groups, criterion, data, selection.pool)
    if not found:
        raise ValueError(
            f"Criterion {criterion!r} scores none of the layers {[group.name for group in groups]}."
        )
    if budget is not None:
        wanted = Budget.of(budget).solve(model, graph, found, selection)
    keep = selection.masks(found, wanted, graph.balances)
    small = channels.shrink(model, graph, keep)
    small.removed = Removed(tuple(removals(graph, keep)), untouched(graph, keep))
    return small


def untouched(graph: ChannelGraph, keep: Iterable[str]) -> dict[str, str]:
    """Why the groups that are not in `keep` stay as they are."""
    pruned = set(keep)
    reasons = {
        group.name: group.locked or "not selected" for group in graph.groups if group.name not in pruned
    }
    return reasons | {path: f"unknown layer {kind}" for path, kind in graph.unknown.items()}


def _greedy_scores(
    model: keras.Model,
    graph: ChannelGraph,
    groups: list[Group],
    criterion: Any,
    sparsity: Any,
    data: Any,
    selection: Selection,
) -> dict[str, np.ndarray]:
    """Scores group after group on a copy in which the channels chosen before are silent."""
    if sparsity is None:
        raise ValueError("greedy=True needs a sparsity; a budget is solved over all layers at once.")
    working = _cloning.clone(model)
    found: dict[str, np.ndarray] = {}
    for group in groups:
        scored = grouping.scores(working, [group], criterion, data, selection.pool)
        found |= scored
        if scored:
            channels.silence(working, graph, selection.masks(found, sparsity, graph.balances))
    return found


def _check_one(sparsity: Any, budget: Any) -> None:
    if (sparsity is None) == (budget is None):
        raise ValueError(f"Give either sparsity or budget, got sparsity={sparsity!r} and budget={budget!r}.")
