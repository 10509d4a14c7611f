"""Prune a little, train a little, again and again (Molchanov et al. 2017)."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from tfcompress import _cloning, _data, channels
from tfcompress._checks import check_number, is_number
from tfcompress._figures import check_functions
from tfcompress.analysis import grouping
from tfcompress.channels import Group
from tfcompress.pruning.budget import Budget
from tfcompress.pruning.prune import check_one, untouched
from tfcompress.pruning.removed import Removal, Removed
from tfcompress.selection import Selection

Numbers = dict[str, np.ndarray]


def prune_iteratively(
    model: keras.Model,
    criterion: Any,
    *,
    retrain: Callable[[keras.Model], Any] | None,
    sparsity: float | None = None,
    budget: Mapping[str, float] | Budget | None = None,
    data: Any = None,
    per_round: float = 0.02,
    momentum: float = 0.0,
    include: grouping.Patterns = None,
    exclude: grouping.Patterns = None,
    selection: Selection = Selection(),
    folder: str | os.PathLike | None = None,
    verbose: bool = True,
) -> keras.Model:
    """Scores all channels, removes the few worst of all layers, trains a little, and begins again.

    The loop of Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", section 2: importance is measured again and again in a network that adapts. The paper removes
    one channel at a time and makes 10 to 30 updates in between; more updates help most. The longer
    fine-tuning at the end is yours: `small.fit(...)`.

    Channels are really removed in every round, so that training gets faster on the way; each smaller model is
    compiled anew, which takes some seconds.

    Args:
        model: a built functional or Sequential model. It is not changed.
        criterion: see `prune`; `"taylor"` is that of the paper.
        retrain: called with the smaller model after each round, e.g.
            `lambda m: m.fit(train, steps_per_epoch=30, verbose=0)`; it trains the model in place. The
            optimizer's state is carried along. None: no retraining.
        sparsity: the share of all channels to remove, in [0, 1).
        budget: instead of it, see `prune`. The rounds end as soon as it is met.
        data: see `prune`. What can be read only once, such as a generator, is kept in memory.
        per_round: how many channels to remove in each round, or the share of all that there were, below 1.
        momentum: how much of a channel's earlier scores stays in its score, in [0, 1): in every round it is
            `momentum * before + (1 - momentum) * now`. Molchanov et al. 2019 have 0.9.
        include: see `prune`.
        exclude: see `prune`.
        selection: its `round_to`, `floor`, `pool` and `scale` count: the ranking is always over all layers.
            Criteria whose scores compare as they are, such as Taylor's, want `scale="none"`.
        folder: where to keep the model and all that is needed to go on, after each round. The same call goes
            on from there; delete the folder to begin anew.
        verbose: print a line per round.

    Returns:
        The smaller model, with what was removed where in its attribute `removed`.

    Raises:
        ValueError: as `prune`; `per_round` or `momentum` is out of range; the folder is of another call; or
            all layers are at their floors and the budget is not met, with the least that can be reached.

    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(16, 3, activation="relu", name="stem")(x)
    >>> y = keras.layers.GlobalAveragePooling2D()(y)
    >>> model = keras.Model(x, keras.layers.Dense(2)(y))
    >>> small = prune_iteratively(model, "l1", retrain=None, sparsity=0.5, per_round=2, verbose=False)
    >>> small.get_layer("stem").filters
    8
    """
    criterion = grouping.criterion_of(criterion)
    check_one(sparsity, budget, selection)
    _check(retrain, sparsity, per_round, momentum)
    data = _data.repeatable(data)
    rounds = _Rounds(model, criterion, data, include, exclude, selection, momentum)
    goal = _goal(rounds, sparsity, budget)
    count = math.ceil(per_round if per_round >= 1 else per_round * rounds.total)
    store = (
        None
        if folder is None
        else _Store(Path(folder), _settings(rounds, criterion, count, sparsity, budget))
    )
    state = (store.load() if store else None) or rounds.begin()
    while (missing := goal(state)) > 0:
        state = rounds.next(state, int(min(count, missing)))
        if retrain is not None:
            retrain(state.model)
        if store:
            store.save(state)
        if verbose:
            _report(state, rounds)
    return rounds.finished(state)


@dataclass(frozen=True)
class _State:
    """Between two rounds.

    Attributes:
        model: the model so far.
        numbers: layer path -> for each output that is left, its number in the first model.
        scores: layer path -> for each output of the first model, its smoothed score; NaN where there is none.
        round: how many there have been.
    """

    model: keras.Model
    numbers: Numbers
    scores: Numbers
    round: int = 0


class _Rounds:
    """What is the same in every round."""

    def __init__(
        self,
        model: keras.Model,
        criterion: Any,
        data: Any,
        include: grouping.Patterns,
        exclude: grouping.Patterns,
        selection: Selection,
        momentum: float,
    ):
        # One round's scores are a check of all arguments before any work.
        plan = grouping.plan(model, criterion, data, include=include, exclude=exclude, pool=selection.pool)
        self.model, self.graph, self.unscored = model, plan.graph, plan.unscored
        self.criterion, self.data, self.selection, self.momentum = criterion, data, selection, momentum
        self.groups = plan.groups
        self.layers = {path for group in self.groups for path in group.layers}

    @property
    def total(self) -> int:
        """How many channels could go at the beginning."""
        return sum(group.size for group in self.groups)

    def begin(self) -> _State:
        widths = {path: 0 for group in self.graph for path in group.layers}
        for group in self.graph:
            for path, outputs in group.layers.items():
                widths[path] += outputs.size
        return _State(
            _cloning.clone(self.model),
            {path: np.arange(width) for path, width in widths.items()},
            {path: np.full(width, np.nan) for path, width in widths.items()},
        )

    def removed(self, state: _State) -> int:
        """How many channels are gone."""
        return sum(group.size - self._left(state, group) for group in self.groups)

    def next(self, state: _State, count: int) -> _State:
        """Without the `count` worst channels.

        Raises:
            ValueError: all layers are at their floors.
        """
        graph = channels.trace(state.model)
        groups = [group for group in graph.free if self.layers.issuperset(group.layers)]
        now = grouping.scores(state.model, graph, groups, self.criterion, self.data, self.selection.pool)
        groups = [group for group in groups if group.name in now]
        smoothed = {group.name: self._smoothed(state, group, now[group.name]) for group in groups}
        sizes = {group.name: self._first_size(state, group) for group in groups}
        masks = self.selection.without_lowest(smoothed, count, sizes, graph.balances)
        masks = {name: mask for name, mask in masks.items() if not mask.all()}
        if not masks:
            raise ValueError(
                f"After {self.removed(state)} of {self.total} channels nothing more can be removed: all "
                f"layers are at the floor of {self.selection.floor:.0%}. Lower Selection(floor=...), ask for "
                "less, or include more layers."
            )
        scores, numbers = dict(state.scores), dict(state.numbers)
        for group in groups:
            for path, outputs in group.layers.items():
                scores[path] = scores[path].copy()
                scores[path][state.numbers[path][outputs]] = smoothed[group.name][:, None]
        for name, mask in masks.items():
            for path, outputs in graph[name].layers.items():
                lost = state.numbers[path][outputs[~mask].ravel()]
                numbers[path] = np.setdiff1d(numbers[path], lost)
        return _State(channels.shrink(state.model, graph, masks), numbers, scores, state.round + 1)

    def finished(self, state: _State) -> keras.Model:
        removals = []
        for group in self.groups:
            lost = {
                path: np.setdiff1d(outputs, state.numbers[path]) for path, outputs in group.layers.items()
            }
            if any(len(outputs) for outputs in lost.values()):
                removals.append(Removal(group.name, lost, group.size, self._left(state, group)))
        names = [removal.group for removal in removals]
        state.model.removed = Removed(tuple(removals), untouched(self.graph, names, self.unscored))
        return state.model

    def _left(self, state: _State, group: Group) -> int:
        """How many entries of a group of the first model are left."""
        path, outputs = next(iter(group.layers.items()))
        return int(np.isin(outputs[:, 0], state.numbers[path]).sum())

    def _first_size(self, state: _State, group: Group) -> int:
        """How many entries the group had in the first model."""
        path, outputs = next(iter(group.layers.items()))
        number = state.numbers[path][outputs[0, 0]]
        return next(g.size for g in self.groups if path in g.layers and number in g.layers[path])

    def _smoothed(self, state: _State, group: Group, now: np.ndarray) -> np.ndarray:
        path, outputs = next(iter(group.layers.items()))
        before = state.scores[path][state.numbers[path][outputs[:, 0]]]
        return np.where(np.isnan(before), now, self.momentum * before + (1 - self.momentum) * now)


def _goal(rounds: _Rounds, sparsity: float | None, budget: Any) -> Callable[[_State], float]:
    """From a state to how many channels are still to be removed, as far as that is known."""
    if sparsity is not None:
        wanted = round(sparsity * rounds.total)
        return lambda state: wanted - rounds.removed(state)
    limits = Budget.of(budget)
    # The least that can be reached: all layers at their floors, whatever their scores.
    even = {group.name: np.zeros(group.size) for group in rounds.groups}
    limits.solve(rounds.model, rounds.graph, even, dataclasses.replace(rounds.selection, scope="group"))
    return lambda state: math.inf if limits.excess(state.model, rounds.model) else 0


def _check(retrain: Any, sparsity: Any, per_round: Any, momentum: Any) -> None:
    check_functions(required=False, retrain=retrain)
    if sparsity is not None and not is_number(sparsity):
        raise ValueError(
            f"One ranking over all layers has one sparsity, a number in [0, 1), got {sparsity!r}."
        )
    check_number("per_round, of channels or a share below 1,", per_round, "(0, inf)")
    check_number("momentum", momentum, "[0, 1)")


def _report(state: _State, rounds: _Rounds) -> None:
    gone = f"{rounds.removed(state)} of {rounds.total} channels removed"
    Console().print(f"round {state.round}: {gone}", markup=False, highlight=False)


# ------------------------------------------------------------------ going on after an interruption


class _Store:
    """A folder with the state after the last round.

    The model's file bears the round's number; `state.json`, which names it, is replaced when it is complete.
    """

    def __init__(self, folder: Path, settings: dict):
        self.folder, self.settings = folder, settings
        folder.mkdir(parents=True, exist_ok=True)
        found = self._read()
        if found is not None and found["settings"] != settings:
            raise ValueError(
                f"{folder} holds the rounds of another call: {found['settings']}, this one is {settings}. "
                "Give another folder, or delete it."
            )

    def load(self) -> _State | None:
        found = self._read()
        if found is None:
            return None
        model = keras.saving.load_model(self._model(found["round"]))
        numbers, scores = (
            {path: np.array(values, dtype) for path, values in found[name].items()}
            for name, dtype in (("numbers", "int64"), ("scores", "float64"))
        )
        return _State(model, numbers, scores, found["round"])

    def save(self, state: _State) -> None:
        state.model.save(self._model(state.round))
        found = {
            "settings": self.settings,
            "round": state.round,
            "numbers": {path: values.tolist() for path, values in state.numbers.items()},
            "scores": {path: values.tolist() for path, values in state.scores.items()},
        }
        temporary = self.folder / "state.tmp"
        temporary.write_text(json.dumps(found))
        temporary.replace(self.folder / "state.json")
        for file in self.folder.glob("round-*.keras"):
            if file != self._model(state.round):
                file.unlink()

    def _model(self, number: int) -> Path:
        return self.folder / f"round-{number}.keras"

    def _read(self) -> dict | None:
        file = self.folder / "state.json"
        return json.loads(file.read_text()) if file.exists() else None


def _settings(rounds: _Rounds, criterion: Any, count: int, sparsity: Any, budget: Any) -> dict:
    """What must be the same for a call to go on with what another one began."""
    limits = None if budget is None else Budget.of(budget).limits
    return {
        "model": rounds.model.name,
        "groups": {group.name: group.size for group in rounds.groups},
        "criterion": grouping.name_of(criterion),
        "per_round": count,
        "sparsity": None if sparsity is None else float(sparsity),
        "budget": None if limits is None else {name: float(limit) for name, limit in limits.items()},
        "momentum": float(rounds.momentum),
        "selection": dataclasses.asdict(rounds.selection),
    }
