"""Few values for the weights of a whole model."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _cloning
from tfcompress._arrays import to_numpy
from tfcompress._kernels import kernels
from tfcompress._names import Patterns, shares
from tfcompress.coding import kmeans
from tfcompress.layers.masked import MaskedLayer
from tfcompress.layers.shared import SharedLayer, check_bits
from tfcompress.layers.wrapping import left_alone, maskable, outermost, strip

BITS = {"convolution": 8, "dense": 5}  # of the paper


def share(
    model: keras.Model,
    bits: int | Mapping[str, int] | None = None,
    *,
    method: str = "linear",
    include: Patterns = None,
    exclude: Patterns = None,
    seed: int = 0,
) -> keras.Model:
    """Returns a copy of a model in which the weights of each kernel share few values, by k-means.

    The second stage of Deep Compression (Han, Mao and Dally 2016, section 3). What is zero stays zero: prune
    before. Train the copy by `fit`, which moves the values, and `strip` it: its layers are stock ones then,
    with at most `2^bits - 1` different nonzero entries in each kernel. Masks are made final on the way in.

    Args:
        model: a built functional or Sequential model, with masks or without. It is not changed.
        bits: of a code, from 1 to 12; or a dict from layer paths or regular expressions to that, of which the
            first match counts, and layers that none matches stay as they are. None: those of the paper, 8 for
            kernels of convolutions and 5 for others.
        method: where the centroids of k-means begin: `"linear"`, `"density"`, `"random"`; or `"exact"`. See
            `coding.kmeans.cluster`.
        include: layer paths or regular expressions; only these layers. Without it: all that have kernels.
        exclude: likewise, not those.
        seed: of random beginnings.

    Returns:
        The model; its attribute `left_alone` says of each other layer why its values are its own.

    Raises:
        ValueError: the model is subclassed or not built, a pattern matches no layer, a layer that is named
            has no kernel, or a weight is NaN or infinite; the bits or the method do not exist.

    >>> x = keras.Input((8,))
    >>> model = keras.Model(x, keras.layers.Dense(40, name="head")(x))
    >>> shared = share(model, 3)
    >>> len(np.unique(strip(shared).get_layer("head").kernel)) <= 7
    True
    """
    _calls.check_functional(model)
    if any(isinstance(operation, MaskedLayer) for _, operation in _calls.walk(model)):
        model = strip(model)
    layers = maskable(model, include, exclude)
    everywhere = dict(outermost(model))
    given = shares(everywhere, bits)
    for one in given.values():
        if one is not None:
            check_bits(one)
    chosen = {path: given[path] or _of_the_paper(layer) for path, layer in layers.items() if path in given}
    places = {path: place for place, path in enumerate(everywhere)}

    def convert(path: str, operation: Any, copied: Callable) -> Any:
        made = copied(operation)
        return SharedLayer(made, chosen[path], places[path]) if path in chosen else made

    def finish(new: keras.Model) -> None:
        for _, layer in _calls.walk(new):
            if isinstance(layer, SharedLayer):
                _fill(layer, method, seed)

    copy = _cloning.copy(model, convert=convert, finish=finish)
    copy.left_alone = left_alone(everywhere, chosen)
    return copy


def _of_the_paper(layer: keras.layers.Layer) -> int:
    taps = any(layout.taps(len(weight.shape)) for weight, layout in kernels(layer))
    return BITS["convolution" if taps else "dense"]


def _fill(layer: SharedLayer, method: str, seed: int) -> None:
    for shared in layer.shared:
        shared.weight.trainable = False
        shared.assign(*table_of(shared.weight, layer.bits, method, seed))


def table_of(
    weight: keras.Variable, bits: int, method: str = "linear", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The values for a kernel's entries, and for each entry the number of its own, from 1; 0 for zero.

    Raises:
        ValueError: a weight is NaN or infinite, or there is no such method.
    """
    weights = to_numpy(weight)
    if not np.isfinite(weights).all():
        raise ValueError(f"'{weight.path}' has NaN or infinite weights; train it to finite values first.")
    codes, live = np.zeros(weights.shape, np.min_scalar_type(2**bits - 1)), weights != 0
    if not live.any():
        return np.zeros(0, "float32"), codes
    values = kmeans.cluster(weights[live], 2**bits - 1, method, seed=seed)
    codes[live] = kmeans.nearest(weights[live], values).astype(codes.dtype) + 1
    return values, codes


def with_few_values(weight: keras.Variable, bits: int, method: str = "linear", seed: int = 0) -> np.ndarray:
    """The kernel as `share` would leave it. Raises as `table_of`."""
    values, codes = table_of(weight, bits, method, seed)
    return np.concatenate([np.zeros(1, values.dtype), values])[codes]
