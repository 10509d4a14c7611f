"""How to share a sparsity out among layers, which bear it unequally.

>>> x = keras.Input((64,))
>>> y = keras.layers.Dense(32, name="wide")(x)
>>> model = keras.Model(x, keras.layers.Dense(2, name="narrow")(y))
>>> shares = erk(model, 0.8)
>>> bool(shares["narrow"] < shares["wide"])
True
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _kernels, _names, channels
from tfcompress._arrays import to_numpy
from tfcompress.analysis import grouping
from tfcompress.layers.masked import is_masked
from tfcompress.pruning.budget import Budget
from tfcompress.selection import Scores, Selection, check_sparsity

Curves = Mapping[str, Mapping[float, float]]


def erk(
    model: keras.Model, sparsity: float, *, include: _names.Patterns = None, exclude: _names.Patterns = None
) -> dict[str, float]:
    """Erdős-Rényi-Kernel: small kernels keep more of their weights.

    The density of a layer is proportional to the sum of the sizes of its kernel's axes over their product,
    `(n_in + n_out + h + w) / (n_in n_out h w)` (Evci et al. 2020, "Rigging the Lottery", section 3, after
    Mocanu et al. 2018), so that the whole has the sparsity. Layers for which that would be more than 1 stay
    dense, and the others make up for it.

    Args:
        model: a built functional or Sequential model.
        sparsity: the share of all weights of kernels in these layers that go, in [0, 1).
        include: layer paths or regular expressions; only these layers. Without it: all that have kernels.
        exclude: likewise, these stay dense, and do not count.

    Returns:
        Layer path -> the share of its weights that go: `wrap(model, {path: MagnitudePruning(share), ...})`.

    Raises:
        ValueError: the sparsity is out of range, a pattern matches nothing, or no layer has a kernel.
    """
    kernels = _chosen(model, sparsity, include, exclude)
    sizes = np.array([sum(kernel.size for kernel in own) for own in kernels.values()], float)
    sums = np.array([sum(sum(kernel.shape) for kernel in own) for own in kernels.values()], float)
    return dict(zip(kernels, 1 - _filled(sums, sizes, (1 - sparsity) * sizes.sum()) / sizes, strict=True))


def _filled(amounts: np.ndarray, most: np.ndarray, total: float) -> np.ndarray:
    """Amounts in the same proportions that add up to `total`, none above its `most`."""
    full = np.zeros(len(amounts), bool)
    while True:
        factor = (total - most[full].sum()) / amounts[~full].sum() if not full.all() else 0.0
        found = np.where(full, most, factor * amounts)
        if (found <= most).all():
            return found
        full |= found > most


def lamp(
    model: keras.Model, sparsity: float, *, include: _names.Patterns = None, exclude: _names.Patterns = None
) -> dict[str, float]:
    """Layer-adaptive magnitude pruning: one ranking over all layers, of magnitudes that compare.

    The score of a weight is its square over the sum of squares of all weights of its kernel that are not
    smaller, `w_u^2 / sum_{v: |w_v| >= |w_u|} w_v^2` (Lee et al. 2021, "Layer-Adaptive Sparsity for the
    Magnitude-based
    Pruning"), and the lowest go, wherever they are. Within a kernel the order is that of magnitudes, so that
    pruning each layer by magnitude to its share removes just these. The largest weight of each kernel scores
    1.

    Args:
        model: a trained functional or Sequential model.
        sparsity: see `erk`.
        include: see `erk`.
        exclude: see `erk`.

    Returns:
        Layer path -> the share of its weights that go, as `erk`.

    Raises:
        ValueError: as `erk`, or a weight is NaN.
    """
    kernels = _chosen(model, sparsity, include, exclude)
    grouping.check_finite(model)
    scores = {path: np.concatenate([_lamp(kernel) for kernel in own]) for path, own in kernels.items()}
    ranked = np.concatenate(list(scores.values()))
    owners = np.repeat(np.arange(len(scores)), [len(own) for own in scores.values()])
    kept = np.argsort(-ranked, kind="stable")[: round((1 - sparsity) * len(ranked))]
    counts = np.bincount(owners[kept], minlength=len(scores))
    return {path: 1 - count / len(scores[path]) for path, count in zip(scores, counts.tolist(), strict=True)}


def _lamp(kernel: np.ndarray) -> np.ndarray:
    """The scores of a kernel's weights, the highest first."""
    squares = np.sort(kernel.astype("float64").ravel() ** 2)[::-1]
    sums = np.cumsum(squares)
    return np.divide(squares, sums, out=np.zeros_like(squares), where=sums > 0)


def by_sensitivity(
    model: keras.Model,
    curves: Curves,
    *,
    sparsity: float | None = None,
    budget: Mapping[str, float] | Budget | None = None,
    selection: Selection = Selection(),
) -> dict[str, float]:
    """Prunes layers as far as they bear it: by what accuracy falls when each is pruned alone.

    For a tolerance, each group of coupled layers loses the largest share at which its curve has fallen by no
    more than that; and the tolerance is the smallest that brings the model to the sparsity or the budget (Li
    et al. 2017, section 3.1, choose such ratios by eye). Between measured shares curves are straight, and a
    curve that rises again counts as flat; none goes beyond the largest share measured.

    Args:
        model: the functional or Sequential model that was measured.
        curves: what `analysis.sensitivity` returned: group -> share removed -> figure, with an entry for 0.
        sparsity: the share of channels to remove in all these groups, in [0, 1).
        budget: instead of it, see `tfcompress.prune`.
        selection: its rounding and floor count, as in the `prune` that follows.

    Returns:
        Group name -> share to remove: a `sparsity` for `prune` and `prune_layerwise`.

    Raises:
        ValueError: an argument is wrong, the curves are of another model, or even with all groups at the end
            of their curves the model is too big, with the least that can be reached.

    >>> x = keras.Input((4,))
    >>> y = keras.layers.Dense(8, name="touchy")(keras.layers.Dense(8, name="patient")(x))
    >>> model = keras.Model(x, keras.layers.Dense(1)(y))
    >>> curves = {"patient": {0.0: 0.9, 0.75: 0.9}, "touchy": {0.0: 0.9, 0.75: 0.6}}
    >>> by_sensitivity(model, curves, sparsity=0.25, selection=Selection(round_to=1))
    {'patient': 0.75, 'touchy': 0.0}
    """
    if (sparsity is None) == (budget is None):
        raise ValueError(f"Give either sparsity or budget, got sparsity={sparsity!r} and budget={budget!r}.")
    graph = channels.trace(model)
    drops = {name: _drops(name, curve) for name, curve in _known(graph, curves).items()}
    worst = max(float(fall[-1]) for _, fall in drops.values())
    even = {name: np.zeros(graph[name].size) for name in drops}

    def shares(part: float) -> dict[str, float]:
        return {name: _largest(*drop, part * worst) for name, drop in drops.items()}

    if budget is None:
        return shares(_least(shares, even, sparsity))
    return Budget.of(budget).solve(
        model, graph, even, selection, lambda part: selection.counts(even, shares(part))
    )


def _least(shares: Callable[[float], dict[str, float]], even: Scores, sparsity: Any) -> float:
    """The least part of the largest fall at which so many channels go."""
    check_sparsity(sparsity)
    sizes = {name: len(scores) for name, scores in even.items()}

    def removed(part: float) -> float:
        return sum(share * sizes[name] for name, share in shares(part).items()) / sum(sizes.values())

    if removed(1.0) < sparsity:
        raise ValueError(
            f"The curves go as far as removing {removed(1.0):.1%} of the channels, and a sparsity of "
            f"{sparsity:.1%} is asked for: measure larger shares."
        )
    low, high = 0.0, 1.0
    if removed(low) >= sparsity:
        return low
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if removed(middle) >= sparsity else (middle, high)
    return high


def _drops(name: str, curve: Mapping[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Shares from 0 on, and how far the figure has fallen there; it never rises again."""
    shares = np.array(sorted(curve), float)
    figures = np.array([curve[share] for share in sorted(curve)], float)
    if not len(shares) or shares[0] != 0 or shares[-1] >= 1 or not np.isfinite(figures).all():
        raise ValueError(
            f"The curve of '{name}' must have finite figures for shares in [0, 1), 0 among them, got "
            f"{dict(curve)}."
        )
    return shares, np.maximum.accumulate(figures[0] - figures)


def _largest(shares: np.ndarray, drops: np.ndarray, tolerance: float) -> float:
    """The largest share at which no more than the tolerance is lost; straight lines lie between points."""
    last = int(np.flatnonzero(drops <= tolerance)[-1])
    if last == len(shares) - 1:
        return float(shares[-1])
    part = (tolerance - drops[last]) / (drops[last + 1] - drops[last])
    return float(shares[last] + part * (shares[last + 1] - shares[last]))


def _known(graph: channels.ChannelGraph, curves: Any) -> Curves:
    if not isinstance(curves, Mapping) or not curves:
        raise ValueError(f"curves must be what analysis.sensitivity returned, got {curves!r}.")
    free = {group.name for group in graph.free}
    if unknown := [name for name in curves if name not in free]:
        raise ValueError(
            f"The curves are of another model: this one has no group {unknown[0]!r} to prune, but "
            f"{sorted(free)}."
        )
    return curves


def _chosen(
    model: keras.Model, sparsity: Any, include: _names.Patterns, exclude: _names.Patterns
) -> dict[str, list[np.ndarray]]:
    """Layer path -> its kernels, for layers that can be masked."""
    check_sparsity(sparsity)
    if not isinstance(sparsity, float | int):
        raise ValueError(f"The sparsity of the whole is a number in [0, 1), got {sparsity!r}.")
    _calls.check_functional(model)
    found = {
        path: [to_numpy(weight) for weight, _ in _kernels.kernels(operation)]
        for path, operation in _calls.called(model).items()
        if isinstance(operation, keras.layers.Layer) and not is_masked(operation)
    }
    found = {path: own for path, own in found.items() if own}
    paths = _names.chosen(found, include, exclude)
    if not paths:
        raise ValueError(f"'{model.name}' has no layer with a kernel to prune.")
    return {path: found[path] for path in paths}
