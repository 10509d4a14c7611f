"""Drop single connections by how neurons go along (Sun, Wang and Tang 2016)."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _data, _names, layers
from tfcompress._checks import check_choice, check_number
from tfcompress._figures import check_functions
from tfcompress._names import Patterns
from tfcompress.criteria.correlation import SIGNS, check_images, correlations, why_not
from tfcompress.layers.masked import MaskedLayer
from tfcompress.selection import check_sparsity


def prune_connections(
    model: keras.Model,
    data: Any,
    *,
    sparsity: float | Mapping[str, float],
    retrain: Callable[[keras.Model], Any] | None,
    include: Patterns = None,
    exclude: Patterns = None,
    upper: float = 0.75,
    images: int = 512,
    signs: str = "absolute",
    activated: bool = True,
    seed: int = 0,
) -> keras.Model:
    """Masks connections layer by layer, from the last to the first, and retrains the network in between.

    Whether a connection stays is drawn by the correlation of neuron and input (`criteria.correlations`).
    Of the `K+` inputs with a positive correlation, `S K+` are kept, S = 1 - sparsity: `upper` of them drawn
    from the half with the higher correlations, the rest from the lower half; likewise of the `K-` with a
    negative one, by `|r|` (Sun, Wang and Tang 2016, "Sparsifying Neural Network Connections for Face
    Recognition", section 4). Inputs that never change are dropped; every neuron keeps one input at least.
    Each layer's correlations are those of the network that has adapted to the masks before, and the whole
    network is trained, with the masks held. The paper starts from a trained network, and finds that
    training a sparse one from scratch fails.

    Where a half has fewer inputs than shall be drawn from it, the other one gives the rest, which the paper
    does not say. Which layers it sparsifies, the last convolutional and locally connected ones of face
    networks, is `include` here; Keras 3 has no locally connected layers.

    Args:
        model: a trained functional or Sequential model. It is not changed.
        data: for correlations: arrays or batches, as `tfcompress.prune` takes them.
        sparsity: the share of connections to drop, in [0, 1); or a dict from layer paths or regular
            expressions to shares, where layers that none matches stay dense.
        retrain: called with the masked model after each layer, e.g. `lambda m: m.fit(train, epochs=1)`. None:
            no retraining.
        include: layer paths or regular expressions; only Dense layers and convolutions can be named.
        exclude: likewise, these stay dense.
        upper: the share that is drawn from the more correlated half; lambda in the paper.
        images: see `criteria.correlations`.
        signs: see `criteria.correlations`.
        activated: see `criteria.correlations`.
        seed: of the draws.

    Returns:
        The model with its masks, as of `tfcompress.wrap`; `tfcompress.strip` folds them in.

    Raises:
        ValueError: an argument is wrong, a pattern matches nothing, data is missing or does not fit, or
            `retrain` gave a layer up to NaN.

    >>> x = keras.Input((16,))
    >>> model = keras.Model(x, keras.layers.Dense(2, name="head")(x))
    >>> masked = prune_connections(model, np.random.rand(64, 16), sparsity=0.5, retrain=None)
    >>> bool(masked.get_layer("head").masked[0].kept.mean() <= 0.6)
    True
    """
    check_sparsity(sparsity)
    _check(retrain, upper, images, signs)
    data = _data.repeatable(data)
    shares = _shares(model, sparsity, include, exclude)
    masked = layers.wrap(model, lambda layer: MaskedLayer(layer), include=list(shares))
    for number, (path, share) in enumerate(reversed(shares.items())):
        r = correlations(masked, path, data, images=images, signs=signs, activated=activated)
        rng = np.random.default_rng([seed, number])
        mask = drawn(r.reshape(-1, r.shape[-1]), 1 - share, upper, rng).reshape(r.shape)
        dict(_calls.walk(masked))[path].masked[0].mask.assign(mask)
        if retrain is not None:
            retrain(masked)
    return masked


def drawn(r: np.ndarray, density: float, upper: float, rng: np.random.Generator) -> np.ndarray:
    """Which connections stay, of the shape of `r`, `(inputs, neurons)`; see `prune_connections`."""
    keep = np.zeros(r.shape, bool)
    for neuron, column in enumerate(r.T):
        for sign in (column > 0, column < 0):
            order = np.flatnonzero(sign)[np.argsort(-np.abs(column[sign]), kind="stable")]
            keep[_chosen(order, density, upper, rng), neuron] = True
        if not keep[:, neuron].any():
            keep[np.abs(column).argmax(), neuron] = True
    return keep


def _chosen(order: np.ndarray, density: float, upper: float, rng: np.random.Generator) -> np.ndarray:
    """Draws from the inputs, given in falling order of correlation."""
    half = -(-len(order) // 2)
    count = round(density * len(order))
    high = min(round(upper * count), half)
    low = min(count - high, len(order) - half)
    high = count - low  # what the lower half lacks
    return np.concatenate([rng.permutation(order[:half])[:high], rng.permutation(order[half:])[:low]])


def _shares(
    model: keras.Model, sparsity: float | Mapping[str, float], include: Patterns, exclude: Patterns
) -> dict[str, float]:
    """Layer path -> share to drop, in the order of the layers."""
    _calls.check_functional(model)
    found = {path: layer for path, layer in _calls.walk(model) if not _calls.is_functional(layer)}
    asked = {path: why_not(found[path]) for path in _names.chosen(found, include, exclude)}
    refused = [path for path, reason in asked.items() if reason]
    if include is not None and refused:
        path = refused[0]
        raise ValueError(f"The connections of '{path}' have no correlations: {asked[path]}.")
    paths = [path for path in asked if path not in refused]
    shares = _names.shares(paths, sparsity)
    if not shares:
        raise ValueError(f"'{model.name}' has no Dense layer and no convolution to prune the connections of.")
    return shares


def _check(retrain: Any, upper: Any, images: Any, signs: Any) -> None:
    check_functions(required=False, retrain=retrain)
    check_number("upper", upper, "[0, 1]")
    check_images(images)
    check_choice("signs", signs, SIGNS)
