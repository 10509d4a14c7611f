"""The race: every criterion under one budget, with one allowance of retraining, and two controls."""

import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfcompress import _calls, _cloning, _data
from tfcompress._arrays import to_numpy
from tfcompress._checks import is_whole
from tfcompress._figures import check_functions, figure
from tfcompress._text import plain
from tfcompress.analysis import grouping, plots
from tfcompress.analysis.costs import macs
from tfcompress.criteria import Random
from tfcompress.pruning.budget import Budget
from tfcompress.pruning.prune import prune
from tfcompress.selection import Selection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Train = Callable[[keras.Model], Any]
Evaluate = Callable[[keras.Model], float]

DENSE, RANDOM, SCRATCH = "dense", "random", "scratch"


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; print it for a table.

    Attributes:
        runs: one dict per method and seed, with `method`, `seed`, `value` (what `evaluate` gave at the end),
            `after_cut` (what it gave before retraining; not for `dense` and `scratch`), `params`, `macs`
            (None where the model leaves its input size open) and `seconds`.
    """

    runs: list[dict]

    @property
    def rows(self) -> list[dict]:
        """One dict per method, the best first: `method`, `seeds` and the means over them; `std` is the
        standard deviation of `value` over seeds (of the sample; NaN for one seed)."""
        by_method: dict[str, list[dict]] = {}
        for run in self.runs:
            by_method.setdefault(run["method"], []).append(run)
        rows = [_row(method, runs) for method, runs in by_method.items()]
        return sorted(rows, key=lambda row: -row["value"])

    def plot(self, path: str | os.PathLike | None = None) -> "Figure":
        """Draws the value of every run and their means, with bars of one standard deviation, the best first.

        Args:
            path: where to save the figure; its ending gives the format, as `.png` or `.pdf`.
        """
        values = {row["method"]: self._values(row["method"]) for row in self.rows}
        dense = values.pop(DENSE, None)
        return plots.runs_by_method(values, reference=dense, path=path)

    def _values(self, method: str) -> list[float]:
        return [run["value"] for run in self.runs if run["method"] == method]

    def __rich__(self) -> Table:
        table = Table(title="Mean ± standard deviation over seeds, the best first")
        for column in ("method", "seeds", "value", "after cut", "params", "MACs", "seconds"):
            table.add_column(column, justify="left" if column == "method" else "right")
        for row in self.rows:
            spread = "" if row["seeds"] == 1 else f" ± {row['std']:.4f}"
            counts = ("" if row[key] is None else f"{row[key]:,.0f}" for key in ("params", "macs", "seconds"))
            cut = "" if row["after_cut"] is None else f"{row['after_cut']:.4f}"
            table.add_row(row["method"], str(row["seeds"]), f"{row['value']:.4f}{spread}", cut, *counts)
        return table

    def __str__(self) -> str:
        return plain(self)


def _row(method: str, runs: list[dict]) -> dict:
    values = [run["value"] for run in runs]
    means = {
        key: None if any(run[key] is None for run in runs) else float(np.mean([run[key] for run in runs]))
        for key in ("after_cut", "params", "macs", "seconds")
    }
    std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return {"method": method, "seeds": len(runs), "value": float(np.mean(values)), "std": std, **means}


def compare(
    model: keras.Model | Callable[[int], keras.Model],
    criteria: Iterable[Any] | Mapping[str, Any],
    data: Any,
    budget: Mapping[str, float] | Budget,
    retrain: Train,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    evaluate: Evaluate,
    scratch: Train | None = None,
    include: grouping.Patterns = None,
    exclude: grouping.Patterns = None,
    selection: Selection = Selection(),
    path: str | os.PathLike | None = None,
    verbose: bool = True,
) -> Comparison:
    """Prunes a model by each criterion to one budget, retrains each alike, and tells what they come to.

    Two controls run along, without which such a table says little: `random` prunes to the same budget by
    random scores (a draw per seed), and `scratch` is a network with the widths that the budget leaves where
    all layers shrink alike, with new weights. `dense` is the model as it is.

    Before every run all generators of random numbers are set to the seed.

    Args:
        model: a trained network, functional or Sequential. Or a function from a seed to one, so that seeds
            differ in their dense networks, too, as a claim about a method needs; it is called once per seed
            of which runs are missing.
        criteria: names, criteria or functions, as `prune` takes them; or a dict of them by the names to
            report. `tfcompress.criteria.names()` are all.
        data: what criteria look at, see `prune`. Not what `evaluate` looks at.
        budget: see `prune`.
        retrain: called once with each pruned model; it trains it in place.
        seeds: one run per method for each. Three at least make a claim.
        evaluate: from a model to what is compared, the higher the better, e.g. its accuracy on images held
            out: `lambda m: m.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]`.
        scratch: trains the control with new weights, in place. By default `retrain`, which gives it the same
            allowance and nothing for the training that the others had before: a fair control trains for both.
        include: see `prune`.
        exclude: see `prune`.
        selection: see `prune`.
        path: a JSON file that is rewritten after each run. If it is there, its runs are taken up and only
            those that are missing are made, so that a comparison may be stopped at any time, or given more
            seeds and criteria later.
        verbose: print a line per run.

    Returns:
        The runs, by seed, in the order of criteria; a table, a plot.

    Raises:
        ValueError: an argument is wrong, as for `prune`; a criterion cannot score the model; `evaluate` gives
            no finite number; or the file is of another comparison. Runs that were finished before are in the
            file.

    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, keras.layers.Dense(1)(keras.layers.Dense(16, name="wide")(x)))
    >>> found = compare(model, ["l1"], None, {"params": 0.5}, lambda m: None, [0], evaluate=lambda m: 1.0,
    ...                 verbose=False)
    >>> [run["method"] for run in found.runs]
    ['dense', 'l1', 'random', 'scratch']
    """
    race = _Race(
        _methods(criteria),
        _data.repeatable(data),
        Budget.of(budget),
        retrain,
        scratch or retrain,
        evaluate,
        include,
        exclude,
        selection,
    )
    seeds = _checked_seeds(seeds)
    file = _File(path, race.settings)
    for seed in seeds:
        missing = [method for method in race.runs if not file.has(method, seed)]
        if not missing:
            continue
        keras.utils.set_random_seed(seed)
        network = _network(model, seed)
        file.check_network(seed, network)
        for method in missing:
            keras.utils.set_random_seed(seed)
            start = time.perf_counter()
            found = race.runs[method](network, seed)
            file.add({"method": method, "seed": seed, **found, "seconds": time.perf_counter() - start})
            if verbose:
                _report(file.runs[-1])
    return Comparison([run for run in file.runs if run["seed"] in seeds and run["method"] in race.runs])


@dataclass(frozen=True)
class _Race:
    """What is the same for all seeds: one function from a network and a seed to a result per method."""

    methods: Mapping[str, Any]
    data: Any
    limits: Budget
    retrain: Train
    scratch: Train
    evaluate: Evaluate
    include: grouping.Patterns
    exclude: grouping.Patterns
    selection: Selection

    def __post_init__(self) -> None:
        check_functions(retrain=self.retrain, evaluate=self.evaluate, scratch=self.scratch)

    @functools.cached_property
    def runs(self) -> dict[str, Callable[[keras.Model, int], dict]]:
        by_criterion = {name: functools.partial(self._by, c) for name, c in self.methods.items()}
        return {DENSE: self._dense, **by_criterion, SCRATCH: self._anew}

    @property
    def settings(self) -> dict:
        """What must be the same for runs to be comparable, as JSON holds it."""
        settings = {
            "budget": dict(self.limits.limits),
            "include": self.include,
            "exclude": self.exclude,
            "selection": dataclasses.asdict(self.selection),
        }
        return json.loads(json.dumps(settings, default=repr))

    def _dense(self, network: keras.Model, seed: int) -> dict:
        return {"network": _fingerprint(network), **self._measured(network)}

    def _by(self, criterion: Any, network: keras.Model, seed: int) -> dict:
        small = self._pruned(network, _seeded(criterion, seed), self.selection)
        cut = self._value(small)
        self.retrain(small)
        return self._measured(small, cut)

    def _anew(self, network: keras.Model, seed: int) -> dict:
        even = dataclasses.replace(self.selection, scope="group")
        small = _cloning.fresh(self._pruned(network, Random(), even))
        self.scratch(small)
        return self._measured(small)

    def _pruned(self, network: keras.Model, criterion: Any, selection: Selection) -> keras.Model:
        return prune(
            network,
            criterion,
            budget=self.limits,
            data=self.data,
            include=self.include,
            exclude=self.exclude,
            selection=selection,
        )

    def _measured(self, model: keras.Model, cut: float | None = None) -> dict:
        known = all(None not in tensor.shape[1:] for tensor in model.inputs)
        return {
            "value": self._value(model),
            "after_cut": cut,
            "params": model.count_params(),
            "macs": macs(model) if known else None,
        }

    def _value(self, model: keras.Model) -> float:
        value = figure(self.evaluate, model)
        if not np.isfinite(value):
            raise ValueError(
                f"evaluate returned {value} for '{model.name}': nothing can be compared with that."
            )
        return value


def _seeded(criterion: Any, seed: int) -> Any:
    """A criterion that draws at random, with that seed."""
    return dataclasses.replace(criterion, seed=seed) if isinstance(criterion, Random) else criterion


def _report(run: dict) -> None:
    line = f"{run['method']}, seed {run['seed']}: {run['value']:.4f}, {run['seconds']:.0f} s"
    Console().print(line, markup=False, highlight=False)


# ------------------------------------------------------------------ arguments


def _methods(criteria: Any) -> dict[str, Any]:
    """Name to report -> criterion; `random` is among them."""
    named = criteria if isinstance(criteria, Mapping) else _named(criteria)
    methods = {str(name): grouping.criterion_of(criterion) for name, criterion in named.items()}
    for taken in {DENSE, SCRATCH} & methods.keys():
        raise ValueError(f"'{taken}' is the name of a control; give that criterion another one.")
    return methods | ({} if RANDOM in methods else {RANDOM: Random()})


def _named(criteria: Any) -> dict[str, Any]:
    listed = [criteria] if isinstance(criteria, str) or not isinstance(criteria, Iterable) else list(criteria)
    named = {grouping.name_of(grouping.criterion_of(criterion)): criterion for criterion in listed}
    if len(named) < len(listed):
        raise ValueError("Two criteria have the same name; give a dict from names to criteria.")
    return named


def _checked_seeds(seeds: Any) -> list[int]:
    listed = list(seeds) if isinstance(seeds, Iterable) else []
    whole = [int(seed) for seed in listed if is_whole(seed, 0)]
    if not listed or len(whole) < len(listed) or len(set(whole)) < len(whole):
        raise ValueError(f"seeds must be different whole numbers, at least one, got {seeds!r}.")
    return whole


def _network(make: Any, seed: int) -> keras.Model:
    network = make if isinstance(make, keras.Model) or not callable(make) else make(seed)
    if not isinstance(network, keras.Model):
        raise ValueError(f"model must be a keras.Model or a function from a seed to one, got {network!r}.")
    return network


def _fingerprint(model: keras.Model) -> str:
    found = hashlib.sha256()
    for path, index, weight in _calls.weights(model):
        found.update(f"{path} {index} {tuple(weight.shape)}".encode())
        found.update(np.ascontiguousarray(to_numpy(weight)).tobytes())
    return found.hexdigest()[:16]


# ------------------------------------------------------------------ the file


class _File:
    """Finished runs, in a JSON file that is replaced after each, if there is a path."""

    def __init__(self, path: str | os.PathLike | None, settings: dict):
        self.path = None if path is None else Path(path)
        self.content = {"settings": settings, "keras": keras.__version__, "runs": []}
        if self.path is not None and self.path.exists():
            self.content = json.loads(self.path.read_text())
            if self.content["settings"] != settings:
                raise ValueError(
                    f"{path} holds a comparison of other settings, {self.content['settings']}; this one has "
                    f"{settings}. Give another path."
                )

    @property
    def runs(self) -> list[dict]:
        return self.content["runs"]

    def has(self, method: str, seed: int) -> bool:
        return any((run["method"], run["seed"]) == (method, seed) for run in self.runs)

    def check_network(self, seed: int, network: keras.Model) -> None:
        """Raises `ValueError` if the runs of this seed began with another network."""
        known = [run["network"] for run in self.runs if (run["method"], run["seed"]) == (DENSE, seed)]
        if known and known[0] != _fingerprint(network):
            raise ValueError(
                f"The runs of seed {seed} in {self.path} began with another network than '{network.name}' is "
                "now. Save a network when it is trained, and load it; or give another path."
            )

    def add(self, run: dict) -> None:
        self.runs.append(run)
        if self.path is not None:
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            temporary.write_text(json.dumps(self.content, indent=1))
            temporary.replace(self.path)
