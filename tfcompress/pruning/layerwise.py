"""Prune layer by layer, with a little retraining after each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from rich.console import Console

from tfcompress import channels
from tfcompress.analysis import grouping
from tfcompress.pruning.budget import Budget, sparsity_for
from tfcompress.pruning.prune import _check_one, untouched
from tfcompress.pruning.removed import Removal, Removed, removals
from tfcompress.selection import Selection, check_sparsity


def prune_layerwise(
    model: keras.Model,
    criterion: Any,
    *,
    retrain: Callable[[keras.Model], Any] | None,
    sparsity: Any = None,
    budget: Mapping[str, float] | Budget | None = None,
    data: Any = None,
    include: grouping.Patterns = None,
    exclude: grouping.Patterns = None,
    order: str | Sequence[str] = "forward",
    selection: Selection = Selection(),
    verbose: bool = True,
) -> keras.Model:
    """Scores one group of coupled layers, removes its worst channels, retrains, and goes on.

    This is the schedule of the entropy paper (Luo and Wu 2017) and of Network Trimming (Hu et al.
    2016): later layers are scored on a network that has already adapted to what the earlier ones lost.
    The longer fine-tuning at the end is yours: `small.fit(...)`.

    Args:
        model: a built functional or Sequential model. It is not changed.
        criterion: see `prune`.
        retrain: called with the smaller model after each removal, e.g.
            `lambda m: m.fit(train, epochs=1)`; it trains the model in place. The model is compiled as
            yours was, with the optimizer's state sliced along, so that training goes on
            without a jump. None: no retraining, which makes this the greedy strategy of
            Li et al. 2017.
        sparsity: see `prune`.
        budget: see `prune`; met by the same sparsity in every group.
        data: see `prune`.
        include: see `prune`.
        exclude: see `prune`.
        order: `"forward"` from the input side, `"backward"`, or the group names in the order wanted.
        selection: see `Selection`; its scope must be `"group"`.
        verbose: print a line per step.

    Returns:
        The smaller model, with what was removed where in its attribute `removed`.

    Raises:
        ValueError: as `prune`, before any work starts.
    """
    criterion = grouping.criterion_of(criterion)
    _check_one(sparsity, budget)
    _check_retrain(retrain, selection)
    check_sparsity({} if sparsity is None else sparsity)
    graph = channels.trace(model)
    groups = grouping.chosen(graph, include, exclude)
    steps = grouping.steps(graph, groups, order)
    if budget is not None:
        sparsity = sparsity_for(model, budget, include=include, exclude=exclude, selection=selection)
    wanted = grouping.per_group(graph, groups, sparsity)
    done: list[Removal] = []
    small = model
    for number, names in enumerate(steps, 1):
        small, removed = _step(small, names, criterion, wanted, data, selection)
        done += removed
        _report(f"[{number}/{len(steps)}]", removed, verbose)
        if removed and retrain is not None:
            retrain(small)
    small.removed = Removed(tuple(done), untouched(graph, [removal.group for removal in done]))
    return small


def _step(
    model: keras.Model,
    names: Sequence[str],
    criterion: Any,
    sparsity: Any,
    data: Any,
    selection: Selection,
) -> tuple[keras.Model, list[Removal]]:
    graph = channels.trace(model)
    scores = grouping.scores(model, [graph[name] for name in names], criterion, data, selection.pool)
    keep = selection.masks(scores, sparsity, graph.balances)
    return channels.shrink(model, graph, keep), removals(graph, keep)


def _check_retrain(retrain: Any, selection: Selection) -> None:
    if retrain is not None and not callable(retrain):
        raise ValueError(f"retrain must be a function of the model, or None, got {retrain!r}.")
    if selection.scope != "group":
        raise ValueError("Layer by layer there is no ranking over all layers: use Selection(scope='group').")


def _report(step: str, removed: Sequence[Removal], verbose: bool) -> None:
    if verbose:
        for removal in removed:
            widths = f"{removal.before} → {removal.after} channels"
            Console().print(f"{step} {removal.group}: {widths}", markup=False, highlight=False)
