"""What each neuron of a Dense layer or of a convolution sees of the layer's input.

>>> import keras, numpy as np
>>> layer = keras.layers.Conv1D(1, 3, padding="same")
>>> layer.build((None, 4, 1))
>>> window = Window.of(layer)
>>> window.seen(window.padded(np.arange(4.0).reshape(1, 4, 1)))[0, 0].ravel()  # by the first neuron
array([0., 0., 1.])
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


def inner(layer: Any) -> Any:
    """The layer in a wrapper that calls it as it is, such as one that masks it."""
    other_calls = layers.TimeDistributed, layers.Bidirectional
    wraps = isinstance(layer, layers.Wrapper) and not isinstance(layer, other_calls)
    return layer.layer if wraps else layer


@dataclass(frozen=True)
class Window:
    """What a neuron sees: one entry per axis of positions. Arrays have their channels last."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str

    @classmethod
    def of(cls, layer: Any) -> "Window":
        if isinstance(layer, layers.Dense):  # its positions are all axes between the first and the last
            return cls((1,), (1,), (1,), "valid")
        return cls(layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)

    @property
    def taps(self) -> int:
        return math.prod(self.size)

    @property
    def spans(self) -> list[int]:
        return [(size - 1) * dilation + 1 for size, dilation in zip(self.size, self.dilation, strict=True)]

    def flat(self, maps: np.ndarray) -> np.ndarray:
        """Maps with as many axes of positions as the window has."""
        return maps if maps.ndim == len(self.size) + 2 else maps.reshape(len(maps), -1, maps.shape[-1])

    def padded(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs with the zeros around them, and the window's axes of positions."""
        inputs = self.flat(inputs)
        pads = [self._pads(*each) for each in zip(inputs.shape[1:-1], self.spans, self.strides, strict=True)]
        return np.pad(inputs, [(0, 0), *pads, (0, 0)])

    def _pads(self, size: int, span: int, stride: int) -> tuple[int, int]:
        if self.padding == "causal":
            return span - 1, 0
        total = max((-(-size // stride) - 1) * stride + span - size, 0) if self.padding == "same" else 0
        return total // 2, total - total // 2

    def rows(self, inputs: np.ndarray, start: int, stop: int) -> np.ndarray:
        """The part of padded inputs that the rows of outputs from `start` to `stop` see."""
        stride = self.strides[0]
        return inputs[:, start * stride : (stop - 1) * stride + self.spans[0]]

    def seen(self, inputs: np.ndarray) -> np.ndarray:
        """From padded inputs to a view of what neurons see, `(images, *positions, *taps, channels)`."""
        axes = tuple(range(1, 1 + len(self.size)))
        view = np.lib.stride_tricks.sliding_window_view(inputs, self.spans, axis=axes)
        every = [slice(None, None, stride) for stride in self.strides]
        taps = [slice(None, None, dilation) for dilation in self.dilation]
        return np.moveaxis(view[(slice(None), *every, slice(None), *taps)], len(axes) + 1, -1)

    def at(self, inputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """What neurons see at some positions of padded inputs, `(images, positions, taps, channels)`.

        Args:
            inputs: as `padded` gives them.
            positions: `(positions, axes)` indices.
        """
        chosen = self.seen(inputs)[(slice(None), *positions.T)]
        return chosen.reshape(*chosen.shape[:2], -1, inputs.shape[-1])
