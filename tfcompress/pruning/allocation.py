"""How much to remove from which layer, where not all are to lose the same share.

`erk` and `lamp` share out single weights over layers, for masks; `from_sensitivity` channels over groups
of coupled layers, for `prune` and `prune_layerwise`.

>>> from tfcompress import layers
>>> x = keras.Input((64,))
>>> model = keras.Model(x, keras.layers.Dense(10, name="head")(keras.layers.Dense(100, name="body")(x)))
>>> rules = {path: layers.MagnitudePruning(share) for path, share in erk(model, 0.9).items()}
>>> sparse = layers.wrap(model, rules)
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfcompress import _kernels, channels
from tfcompress._arrays import to_numpy
from tfcompress._checks import check_number, is_number, near_miss
from tfcompress._names import Patterns
from tfcompress._ranking import largest
from tfcompress.analysis import grouping
from tfcompress.channels import ChannelGraph
from tfcompress.layers.wrapping import maskable
from tfcompress.pruning.budget import Budget, number, shares_of
from tfcompress.selection import Masks, Scores, Selection

Curves = Mapping[str, Mapping[float, float]]
Kernels = list[tuple[keras.Variable, _kernels.Layout]]


def erk(
    model: keras.Model, sparsity: float, *, include: Patterns = None, exclude: Patterns = None
) -> dict[str, float]:
    """Shares out single weights by the sizes of layers alone: the Erdos-Renyi-Kernel rule.

    Small layers stay dense, big ones give the most. The density of a layer is proportional to

        (n_in + n_out + h + w) / (n_in * n_out * h * w)

    for a convolution of n_out filters of (h, w, n_in), and to (n_in + n_out) / (n_in * n_out) for a dense
    layer, so that the number of its weights that stay is proportional to the sum above (Mocanu et al. 2018,
    "Scalable training of artificial neural networks with adaptive sparse connectivity"; Evci et al. 2020,
    "Rigging the Lottery", section 3). One factor for all layers makes the total right; layers that
    it would make denser than dense stay whole, and it grows for the others. The weights that stay add up
    to `total - round(sparsity * total)`, and every layer keeps one at least.

    A layer with several kernels, such as a recurrent one, has the sum of theirs above and below. In a
    grouped convolution n_in is that of one group; in a depthwise one it is 1, and n_out is the number of
    all outputs. Biases are not counted.

    Args:
        model: a built functional or Sequential model.
        sparsity: the share of all these layers' weights to mask, in [0, 1).
        include: layer paths or regular expressions; only these layers lose weights, and count. Without it:
            all that `tfcompress.wrap` can mask, the first and the last, too.
        exclude: likewise, these do not.

    Returns:
        Layer path -> share to mask. `MagnitudePruning(share)` leaves exactly the numbers meant, in layers
        with one kernel.

    Raises:
        ValueError: the sparsity is not in [0, 1), or leaves fewer weights than there are layers; the model is
            subclassed or not built, a pattern matches no layer, no layer is left, or a weight is NaN.

    >>> x = keras.Input((64,))
    >>> model = keras.Model(x, keras.layers.Dense(10, name="head")(keras.layers.Dense(100, name="body")(x)))
    >>> {path: round(share, 3) for path, share in erk(model, 0.9).items()}
    {'body': 0.931, 'head': 0.703}
    """
    kernels = _kernels_of(model, include, exclude)
    sizes = np.array([sum(map(_size, pairs)) for pairs in kernels.values()])
    sums = np.array([sum(map(_sum, pairs)) for pairs in kernels.values()])
    total = _total(sizes, sparsity)
    # What stays, as a function of the common factor, is made of straight lines between these points.
    factors = np.unique(np.concatenate([1 / sums, sizes / sums]))
    kept = np.clip(np.outer(factors, sums), 1, sizes).sum(axis=1)
    counts = _whole(np.clip(np.interp(total, kept, factors) * sums, 1, sizes), total)
    return dict(zip(kernels, _shares(counts, sizes), strict=True))


def lamp(
    model: keras.Model, sparsity: float, *, include: Patterns = None, exclude: Patterns = None
) -> dict[str, float]:
    """Shares out single weights by one ranking over all layers, in which magnitudes are made comparable.

    With the weights of a layer sorted by magnitude, smallest first, the score of weight u is

        score(u) = w_u^2 / sum over v >= u of w_v^2

    (Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning", section 3): its share in
    what is left of the layer when it is the next to go. The `round(sparsity * total)` weights with the
    lowest scores go. In a layer the order of scores is that of magnitudes, and so pruning each layer by
    magnitude with the share given here removes these very weights. The largest weight of a layer has the
    score 1: every layer keeps one at least.

    The scores do not change when all weights of a layer are multiplied by a number. The kernels of
    one layer, such as a recurrent one, are ranked as if they were one; `MagnitudePruning` then takes the
    layer's share from each of them.

    Args:
        model: a trained functional or Sequential model.
        sparsity: see `erk`.
        include: see `erk`.
        exclude: see `erk`.

    Returns:
        Layer path -> share to mask, as of `erk`.

    Raises:
        ValueError: see `erk`.

    >>> x = keras.Input((2,))
    >>> y = keras.layers.Dense(1, use_bias=False, name="second")(keras.layers.Dense(2, name="first")(x))
    >>> model = keras.Model(x, y)
    >>> model.get_layer("first").kernel.assign([[4.0, 3.0], [1.0, 1.0]]).shape
    TensorShape([2, 2])
    >>> model.get_layer("second").kernel.assign([[0.1], [0.1]]).shape
    TensorShape([2, 1])
    >>> lamp(model, 0.5)  # scores 1, 9/25, 1/26, 1/27 and 1, 1/2
    {'first': 0.75, 'second': 0.0}
    """
    kernels = _kernels_of(model, include, exclude)
    scores = [_lamp_scores([to_numpy(weight) for weight, _ in pairs]) for pairs in kernels.values()]
    sizes = np.array([len(values) for values in scores])
    kept = largest(np.concatenate(scores), _total(sizes, sparsity))
    counts = np.array([part.sum() for part in np.split(kept, np.cumsum(sizes)[:-1])])
    return dict(zip(kernels, _shares(counts, sizes), strict=True))


def from_sensitivity(
    model: keras.Model,
    curves: Curves,
    *,
    sparsity: float | None = None,
    budget: Mapping[str, float] | Budget | None = None,
    include: Patterns = None,
    exclude: Patterns = None,
    selection: Selection = Selection(),
) -> dict[str, float]:
    """Shares out channels so that no group alone costs more than another (after Li et al. 2017, section 3.1).

    For a tolerance t, each group loses the most channels with which its figure, pruned alone, is at most t
    below that of the unpruned model: read off its curve, by straight lines between the points measured, where
    a figure that rises again counts as the worst so far. The smallest t that meets the budget, or the
    sparsity, is taken. So layers whose accuracy falls early lose little, and those that nobody misses much.
    Where a curve is flat, so that several groups lose channels at the same t, their shares grow alike. Groups
    lose no more than was measured.

    Li et al. read the sparsities off the curves by eye, and give layers of one stage the same.

    Args:
        model: the model that the curves are of.
        curves: what `analysis.sensitivity` returned: group name -> sparsity -> figure, the higher
            the better; with 0.0 for the unpruned model. For a loss, let `evaluate` return its negative.
        sparsity: the share of all channels of these groups to remove, in [0, 1), but for rounding.
        budget: instead of it: see `prune`.
        include: see `prune`.
        exclude: see `prune`.
        selection: the one that you will prune with: its rounding and floor count; its scope must
            be `"group"`.

    Returns:
        Group name -> share to remove: a `sparsity` for `prune` and `prune_layerwise`. Groups without a curve
        are not in it, and stay whole.

    Raises:
        ValueError: not exactly one of sparsity and budget is given, or it cannot be met with what was
            measured (the message says what can be reached); the curves are not of this model, lack the
            unpruned one or a second point, or hold what is no finite number; or as `sparsity_for`.

    >>> x = keras.Input((4,))
    >>> y = keras.layers.Dense(10, name="second")(keras.layers.Dense(10, name="first")(x))
    >>> model = keras.Model(x, keras.layers.Dense(1)(y))
    >>> curves = {"first": {0.0: 0.9, 0.5: 0.8}, "second": {0.0: 0.9, 0.5: 0.4}}
    >>> shares = from_sensitivity(model, curves, sparsity=0.3, selection=Selection(round_to=1))
    >>> {name: round(share, 2) for name, share in shares.items()}
    {'first': 0.5, 'second': 0.1}
    """
    _check_one(sparsity, budget, selection)
    graph = channels.trace(model)
    tolerances = _tolerances(graph, curves, include, exclude)
    order = _order(tolerances)
    ranked = dataclasses.replace(selection, scope="global", scale="none")
    measured = {name: float(np.isfinite(values).mean()) for name, values in tolerances.items()}
    if budget is None:
        _check_measured(sparsity, tolerances)
        return shares_of(ranked.counts(order, sparsity), order)  # type: ignore[arg-type]
    most = shares_of(selection.counts(order, measured), order)
    limits = Budget.of(budget)
    _check_reachable(model, graph, limits, selection.masks(order, most, graph.balances))
    wanted = limits.solve(model, graph, order, ranked)
    return {name: min(share, most[name]) for name, share in wanted.items()}


# ------------------------------------------------------------------ single weights


def _kernels_of(model: keras.Model, include: Patterns, exclude: Patterns) -> dict[str, Kernels]:
    """Layer path -> its kernels, of the layers that are chosen."""
    found = {path: _kernels.kernels(layer) for path, layer in maskable(model, include, exclude).items()}
    grouping.check_finite(model)
    return found


def _size(pair: tuple[keras.Variable, _kernels.Layout]) -> int:
    return math.prod(pair[0].shape)


def _sum(pair: tuple[keras.Variable, _kernels.Layout]) -> int:
    """n_in + n_out + h + w."""
    weight, layout = pair
    outputs, _, inputs = layout.sizes(tuple(weight.shape))
    taken = {axis % len(weight.shape) for axis in layout.outputs + layout.channels}
    return outputs + inputs + sum(size for axis, size in enumerate(weight.shape) if axis not in taken)


def _total(sizes: np.ndarray, sparsity: Any) -> int:
    """How many weights stay in all."""
    _check_share(sparsity)
    total = int(sizes.sum())
    kept = total - round(sparsity * total)
    if kept < len(sizes):
        raise ValueError(
            f"A sparsity of {sparsity} leaves {kept} of {total:,} weights, but each of the {len(sizes)} "
            f"layers keeps one at least: the most is {1 - len(sizes) / total:.6g}."
        )
    return kept


def _whole(wanted: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers with this sum: those with the largest fractions are rounded up."""
    counts = np.floor(wanted + 1e-9).astype(int)
    order = np.argsort(counts - wanted, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


def _shares(counts: np.ndarray, sizes: np.ndarray) -> list[float]:
    return (1 - counts / sizes).tolist()


def _lamp_scores(kernels: list[np.ndarray]) -> np.ndarray:
    """`(weights,)`, falling."""
    magnitudes = np.abs(np.concatenate([kernel.ravel().astype(float) for kernel in kernels]))
    squares = np.square(np.sort(magnitudes)[::-1] / (magnitudes.max() or 1.0))
    squares[0] = 1.0  # as it is, unless all weights are zero
    return squares / np.cumsum(squares)


# ------------------------------------------------------------------ channels


def _tolerances(graph: ChannelGraph, curves: Any, include: Patterns, exclude: Patterns) -> Scores:
    """Group name -> `(size,)` the tolerance at which each channel goes, of the groups that are chosen."""
    _check_curves(graph, curves)
    groups = [group for group in grouping.chosen(graph, include, exclude) if group.name in curves]
    if not groups:
        raise ValueError(f"No group is left to prune: there are curves of {list(curves)}.")
    return {group.name: _costs(curves[group.name], group.size) for group in groups}


def _costs(curve: Mapping[float, float], size: int) -> np.ndarray:
    """`(size,)` what it costs until each channel is gone, the first one last; infinite where not measured."""
    shares = sorted(curve)
    drops = np.maximum.accumulate([curve[0.0] - curve[share] for share in shares])
    return np.interp(_gone(size) - 1e-9, shares, drops, right=np.inf)


def _gone(size: int) -> np.ndarray:
    """`(size,)` the share that is gone together with each channel, if the last one goes first."""
    return np.arange(size, 0, -1) / size


def _order(tolerances: Scores) -> dict[str, np.ndarray]:
    """Group name -> `(size,)` the place of each channel in the order in which channels of all groups go."""
    sizes = [len(values) for values in tolerances.values()]
    gone = np.concatenate([_gone(size) for size in sizes])
    places = np.argsort(np.lexsort((gone, np.concatenate(list(tolerances.values())))))
    parts = np.split(places.astype(float), np.cumsum(sizes)[:-1])
    return dict(zip(tolerances, parts, strict=True))


def _check_measured(sparsity: Any, tolerances: Scores) -> None:
    most = np.isfinite(np.concatenate(list(tolerances.values()))).mean()
    if sparsity > most + 1e-9:
        raise ValueError(
            f"A sparsity of {sparsity} cannot be met: the curves go to {most:.4g} of all channels. Measure "
            "higher sparsities, or include more layers."
        )


def _check_reachable(model: keras.Model, graph: ChannelGraph, limits: Budget, masks: Masks) -> None:
    """Raises `ValueError` if the model that these masks make is too big."""
    over = limits.excess(channels.shrink(model, graph, masks), model)
    if over:
        reached = ", ".join(
            f"{name} {number(value)} > {number(limit)}" for name, (value, limit) in over.items()
        )
        raise ValueError(
            "The budget cannot be met: with what was measured and the selection's floor the least is "
            f"{reached}. Raise the budget, measure higher sparsities, lower Selection(floor=...), or "
            "include more layers."
        )


# ------------------------------------------------------------------ arguments


def _check_one(sparsity: Any, budget: Any, selection: Selection) -> None:
    if (sparsity is None) == (budget is None):
        raise ValueError(f"Give either sparsity or budget, got sparsity={sparsity!r} and budget={budget!r}.")
    if sparsity is not None:
        _check_share(sparsity)
    if selection.scope != "group":
        raise ValueError("A sparsity for each group needs Selection(scope='group').")


def _check_share(sparsity: Any) -> None:
    check_number("The sparsity, the share to remove in all,", sparsity, "[0, 1)")


def _check_curves(graph: ChannelGraph, curves: Any) -> None:
    if not isinstance(curves, Mapping) or not curves:
        raise ValueError(f"curves are what analysis.sensitivity(model, ...) returns, got {curves!r}.")
    names = [group.name for group in graph.free]
    for name, curve in curves.items():
        if name not in names:
            raise ValueError(f"{near_miss('group', name, names)} The curves must be of the model given.")
        if not _is_curve(curve):
            raise ValueError(
                f"The curve of '{name}' must have a finite figure for 0.0, the unpruned model, and for one "
                f"more sparsity in [0, 1), got {curve!r}."
            )


def _is_curve(curve: Any) -> bool:
    if not isinstance(curve, Mapping) or 0.0 not in curve or len(curve) < 2:
        return False
    return all(is_number(share, "[0, 1)") for share in curve) and all(map(is_number, curve.values()))
