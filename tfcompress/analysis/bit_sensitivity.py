"""How much accuracy each layer costs whose weights share values."""

from collections.abc import Callable, Iterable

import keras

from tfcompress import _cloning, _kernels
from tfcompress._arrays import to_numpy
from tfcompress._figures import check_functions, figure
from tfcompress._names import Patterns
from tfcompress.layers.shared import check_bits
from tfcompress.layers.sharing import with_few_values
from tfcompress.layers.wrapping import maskable

OWN = 32  # bits of a weight that shares its value with none
BITS = (1, 2, 3, 4, 5, 6, 7, 8)


def bit_sensitivity(
    model: keras.Model,
    evaluate: Callable[[keras.Model], float],
    *,
    bits: Iterable[int] = BITS,
    method: str = "linear",
    include: Patterns = None,
    exclude: Patterns = None,
    seed: int = 0,
) -> dict[str, dict[int, float]]:
    """Lets the weights of each layer alone share fewer and fewer values, without training.

    Layers whose figure falls early need more bits. `tfcompress.bits_for` reads them off, for a file of
    some size.

    Args:
        model: a built functional or Sequential model without masks; `strip` it. It is not changed.
        evaluate: from a model of the same shape, compiled as `model` was, to the number to report, e.g.
            `lambda m: m.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]`.
        bits: of a code, each from 1 to 12.
        method: see `tfcompress.share`.
        include: see `tfcompress.share`.
        exclude: see `tfcompress.share`.
        seed: see `tfcompress.share`.

    Returns:
        Layer path -> bits -> what `evaluate` gave; the entry for 32 is the model as it is.

    Raises:
        ValueError: see `tfcompress.share`.

    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, keras.layers.Dense(10, name="head")(x))
    >>> bit_sensitivity(model, lambda m: len(set(m.get_weights()[0].ravel().tolist())), bits=[1, 2])
    {'head': {1: 1.0, 2: 3.0, 32: 40.0}}
    """
    bits = sorted(bits)
    for each in bits:
        check_bits(each)
    check_functions(evaluate=evaluate)
    copy = _cloning.clone(model)
    whole = figure(evaluate, copy)
    return {
        path: {**{each: _figure_at(each, copy, layer, evaluate, method, seed) for each in bits}, OWN: whole}
        for path, layer in maskable(copy, include, exclude).items()
    }


def _figure_at(
    bits: int, copy: keras.Model, layer: keras.layers.Layer, evaluate: Callable, method: str, seed: int
) -> float:
    """Evaluates the copy while the layer's weights share values, and puts them back."""
    kernels = [weight for weight, _ in _kernels.kernels(layer)]
    before = [to_numpy(kernel) for kernel in kernels]
    for kernel in kernels:
        kernel.assign(with_few_values(kernel, bits, method, seed))
    found = figure(evaluate, copy)
    for kernel, value in zip(kernels, before, strict=True):
        kernel.assign(value)
    return found
