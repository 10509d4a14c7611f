"""Prune layer by layer, with a little retraining after each."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tfcompress import _data, channels
from tfcompress._figures import check_functions
from tfcompress.analysis import grouping
from tfcompress.channels import ChannelGraph
from tfcompress.pruning.budget import Budget
from tfcompress.pruning.origins import Origins
from tfcompress.pruning.prune import check_one, untouched
from tfcompress.pruning.removed import Removal, Removed
from tfcompress.selection import Selection


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

    Groups that must keep equal numbers, as around a grouped convolution, go in one step; so do groups that
    would become one by that step, as around a grouped convolution of which one input per group is left.

    Args:
        model: a built functional or Sequential model. It is not changed.
        criterion: see `prune`.
        retrain: called with the smaller model after each removal, e.g.
            `lambda m: m.fit(train, epochs=1)`; it trains the model in place. The model is compiled as
            yours was, with the optimizer's state sliced along, so that training goes on
            without a jump. None: no retraining, which makes this the greedy strategy of
            Li et al. 2017.
        sparsity: see `prune`.
        budget: see `prune`; met by the same sparsity in every group that the criterion scores.
        data: see `prune`. What can be read only once, such as a generator, is kept in memory.
        include: see `prune`.
        exclude: see `prune`.
        order: `"forward"` from the input side, `"backward"`, or the group names in the order wanted.
        selection: see `Selection`; its scope must be `"group"`.
        verbose: show the progress, and print a line per group.

    Returns:
        The smaller model, with what was removed where in its attribute `removed`.

    Raises:
        ValueError: as `prune`, before any work starts: all groups are scored once in the model as it is.
    """
    criterion = grouping.criterion_of(criterion)
    check_one(sparsity, budget, selection)
    _check_retrain(retrain, selection)
    limits = None if budget is None else Budget.of(budget)
    data = _data.repeatable(data)
    plan = grouping.plan(
        model, criterion, data, sparsity=sparsity, include=include, exclude=exclude, pool=selection.pool
    )
    steps = grouping.steps(plan.graph, plan.groups, order)
    wanted = plan.sparsity
    if limits is not None:
        even = {name: np.zeros(len(scores)) for name, scores in plan.scores.items()}
        wanted = limits.solve(model, plan.graph, even, selection)
    pruned = functools.partial(_pruned, criterion=criterion, sparsity=wanted, data=data, selection=selection)
    small, done = _in_steps(
        _State(model, plan.graph, Origins.of(plan.graph)), steps, pruned, retrain, verbose
    )
    names = [removal.group for removal in done]
    small.removed = Removed(tuple(done), untouched(plan.graph, names, plan.unscored))
    return small


@dataclass(frozen=True)
class _State:
    """The model so far, its graph, and where its channels come from."""

    model: keras.Model
    graph: ChannelGraph
    origins: Origins


Steps = list[list[str]]
Pruned = Callable[[_State, list[str]], tuple[_State, list[Removal]]]


def _in_steps(
    state: _State, steps: Steps, pruned: Pruned, retrain: Callable | None, verbose: bool
) -> tuple[keras.Model, list[Removal]]:
    """Goes through the steps, and shows how far it is."""
    done: list[Removal] = []
    later, total = steps, len(steps)
    with _progress(verbose) as progress:
        bar = progress.add_task("", total=total)
        while later:
            names, *later = later
            step = f"[{total - len(later)}/{total}]"
            progress.update(bar, completed=total - len(later) - 1, description=f"{step} {', '.join(names)}")
            state, removed, later = _step(state, names, later, pruned)
            done += removed
            if verbose:
                _report(step, removed, progress.console)
            if removed and retrain is not None:
                progress.stop()  # what `retrain` prints would be caught between two drawings of the bar
                retrain(state.model)
                progress.start()
    return state.model, done


def _step(
    state: _State, names: list[str], later: Steps, pruned: Pruned
) -> tuple[_State, list[Removal], Steps]:
    """Prunes some groups, and those of later steps that could not be pruned by themselves afterwards."""
    new, removed = pruned(state, names)
    merged = [step for step in later if any(new.origins.find(new.graph, name) is None for name in step)]
    if not merged:
        return new, removed, later
    names = [*names, *(name for step in merged for name in step)]
    return _step(state, names, [step for step in later if step not in merged], pruned)


def _pruned(
    state: _State, names: list[str], *, criterion: Any, sparsity: Any, data: Any, selection: Selection
) -> tuple[_State, list[Removal]]:
    graph, origins = state.graph, state.origins
    found = {name: origins.find(graph, name) for name in names}
    groups = {name: group for name, group in found.items() if group is not None}
    scores = grouping.scores(state.model, graph, list(groups.values()), criterion, data, selection.pool)
    if isinstance(sparsity, Mapping):
        sparsity = {group.name: sparsity[name] for name, group in groups.items()}
    keep = selection.masks(scores, sparsity, graph.balances)
    small = channels.shrink(state.model, graph, keep)
    removed = [
        origins.removal(name, graph, group.name, keep[group.name])
        for name, group in groups.items()
        if group.name in keep
    ]
    return _State(small, channels.trace(small), origins.after(removed)), removed


def _check_retrain(retrain: Any, selection: Selection) -> None:
    check_functions(required=False, retrain=retrain)
    if selection.scope != "group":
        raise ValueError("Layer by layer there is no ranking over all layers: use Selection(scope='group').")


def _progress(verbose: bool) -> Progress:
    """A bar on a terminal; anywhere else the lines of `_report` are all there is."""
    console = Console()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not verbose or not console.is_terminal)


def _report(step: str, removed: Sequence[Removal], console: Console) -> None:
    for removal in removed:
        widths = f"{removal.before} → {removal.after} channels"
        console.print(f"{step} {removal.group}: {widths}", markup=False, highlight=False)
