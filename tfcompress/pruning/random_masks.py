"""Draw many masks at random, and keep the one that does the least harm (Anwar and Sung 2016)."""

import dataclasses
import functools
import hashlib
import threading
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _cloning, _data, _kernels, _names, channels, layers
from tfcompress._arrays import to_numpy
from tfcompress._checks import check_choice, check_whole
from tfcompress.analysis import grouping
from tfcompress.analysis.oracle import Losses
from tfcompress.channels.ids import Ledger
from tfcompress.layers.masked import MaskedLayer
from tfcompress.pruning.prune import untouched
from tfcompress.pruning.removed import Removed, removals
from tfcompress.selection import Selection, check_sparsity

Masks = Mapping[str, np.ndarray]
EXACT = Selection(round_to=1, floor=0.0)
SCOPES = ("network", "layer")
MEASURES = ("accuracy", "loss")
BATCH = 250


@dataclass(frozen=True)
class Search:
    """One search for a mask; the model that `random_masks` returns has them in its attribute `searches`.

    Attributes:
        granularity: what was drawn.
        names: the layers, or groups of coupled layers, that it was drawn for.
        scores: `(candidates,)`, higher = better.
        best: the number of the candidate that was taken.
    """

    granularity: str
    names: tuple[str, ...]
    scores: np.ndarray
    best: int


def random_masks(
    model: keras.Model,
    data: Any,
    *,
    sparsity: float | Mapping[str, float],
    granularity: str | Sequence[str] = "feature_map",
    candidates: int = 100,
    measure: str | Callable[[keras.Model], float] = "accuracy",
    scope: str = "network",
    test: Any = None,
    include: _names.Patterns = None,
    exclude: _names.Patterns = None,
    seed: int = 0,
    executor: Executor | None = None,
    tasks: int = 8,
) -> keras.Model:
    """Draws masks at random, measures the network under each without retraining, and prunes by the best.

    Each candidate takes exactly `round(sparsity * M)` of the M units of every layer, drawn without
    replacement (Anwar and Sung 2016, "Coarse Pruning of Convolutional Neural Networks with Random Masks").
    The paper finds that some 100 candidates suffice. Fine-tune the result.

    Units are, by `granularity`:

    * `"feature_map"`: channels, in all layers coupled by them. They are really removed.
    * `"kernel"`: all taps between one input channel and one output.
    * `"intra_kernel"`: single weights.

    Several of them, as `["feature_map", "kernel"]`, are searched one after the other, each among what the one
    before has left; the paper finds that combination best. Masks of kernels and weights are held while the
    result trains, and every output keeps one weight at least; `tfcompress.strip` folds them in.

    Args:
        model: a built functional or Sequential model. It is not changed.
        data: (images, labels) on which candidates are measured: neither those it was trained on nor those
            that it will be tested on.
        sparsity: the share of units to remove, in [0, 1); or a dict from layer paths or regular expressions
            to shares, where what none matches stays whole.
        granularity: one of the above, or several.
        candidates: how many masks are drawn in each search.
        measure: `"accuracy"`, `"loss"` (that of `model.compile`; the lowest is best), or a function from a
            model to a number, the higher the better. With processes as workers it must be a function of a
            module.
        scope: `"network"`: a candidate covers all layers. `"layer"`: one layer after the other is searched,
            with the best masks of those before. The paper leaves it open.
        test: the images it will be tested on, if you want to be sure that `data` has none of them.
        include: layer paths or regular expressions; only these are pruned.
        exclude: likewise, these are not.
        seed: of the draws. Candidate *n* is the same for any number of candidates and any executor.
        executor: where candidates are measured: a pool of threads or processes, or that of a cluster, such as
            `distributed.Client(...).get_executor()` of Dask. A task whose worker is lost is done again here,
            so that the result is the same; and so is one that fails there, as where a worker has not
            imported the layers of your own. A warning says how many. Workers on one machine get in each
            other's way unless each is started with its share of the cores in `TF_NUM_INTRAOP_THREADS`.
        tasks: into how many tasks a search is cut for the executor; each carries the model and the data.

    Returns:
        The model, smaller or with masks, and with the `Search`es in its attribute `searches`.

    Raises:
        ValueError: an argument is wrong, labels are missing or do not fit, `data` has images of `test`, or
            nothing can be pruned.

    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(16, 3, activation="relu", name="stem")(x)
    >>> y = keras.layers.GlobalAveragePooling2D()(y)
    >>> model = keras.Model(x, keras.layers.Dense(2, activation="softmax")(y))
    >>> data = np.random.rand(20, 8, 8, 3), np.arange(20) % 2
    >>> small = random_masks(model, data, sparsity=0.5, candidates=5)
    >>> small.get_layer("stem").filters, len(small.searches[0].scores)
    (8, 5)
    """
    check_sparsity(sparsity)
    stages = [granularity] if isinstance(granularity, str) else list(granularity)
    _check(stages, candidates, measure, scope, tasks)
    grouping.check_finite(model)
    images = list(_data.labelled(model, data, "A search", BATCH))
    if test is not None:
        check_disjoint(images, list(_data.batches_for(model, test, BATCH)))
    searches: list[Search] = []
    state = _State(model, {})
    for stage in stages:
        units = UNITS[stage](state, sparsity, include, exclude)
        best: Masks = {}
        for names in [units.names] if scope == "network" else units.apart:
            trial = _Trial(state.model, units, names, best, images, measure, (seed, len(searches)))
            scores = _measured(trial, candidates, executor, tasks)
            best = {**best, **trial.masks(int(scores.argmax()))}
            searches.append(Search(stage, names, scores, int(scores.argmax())))
        state = units.applied(state, best)
    found = state.finished()
    found.searches = tuple(searches)
    return found


@dataclass(frozen=True)
class _State:
    """Between two searches: a model without some channels, and masks of its kernels by the layer's path."""

    model: keras.Model
    held: Masks

    def finished(self) -> keras.Model:
        if not self.held:
            return self.model
        model = layers.wrap(self.model, lambda layer: MaskedLayer(layer), include=list(self.held))
        for path, mask in self.held.items():
            dict(_calls.walk(model))[path].masked[0].mask.assign(mask)
        return model


class _Units:
    """What is drawn: names of layers or groups, and how many units each loses."""

    counts: Mapping[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.counts)

    @property
    def apart(self) -> list[tuple[str, ...]]:
        """The names, in parts that can be searched one after the other."""
        return [(name,) for name in self.names]

    def draw(self, rng: np.random.Generator, names: Iterable[str]) -> Masks:
        """Name -> a mask that lacks as many units as it is to lose."""
        raise NotImplementedError

    def weights(self, model: keras.Model, masks: Masks) -> Iterator[tuple[keras.Variable, np.ndarray]]:
        """Which weights of the model, or of a copy, the masks act on, and how."""
        raise NotImplementedError

    def applied(self, state: _State, masks: Masks) -> _State:
        raise NotImplementedError


@dataclass(frozen=True)
class _FeatureMaps(_Units):
    graph: channels.ChannelGraph
    counts: Mapping[str, int]

    def __reduce__(self) -> tuple:
        """What goes to another process can mask, not shrink: that needs functions, which cannot go there."""
        ledger = Ledger(axes=self.graph.ledger.axes)
        return _FeatureMaps, (dataclasses.replace(self.graph, ledger=ledger), self.counts)

    @classmethod
    def of(cls, state: _State, sparsity: Any, include: Any, exclude: Any) -> "_FeatureMaps":
        graph = channels.trace(state.model)
        groups = grouping.chosen(graph, include, exclude)
        shares = grouping.per_group(graph, groups, sparsity)
        if not isinstance(shares, Mapping):
            shares = {group.name: shares for group in groups}
        sizes = {group.name: group.size for group in groups if group.name in shares}
        return cls(graph, {name: min(round(shares[name] * size), size - 1) for name, size in sizes.items()})

    @property
    def apart(self) -> list[tuple[str, ...]]:
        groups = [self.graph[name] for name in self.names]
        return [tuple(step) for step in grouping.steps(self.graph, groups, "forward")]

    def draw(self, rng: np.random.Generator, names: Iterable[str]) -> Masks:
        sizes = {name: self.graph[name].size for name in names}
        scores = {name: rng.permutation(size).astype(float) for name, size in sizes.items()}
        shares = {name: self.counts[name] / size for name, size in sizes.items()}
        return EXACT.masks(scores, shares, self.graph.balances)

    def weights(self, model: keras.Model, masks: Masks) -> Iterator[tuple[keras.Variable, np.ndarray]]:
        yield from channels.reading_masks(model, self.graph, masks)

    def applied(self, state: _State, masks: Masks) -> _State:
        small = channels.shrink(state.model, self.graph, masks)
        small.removed = Removed(tuple(removals(self.graph, masks)), untouched(self.graph, masks))
        return _State(small, {})


@dataclass(frozen=True)
class _Kernels(_Units):
    """`whole`: all taps between an input and an output are one unit; else every weight is."""

    layouts: Mapping[str, tuple[tuple[int, ...], _kernels.Layout]]
    held: Masks
    counts: Mapping[str, int]
    whole: bool

    @classmethod
    def of(cls, state: _State, sparsity: Any, include: Any, exclude: Any, *, whole: bool) -> "_Kernels":
        _calls.check_functional(state.model)
        found = {
            path: (tuple(pairs[0][0].shape), pairs[0][1])
            for path, pairs in _kernels.by_layer(state.model).items()
            if len(pairs) == 1
        }
        shares = _names.shares(_names.chosen(found, include, exclude), sparsity)
        units = cls({path: found[path] for path in shares}, state.held, {}, whole)
        counts = {path: round(share * int(units.alive(path).sum())) for path, share in shares.items()}
        return dataclasses.replace(units, counts=counts)

    def alive(self, path: str) -> np.ndarray:
        """`(outputs, units of each)`: which of them an earlier search has left."""
        shape, layout = self.layouts[path]
        lowered = layout.lower(self.held.get(path, np.ones(shape, bool)))
        return np.any(lowered, axis=1) if self.whole else lowered.reshape(len(lowered), -1)

    def draw(self, rng: np.random.Generator, names: Iterable[str]) -> Masks:
        return {path: self._drawn(rng, path) for path in names}

    def _drawn(self, rng: np.random.Generator, path: str) -> np.ndarray:
        (shape, layout), alive = self.layouts[path], self.alive(path)
        spared = _one_of_each(rng, alive)
        free = np.flatnonzero(alive & ~spared)
        keep = alive.copy()
        keep.ravel()[rng.permutation(free)[: self.counts[path]]] = False
        outputs, taps, inputs = layout.sizes(shape)
        lowered = np.broadcast_to(keep[:, None], (outputs, taps, inputs)) if self.whole else keep
        mask = layout.lift(np.ascontiguousarray(lowered).reshape(outputs, taps, inputs), shape)
        held = self.held.get(path)
        return mask if held is None else np.logical_and(mask, held)

    def weights(self, model: keras.Model, masks: Masks) -> Iterator[tuple[keras.Variable, np.ndarray]]:
        kernels = _kernels.by_layer(model)
        for path, mask in {**self.held, **masks}.items():
            yield kernels[path][0][0], mask

    def applied(self, state: _State, masks: Masks) -> _State:
        return _State(state.model, {**state.held, **masks})


def _one_of_each(rng: np.random.Generator, alive: np.ndarray) -> np.ndarray:
    """One unit of every output that has some, at random."""
    order = np.where(alive, rng.random(alive.shape), -1)
    found = np.zeros(alive.shape, bool)
    found[np.arange(len(alive)), order.argmax(axis=1)] = True
    return found & alive


UNITS: dict[str, Callable[..., _Units]] = {
    "feature_map": _FeatureMaps.of,
    "kernel": functools.partial(_Kernels.of, whole=True),
    "intra_kernel": functools.partial(_Kernels.of, whole=False),
}


# ------------------------------------------------------------------ measuring candidates


@dataclass(frozen=True)
class _Trial:
    """All that a worker needs to measure candidates of one search; `token` names it among others."""

    model: keras.Model
    units: _Units
    names: tuple[str, ...]
    fixed: Masks
    images: list
    measure: str | Callable[[keras.Model], float]
    seed: tuple[int, int]
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def masks(self, number: int) -> Masks:
        """Those of a candidate."""
        return self.units.draw(np.random.default_rng([*self.seed, number]), self.names)


def _measured(trial: _Trial, candidates: int, executor: Executor | None, tasks: int) -> np.ndarray:
    """`(candidates,)` scores; what an executor loses is measured here, with a warning."""
    if executor is None:
        return np.array(_scores(trial, range(candidates)))
    parts = [part.tolist() for part in np.array_split(np.arange(candidates), min(tasks, candidates))]
    futures = [_submitted(executor, trial, part) for part in parts]
    found = [_result(future) for future in futures]
    lost = [error for error in found if isinstance(error, Exception)]
    scores = [
        _scores(trial, part) if isinstance(result, Exception) else result
        for result, part in zip(found, parts, strict=True)
    ]
    if lost:
        warnings.warn(
            f"{len(lost)} of {len(parts)} tasks came to nothing on the executor and were done here. The last "
            f"of them said: {type(lost[-1]).__name__}: {lost[-1]}",
            stacklevel=3,
        )
    return np.concatenate(scores)


def _submitted(executor: Executor, trial: _Trial, part: Sequence[int]) -> Any:
    """A future, or why there is none: a pool that lost a process takes no more."""
    try:
        return executor.submit(_scores, trial, part)
    except RuntimeError as error:
        return error


def _result(future: Any) -> Any:
    """Scores, or the error in their place: every kind of cluster has its own for a worker that died."""
    if isinstance(future, Exception):
        return future
    try:
        return future.result()
    except Exception as error:
        return error


_LOCAL = threading.local()  # a worker keeps the compiled copy of a search for its next task


def _scores(trial: _Trial, numbers: Iterable[int]) -> list[float]:
    """The scores of some candidates."""
    if getattr(_LOCAL, "token", None) != trial.token:
        _LOCAL.bench, _LOCAL.token = _Bench(trial), trial.token
    return [_LOCAL.bench.score(trial.masks(number)) for number in numbers]


class _Bench:
    """A copy of the model whose weights are set to those of one candidate after the other.

    Nothing is built or compiled for a candidate: masks act on the values of variables.
    """

    def __init__(self, trial: _Trial):
        self.trial = trial
        self.model = _cloning.clone(trial.model)
        self.measure = _measure(self.model, trial)
        self.weights = {id(weight): to_numpy(weight) for weight in self.model.weights}

    def score(self, masks: Masks) -> float:
        changed = list(self.trial.units.weights(self.model, {**self.trial.fixed, **masks}))
        for weight, mask in changed:
            weight.assign(self.weights[id(weight)] * mask)
        try:
            return float(self.measure())
        finally:
            for weight, _ in changed:
                weight.assign(self.weights[id(weight)])


def _measure(model: keras.Model, trial: _Trial) -> Callable[[], float]:
    if callable(trial.measure):
        return functools.partial(trial.measure, model)
    if trial.measure == "loss":
        losses = Losses(model, None)
        return lambda: -losses.mean(trial.images)
    return functools.partial(_accuracy, model, trial.images)


def _accuracy(model: keras.Model, images: list) -> float:
    right = [
        _predicted(model.predict_on_batch(inputs[0] if len(inputs) == 1 else inputs)) == _data.classes(labels)
        for inputs, labels in images
    ]
    return float(np.concatenate(right).mean())


def _predicted(outputs: Any) -> np.ndarray:
    """The classes that outputs `(images, classes)`, or probabilities `(images, 1)`, stand for."""
    if not hasattr(outputs, "shape") or len(outputs.shape) != 2:
        raise ValueError(
            "An accuracy is of one output (images, classes). Say measure='loss', or give a function."
        )
    return outputs.argmax(axis=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).astype(int)


# ------------------------------------------------------------------ arguments


def check_disjoint(images: list, test: list) -> None:
    """Raises `ValueError` if an image of the one is also in the other."""
    seen = set(_digests(test))
    common = sum(digest in seen for digest in _digests(images))
    if common:
        raise ValueError(
            f"{common} of the images on which candidates are measured are test images, so that the test "
            "would flatter. Measure on images that were kept apart from both training and test."
        )


def _digests(batches: list) -> Iterator[bytes]:
    for inputs, _ in batches:
        for image in zip(*inputs, strict=True):
            yield hashlib.sha256(
                b"".join(np.ascontiguousarray(part, "float32").tobytes() for part in image)
            ).digest()


def _check(stages: list, candidates: Any, measure: Any, scope: Any, tasks: Any) -> None:
    for stage in stages or [None]:
        check_choice("granularity", stage, UNITS)
    if "feature_map" in stages[1:]:
        raise ValueError("Feature maps come first: what is left of them has kernels and weights to search.")
    for name, number in {"candidates": candidates, "tasks": tasks}.items():
        check_whole(name, number)
    if not callable(measure):
        check_choice("measure", measure, MEASURES, or_else="a function of a model")
    check_choice("scope", scope, SCOPES)
