"""Prune the layers that take the most energy first, and by what their outputs lose (Yang et al. 2017)."""

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from rich.console import Console

from tfcompress import _calls, _data, _names, layers
from tfcompress._checks import check_choice, check_number, check_whole
from tfcompress._figures import check_functions, figure
from tfcompress._unfold import inner
from tfcompress.analysis.energy import Hardware, energy
from tfcompress.analysis.grouping import check_finite
from tfcompress.layers.masked import MaskedLayer
from tfcompress.pruning.least_squares import refit, restored
from tfcompress.pruning.reconstruct import Origin, check_fit, fittable, moments
from tfcompress.pruning.unfolded import Unfolded
from tfcompress.selection import check_sparsity

TARGETS = ("original", "current")


@dataclass(frozen=True)
class EnergyRound:
    """What one round over all layers came to.

    Attributes:
        order: the layers, the hungriest first, as they were pruned.
        sparsity: the share of all weights in these layers that are zero now.
        energy: of the whole network now, see `analysis.energy`.
        value: what `evaluate` gave after training; NaN without it.
    """

    order: tuple[str, ...]
    sparsity: float
    energy: float
    value: float


def prune_by_energy(
    model: keras.Model,
    data: Any,
    *,
    sparsity: float | Mapping[str, float],
    retrain: Callable[[keras.Model], Any] | None,
    evaluate: Callable[[keras.Model], float] | None = None,
    tolerance: float = 0.01,
    per_round: float = 0.5,
    share_restored: float = 0.2,
    steps: int = 8,
    target: str = "original",
    positions: int | None = 16,
    ridge: float = 1e-2,
    hardware: Hardware | Mapping[str, Any] | str | os.PathLike | None = None,
    include: _names.Patterns = None,
    exclude: _names.Patterns = None,
    seed: int = 0,
    verbose: bool = True,
) -> keras.Model:
    """Masks single weights, layer by layer from the hungriest down, so that layers say what they said.

    In each round, for each layer from the one with the highest energy (`analysis.energy`) to the lowest
    (Yang, Chen and Sze 2017, "Designing Energy-Efficient Convolutional Neural Networks using Energy-Aware
    Pruning", section 4), with X what it sees in the network as pruned so far, and Y what it is to say:

    1. The weights of smallest magnitude of each filter go, more of them than shall.
    2. Of all that are gone, those come back, with the weights they had, that by themselves lower the error of
       the filter's outputs, `||Y - X A||^2`, most, some at a time.
    3. What is left takes the weights of least error, in closed form (see `reconstruct`).

    Then the whole network is trained with the masks held, and evaluated. Rounds, each with fewer weights, go
    on until accuracy breaks, and the network is given back as it was before that round.

    The paper leaves open how many weights of each layer stay, how many come back, and at how many positions
    outputs are compared; all are arguments here.

    Args:
        model: a trained functional or Sequential model. It is not changed.
        data: images, as `prune` takes them, by which layers are fitted and zeros of activations counted;
            some hundreds.
        sparsity: the share of each layer's weights to have gone at the end, in [0, 1); or a dict from layer
            paths or regular expressions to shares, where layers that none matches stay dense.
        retrain: called with the masked model after each round, e.g. `lambda m: m.fit(train, epochs=1)`. None:
            no training.
        evaluate: from a model to a figure, the higher the better, such as its accuracy on images held out.
            Without it, rounds go on to the end.
        tolerance: how far that figure may fall below that of `model`.
        per_round: the share of the weights left that go in each round, in (0, 1]; 1 for a single round.
        share_restored: of the weights that stay, how many are chosen by the error of outputs, in [0, 1].
        steps: in how many parts these come back; errors are made anew after each.
        target: what a layer is to say: `"original"`, what it said in `model`, so that later layers make up
            for what is lost before them; or `"current"`, what its unpruned weights say to what it sees now.
            The paper's text allows both.
        positions: see `reconstruct`; the paper draws some at random, too.
        ridge: see `reconstruct`.
        hardware: see `analysis.energy`.
        include: layer paths or regular expressions; only Dense layers and convolutions can be named.
        exclude: likewise, these stay dense.
        seed: of the draws.
        verbose: print a line per round.

    Returns:
        The model with its masks, as of `tfcompress.wrap`, and with an `EnergyRound` for each round, the one
        that broke included, in its attribute `rounds`; `tfcompress.strip` folds masks in.

    Raises:
        ValueError: an argument is wrong, a pattern matches nothing, data is missing or does not fit, or a
            weight is NaN.

    >>> x = keras.Input((16,))
    >>> y = keras.layers.Dense(8, activation="relu", name="hidden")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="head")(y))
    >>> masked = prune_by_energy(model, np.random.rand(64, 16), sparsity=0.75, retrain=None, verbose=False)
    >>> len(masked.rounds), float(masked.get_layer("hidden").masked[0].kept.mean())
    (2, 0.25)
    """
    check_sparsity(sparsity)
    _check(retrain, evaluate, tolerance, per_round, share_restored, steps, target)
    check_fit(positions, ridge)
    _calls.check_functional(model)
    check_finite(model)
    if data is None:
        raise ValueError("Energy-aware pruning looks at activations: pass data, e.g. a few hundred images.")
    data = _data.repeatable(data)
    shares = _shares(model, sparsity, include, exclude)
    least = math.nan if evaluate is None else figure(evaluate, model) - tolerance
    masked = layers.wrap(model, lambda layer: MaskedLayer(layer), include=list(shares))
    fit = _Fit(model, masked, data, shares, share_restored, steps, target, positions, ridge, seed)
    rounds: list[EnergyRound] = []
    for density in _densities(max(shares.values()), per_round):
        before = masked.get_weights()
        order = [
            path for path in energy(_folded(masked), data=data, hardware=hardware).by_layer if path in shares
        ]
        for path in order:
            fit.prune(path, max(density, 1 - shares[path]))
        if retrain is not None:
            retrain(masked)
        value = math.nan if evaluate is None else figure(evaluate, masked)
        total = energy(_folded(masked), data=data, hardware=hardware).total
        rounds.append(EnergyRound(tuple(order), fit.sparsity, total, value))
        if verbose:
            _report(len(rounds), rounds[-1])
        if evaluate is not None and not value >= least:
            masked.set_weights(before)
            if len(rounds) == 1:
                _warn(value, least)
            break
    masked.rounds = tuple(rounds)
    return masked


@dataclass(frozen=True)
class _Fit:
    """Prunes layers of `masked`, which began as `model`."""

    model: keras.Model
    masked: keras.Model
    data: Any
    shares: Mapping[str, float]
    share_restored: float
    steps: int
    target: str
    positions: int | None
    ridge: float
    seed: int

    @property
    def wrappers(self) -> dict[str, MaskedLayer]:
        return {path: layer for path, layer in _calls.walk(self.masked) if path in self.shares}

    @property
    def sparsity(self) -> float:
        masks = [wrapper.masked[0].kept for wrapper in self.wrappers.values()]
        return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)

    def prune(self, path: str, density: float) -> None:
        """Leaves a layer so many of its weights, and gives these the values of least error."""
        wrapper = self.wrappers[path]
        unfolded = Unfolded(inner(wrapper))
        weights, kept = unfolded.weights(), unfolded.fold(wrapper.masked[0].kept)
        found = moments(
            self.masked,
            path,
            self.data,
            self.positions,
            self.seed,
            reference=self.model if self.target == "original" else self.masked,
            origin=Origin(path, np.arange(unfolded.outputs)),
            weights=Unfolded(inner(dict(_calls.walk(self.model))[path])).weights(),
        )
        columns = kept.shape[1]
        stay = max(1, round(density * columns))
        first = max(0, stay - round(self.share_restored * stay))
        support = unfolded.with_bias(_largest(np.where(kept, np.abs(weights[:, :columns]), -1.0), first))
        missing = np.full((len(kept), kept.shape[2]), stay - first)
        support = restored(found, weights, support, missing, self.steps)
        unfolded.assign(np.where(support, refit(found, weights, support, self.ridge), weights))
        wrapper.masked[0].mask.assign(unfolded.unfold(support[:, :columns]))


def _largest(magnitudes: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest of each filter, for `(groups, columns, filters)`; of equal ones the first."""
    ranks = np.argsort(np.argsort(-magnitudes, axis=1, kind="stable"), axis=1, kind="stable")
    return ranks < count


def _densities(sparsity: float, per_round: float) -> list[float]:
    """The share of weights that stays in each round, down to `1 - sparsity`."""
    densities = []
    density = 1.0
    while density > 1 - sparsity:
        density = max(density * (1 - per_round), 1 - sparsity)
        densities.append(density)
    return densities


def _folded(masked: keras.Model) -> keras.Model:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No mask of")
        return layers.strip(masked)


def _shares(
    model: keras.Model,
    sparsity: float | Mapping[str, float],
    include: _names.Patterns,
    exclude: _names.Patterns,
) -> dict[str, float]:
    """Layer path -> the share of weights that goes."""
    found, reasons = fittable(model)
    asked = _names.chosen(found, include, exclude)
    refused = [path for path in asked if path in reasons]
    if include is not None and refused:
        raise ValueError(f"Layer '{refused[0]}' cannot be pruned: {reasons[refused[0]]}.")
    shares = _names.shares([path for path in asked if path not in refused], sparsity)
    if not shares:
        raise ValueError(f"'{model.name}' has no Dense layer and no convolution to prune.")
    return shares


def _check(
    retrain: Any, evaluate: Any, tolerance: Any, per_round: Any, share_restored: Any, steps: Any, target: Any
) -> None:
    check_functions(required=False, retrain=retrain, evaluate=evaluate)
    for name, value in {"tolerance": tolerance, "share_restored": share_restored}.items():
        check_number(name, value, "[0, 1]")
    check_number("per_round", per_round, "(0, 1]")
    check_whole("steps", steps)
    check_choice("target", target, TARGETS)


def _warn(value: float, least: float) -> None:
    warnings.warn(
        f"The first round took evaluate() to {value:.4g}, below {least:.4g}, so nothing is pruned. Train "
        "longer, let less go per_round, or allow more tolerance.",
        stacklevel=3,
    )


def _report(number: int, found: EnergyRound) -> None:
    value = "" if math.isnan(found.value) else f", value {found.value:.4f}"
    line = f"round {number}: {found.sparsity:.1%} of the weights are zero, energy {found.energy:.3g}{value}"
    Console().print(line, markup=False, highlight=False)
