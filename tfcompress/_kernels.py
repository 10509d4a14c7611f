"""The weights that multiply inputs, and what their axes run over.

>>> import keras
>>> layer = keras.layers.Conv2D(8, 3)
>>> layer.build((None, 16, 16, 4))
>>> [(weight.name, layout) for weight, layout in kernels(layer)]
[('kernel', Layout(outputs=(-1,), channels=(-2,)))]

Every kernel can be read as a matrix, as in a convolution by matrix product: one row per output, one
column per tap and input channel. The structures that papers on sparsity name are read off it: a
filter is a row, a "shape" a column, an input channel the columns of all its taps.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress import _calls


@dataclass(frozen=True)
class Layout:
    """Which axes of a kernel run over outputs and over input channels; the others run over taps."""

    outputs: tuple[int, ...] = (-1,)
    channels: tuple[int, ...] = (-2,)

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """How many outputs, taps and input channels a kernel of this shape has."""
        outputs = math.prod(shape[axis] for axis in self.outputs)
        channels = math.prod(shape[axis] for axis in self.channels)
        return outputs, math.prod(shape) // max(outputs * channels, 1), channels

    def taps(self, rank: int) -> list[int]:
        """The axes that run over taps, in a kernel of so many axes; there are none but in convolutions."""
        others = [axis % rank for axis in self.outputs + self.channels]
        return [axis for axis in range(rank) if axis not in others]

    def lower(self, kernel: np.ndarray) -> np.ndarray:
        """The kernel as `(outputs, taps, channels)`.

        >>> Layout().lower(np.zeros((3, 3, 4, 8))).shape
        (8, 9, 4)
        """
        return kernel.transpose(self._order(kernel.ndim)).reshape(self.sizes(kernel.shape))

    def lift(self, lowered: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The inverse of `lower`, for a kernel of this shape."""
        order = self._order(len(shape))
        return lowered.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))

    def _order(self, rank: int) -> list[int]:
        """The axes in the order outputs, taps, channels, counted from 0."""
        outputs = [axis % rank for axis in self.outputs]
        channels = [axis % rank for axis in self.channels]
        return outputs + self.taps(rank) + channels


def kernels(layer: Any) -> list[tuple[keras.Variable, Layout]]:
    """The kernels of a layer and of the layers it wraps, with their layouts.

    A layer of unknown kind has those of the layers it holds, and as kernels of its own its weights of two or
    more axes that bear the name of one: `kernel`, `recurrent_kernel`, `depthwise_kernel`,
    `pointwise_kernel`, `embeddings`.
    """
    if inner := _calls.wrapped_layers(layer):
        return [pair for child in inner for pair in kernels(child)]
    layouts = _layouts(layer)
    held = _held(layer) if layouts is _NAMED and isinstance(layer, keras.Layer) else []
    within = {id(weight): layout for child in held for weight, layout in kernels(child)}
    found = []
    for weight in getattr(layer, "weights", []):
        ending = next((name for name in layouts if f"/{weight.path}".endswith(f"/{name}")), None)
        if id(weight) in within:
            found.append((weight, within[id(weight)]))
        elif ending is not None and len(weight.shape) > 1:
            found.append((weight, layouts[ending]))
    return found


def biases(layer: Any) -> list[tuple[keras.Variable, Layout]]:
    """The biases of a layer and of the layers it wraps; every entry counts as an output."""
    if inner := _calls.wrapped_layers(layer):
        return [pair for child in inner for pair in biases(child)]
    found = [weight for weight in getattr(layer, "weights", []) if weight.path.split("/")[-1] == "bias"]
    return [(weight, Layout(tuple(range(len(weight.shape))), ())) for weight in found]


def by_layer(model: keras.Model) -> dict[str, list[tuple[keras.Variable, Layout]]]:
    """The kernels of every layer that has some of its own, by the layer's path.

    A subclassed model is searched through the attributes of its layers. There a layer goes by its name, and
    by its path where several have the same name.

    Raises:
        ValueError: the model has no kernels, perhaps because it is not built yet.
    """
    if _calls.is_functional(model):
        layers = [(path, op) for path, op in _calls.walk(model) if not _calls.wrapped_layers(op)]
        found = {path: kernels(op) for path, op in layers if not _calls.is_functional(op)}
    else:
        held = list(all_held(model))
        names = [layer.name for layer in held]
        found = {
            layer.name if names.count(layer.name) == 1 else layer.path: _own_kernels(layer) for layer in held
        }
    found = {path: pairs for path, pairs in found.items() if pairs}
    if not found:
        raise ValueError(
            f"'{model.name}' has no kernels. If it is not built yet, call it once, on a batch of data."
        )
    return found


def _own_kernels(layer: keras.Layer) -> list[tuple[keras.Variable, Layout]]:
    inner = {id(weight) for child in _held(layer) for weight in child.weights}
    return [(weight, layout) for weight, layout in kernels(layer) if id(weight) not in inner]


def all_held(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Every layer inside this one, once."""
    seen: set[int] = set()
    waiting = _held(layer)
    while waiting:
        child = waiting.pop(0)
        if id(child) not in seen:
            seen.add(id(child))
            yield child
            waiting.extend(_held(child))


def _held(layer: keras.Layer) -> list[keras.Layer]:
    """The layers in the attributes of a layer, also in lists and dicts."""
    found: list[keras.Layer] = []
    waiting = list(vars(layer).values())
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, keras.Layer):
            found.append(value)
        elif isinstance(value, (list, tuple, dict)):
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return found


def _layouts(layer: Any) -> dict[str, Layout]:
    """End of a weight's path -> its layout."""
    for cls in type(layer).__mro__:
        if cls in _TABLE:
            layouts = _TABLE[cls]
            return layouts(layer) if callable(layouts) else layouts
    return _NAMED


def _einsum(layer: keras.layers.EinsumDense) -> dict[str, Layout]:
    """What is summed over are channels; what the input has and the output keeps, too, are taps."""
    source, rest = layer.equation.replace(" ", "").replace("...", "").split(",")
    kernel, made = rest.split("->")
    channels = tuple(axis for axis, label in enumerate(kernel) if label not in made)
    outputs = tuple(axis for axis, label in enumerate(kernel) if label not in source)
    return {"kernel": Layout(outputs, channels)}


_DEPTHWISE = Layout((-2, -1), ())  # every output has one channel of its own
_TRANSPOSED = {"kernel": Layout((-2,), (-1,))}
_SEPARABLE = {"depthwise_kernel": _DEPTHWISE, "pointwise_kernel": Layout()}
_NAMED = dict.fromkeys(("kernel", "recurrent_kernel", "embeddings"), Layout()) | _SEPARABLE
_PROJECTION = Layout((1, 2), (0,))  # (channels, heads, size of a head)
_ATTENTION = {
    "query/kernel": _PROJECTION,
    "key/kernel": _PROJECTION,
    "value/kernel": _PROJECTION,
    "gate/kernel": _PROJECTION,
    "attention_output/kernel": Layout((2,), (0, 1)),
}
_TABLE: dict[type, dict[str, Layout] | Callable[[Any], dict[str, Layout]]] = {
    layers.Conv1DTranspose: _TRANSPOSED,
    layers.Conv2DTranspose: _TRANSPOSED,
    layers.Conv3DTranspose: _TRANSPOSED,
    layers.DepthwiseConv1D: {"kernel": _DEPTHWISE},
    layers.DepthwiseConv2D: {"kernel": _DEPTHWISE},
    layers.EinsumDense: _einsum,
    layers.MultiHeadAttention: _ATTENTION,
    layers.GroupQueryAttention: _ATTENTION,
}
