"""How many bits the weights of each layer get, where the whole file is to have some size."""

import bisect
import math
from collections.abc import Mapping
from typing import Any

import keras

from tfcompress import _calls, _kernels
from tfcompress._arrays import to_numpy
from tfcompress._checks import is_number, is_whole, near_miss
from tfcompress.analysis.bit_sensitivity import OWN
from tfcompress.coding import arrays, container, models
from tfcompress.layers.shared import MAX_BITS
from tfcompress.layers.sharing import with_few_values
from tfcompress.layers.substituted import SubstitutedLayer
from tfcompress.layers.wrapping import maskable

Curves = Mapping[str, Mapping[int, float]]


def bits_for(
    model: keras.Model, curves: Curves, size: float, *, method: str = "linear", seed: int = 0
) -> dict[str, int]:
    """The bits of each layer with which a model fits into a file, such that no layer alone costs more.

    For a tolerance t, each layer gets the fewest bits with which its figure, measured while it alone shares
    values, is at most t below that of the model as it is; a figure that falls again with more bits counts as
    it is there. The smallest t whose file is not too big is taken. Sizes are those of real codings, of all
    layers together; training the values afterwards changes them by some bytes, since zeros and numbers stay.

    Args:
        model: the model that the curves are of.
        curves: what `analysis.bit_sensitivity` returned: layer path -> bits -> figure, the higher the
            better, with 32 for the model as it is. For a loss, let `evaluate` return its negative.
        size: of the file that `save_compressed` writes: bytes; or, up to 1, a share of the plain weights'.
        method: the one that you will share with.
        seed: likewise.

    Returns:
        Layer path -> bits, for `share(model, bits)`. Layers without a curve are not in it, and stay.

    Raises:
        ValueError: even the fewest bits measured take more (the message says how much); or the curves are
            not of this model, or lack 32 or another point; or the model is masked, subclassed or not built.

    >>> x = keras.Input((50,))
    >>> model = keras.Model(x, keras.layers.Dense(40, name="head")(keras.layers.Dense(60, name="body")(x)))
    >>> curves = {"body": {2: 0.9, 4: 0.9, 32: 0.9}, "head": {2: 0.5, 4: 0.9, 32: 0.9}}
    >>> bits_for(model, curves, size=0.3)
    {'body': 2, 'head': 4}
    """
    _check(model, curves, size)
    limit = size * sum(to_numpy(weight).nbytes for weight in model.weights) if size <= 1 else size
    costs = {path: _costs(curve) for path, curve in curves.items()}
    tolerances = sorted({cost for by_bits in costs.values() for cost in by_bits.values()})
    files = _Files(model, method, seed)

    def fits(tolerance: float) -> bool:
        return files.size(_fewest(costs, tolerance)) <= limit

    place = bisect.bisect_left(tolerances, True, key=fits)
    if place == len(tolerances):
        least = files.size(_fewest(costs, tolerances[-1]))
        raise ValueError(
            f"A file of {limit:,.0f} bytes is too small: with the fewest bits measured it takes {least:,}. "
            "Prune the model, measure fewer bits, or include more layers."
        )
    return _fewest(costs, tolerances[place])


def _costs(curve: Mapping[int, float]) -> dict[int, float]:
    """Bits -> what they cost, the most bits first; no less than more bits do."""
    worst, found = -math.inf, {}
    for bits in sorted(curve, reverse=True):
        if bits != OWN:
            worst = found[bits] = max(worst, curve[OWN] - curve[bits])
    return found


def _fewest(costs: Mapping[str, Mapping[int, float]], tolerance: float) -> dict[str, int]:
    """Layer path -> the fewest bits that cost no more; the most measured where all do."""
    return {
        path: min([bits for bits, cost in by_bits.items() if cost <= tolerance], default=max(by_bits))
        for path, by_bits in costs.items()
    }


class _Files:
    """What files take in which layers share values."""

    def __init__(self, model: keras.Model, method: str, seed: int):
        self._header = models.described(model)
        self._weights = model.weights
        self._kernels = {
            path: [id(weight) for weight, _ in _kernels.kernels(layer)]
            for path, layer in maskable(model).items()
        }
        self._settings = method, seed
        self._coded: dict[tuple[int, int], container.Entry] = {}

    def size(self, bits: Mapping[str, int]) -> int:
        """Bytes, with so many bits for these layers."""
        shared = {kernel: each for path, each in bits.items() for kernel in self._kernels[path]}
        entries = [self._remembered(weight, shared.get(id(weight), OWN)) for weight in self._weights]
        return len(container.head(self._header, entries)) + sum(sum(entry.sizes) for entry in entries)

    def _remembered(self, weight: keras.Variable, bits: int) -> container.Entry:
        key = id(weight), bits
        if key not in self._coded:
            self._coded[key] = self._entry(weight, bits)
        return self._coded[key]

    def _entry(self, weight: keras.Variable, bits: int) -> container.Entry:
        array = to_numpy(weight) if bits == OWN else with_few_values(weight, bits, *self._settings)
        array = models.unsigned(array)
        return container.Entry.of(weight.path, array, arrays.encode(array))


# ------------------------------------------------------------------ arguments


def _check(model: keras.Model, curves: Any, size: Any) -> None:
    _calls.check_functional(model)
    if any(isinstance(operation, SubstitutedLayer) for _, operation in _calls.walk(model)):
        raise ValueError(f"'{model.name}' has masks or shared values: strip(model) first.")
    if not is_number(size, "(0, inf]"):
        raise ValueError(f"size is a number of bytes, or a share up to 1, got {size!r}.")
    if not isinstance(curves, Mapping) or not curves:
        raise ValueError(f"curves are what analysis.bit_sensitivity(model, ...) returns, got {curves!r}.")
    paths = list(maskable(model))
    for path, curve in curves.items():
        if path not in paths:
            raise ValueError(f"{near_miss('layer', path, paths)} The curves must be of the model given.")
        if not isinstance(curve, Mapping) or OWN not in curve or len(curve) < 2 or not _finite(curve):
            raise ValueError(
                f"The curve of '{path}' must have a finite figure for {OWN}, the model as it is, and for a "
                f"number of bits from 1 to {MAX_BITS}, got {curve!r}."
            )


def _finite(curve: Mapping[Any, Any]) -> bool:
    keys = all(bits == OWN or is_whole(bits, 1, MAX_BITS) for bits in curve)
    return keys and all(map(is_number, curve.values()))
