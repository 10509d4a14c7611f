"""Which tensors of a model are the same whatever the model is given.

A filter that is all zero still makes something: its bias, and after BatchNormalization and
activation another constant. To find all that is constant, the layers that mix channels are made to
say random numbers, of both signs and of very different size, where their filters are not zero. What
is the same through all of that, to the last bit, does not depend on them.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress import _calls, _kernels
from tfcompress._arrays import to_numpy
from tfcompress.channels.specs import stock_class

OPEN_SIZE = 16  # stands in for a size that the model leaves open
_DRAWS = 4

# Layers of which it is known that an output with a zero filter is constant: `(kernel, ...)`.
_FILTERED = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_EACH = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)  # mix no channels


class Seen(NamedTuple):
    """The input tensors of call `number` of an operation.

    `values` are those of the first draw and `same` tells which elements were the same in all, both
    without a batch axis.
    """

    path: str
    number: int
    operation: Any
    values: list[np.ndarray]
    same: list[np.ndarray]


def watch(model: keras.Model, wanted: Callable[[Any], bool], *, through: bool) -> Iterator[Seen]:
    """Yields what each call of the wanted operations reads.

    Args:
        model: a functional model.
        wanted: operation -> whether its calls are yielded.
        through: whether what a layer makes of nothing but constants counts as constant, too.
    """
    paths = {id(operation): path for path, operation in _calls.walk(model)}
    rng = np.random.default_rng(0)
    seen: list[Seen] = []

    def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
        given = _calls.tensors(args, kwargs)
        if wanted(step.operation):
            arrays = [keras.ops.convert_to_numpy(tensor) for tensor in given]
            path = paths[id(step.operation)]
            firsts, same = [array[0] for array in arrays], [_same(array) for array in arrays]
            seen.append(Seen(path, step.index, step.operation, firsts, same))
        if _calls.is_functional(step.operation):
            # A model that is given a mask does nothing with it.
            unmasked = {name: value for name, value in kwargs.items() if name != "mask"}
            return _calls.read(step.operation).run(_calls.tensors(args, unmasked), call)
        made = step.operation(*args, **kwargs)
        if through and given and all(_same(tensor).all() for tensor in given):
            return keras.tree.map_structure(_repeated, made)
        return keras.tree.map_structure(lambda tensor: _stirred(step.operation, tensor, rng), made)

    _calls.read(model).run([_noise(t.shape, t.dtype, rng) for t in model.inputs], call)
    yield from seen


def probe_shape(shape: tuple) -> tuple[int, ...]:
    """A shape without its batch axis, open sizes filled in as `watch` does."""
    return tuple(size or OPEN_SIZE for size in shape[1:])


def _same(tensor: Any) -> np.ndarray:
    array = keras.ops.convert_to_numpy(tensor)
    return (array == array[:1]).all(axis=0)  # NaN equals nothing


def _repeated(tensor: Any) -> Any:
    """The first draw for all: equal images can differ in the last bit, by their place in the batch."""
    return keras.ops.repeat(tensor[:1], _DRAWS, axis=0)


def _stirred(operation: Any, tensor: Any, rng: np.random.Generator) -> Any:
    """Noise in place of all outputs that the operation mixes from its inputs."""
    kernels = _kernels.kernels(operation) if isinstance(operation, keras.Layer) else []
    inner, steps = unwrapped(operation)
    layer = [operation, *inner][-1]
    if not kernels or stock_class(layer, _EACH):
        return tensor
    noise = _noise(tensor.shape, keras.backend.standardize_dtype(tensor.dtype), rng)
    if not stock_class(layer, _FILTERED):
        return noise
    kernel, layout = kernels[-1]  # of a separable convolution the pointwise one
    zero = ~(layout.lower(to_numpy(kernel)) != 0).any(axis=(1, 2))
    first = getattr(layer, "data_format", None) == "channels_first"
    axis = 1 + steps if first else len(tensor.shape) - 1
    return keras.ops.where(
        zero.reshape([-1 if a == axis else 1 for a in range(len(tensor.shape))]), tensor, noise
    )


def unwrapped(operation: Any) -> tuple[list[keras.Layer], int]:
    """The layers inside `TimeDistributed`, outer ones first, and how many axes of steps they lie under."""
    inner: list[keras.Layer] = []
    while type(operation) is keras.layers.TimeDistributed and not _calls.is_functional(operation.layer):
        operation = operation.layer
        inner.append(operation)
    return inner, len(inner)


def _noise(shape: tuple, dtype: str, rng: np.random.Generator) -> Any:
    """Small and big numbers with both signs: something of it passes any activation."""
    size = (2, *probe_shape(shape))
    if dtype.startswith("float"):
        small, big = rng.normal(size=size) * np.array([1.0, 1e3]).reshape([2] + [1] * (len(size) - 1))
        draws = np.stack([small, -small, big, -big])
    else:
        draws = np.concatenate([rng.integers(0, 2, size), 1 - rng.integers(0, 2, size)])
    return keras.ops.cast(draws, dtype)
