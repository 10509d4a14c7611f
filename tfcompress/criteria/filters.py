"""The weights that make each output channel of a layer, one row per channel."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from tfcompress._arrays import to_numpy

# Layer class -> the weights that make its outputs, and the axis that runs over them. Layers that
# are not here are looked at like Dense: `kernel`, last axis.
_LAST = (("kernel", -1),)
_TRANSPOSED = (("kernel", -2),)
_RECURRENT = (("recurrent_kernel", -1), ("kernel", -1))
_AXES = {
    layers.Conv1DTranspose: _TRANSPOSED,
    layers.Conv2DTranspose: _TRANSPOSED,
    layers.Conv3DTranspose: _TRANSPOSED,
    layers.SeparableConv1D: (("pointwise_kernel", -1),),
    layers.SeparableConv2D: (("pointwise_kernel", -1),),
    layers.Embedding: (("embeddings", -1),),
    layers.LSTM: _RECURRENT,
    layers.GRU: _RECURRENT,
    layers.SimpleRNN: _RECURRENT,
    layers.MultiHeadAttention: (("attention_output/kernel", -1),),
}
_HEADS = (("query/kernel", -2), ("key/kernel", -2), ("value/kernel", -2), ("attention_output/kernel", 0))


def rows(path: str, operations: Mapping[str, keras.Operation]) -> np.ndarray | None:
    """`(filters, weights)` float64 for the layer at `path`; None if it has no such weights.

    `"attention:heads"` gives one row per head of the MultiHeadAttention `"attention"`.
    """
    layer_path, _, part = path.partition(":")
    layer = operations[layer_path]
    axes = _HEADS if part == "heads" else _AXES.get(type(layer), _LAST)
    tables = [
        _rows(to_numpy(weight).astype("float64"), axis, getattr(layer, "units", None))
        for weight, axis in _matching(layer, axes)
    ]
    return np.concatenate(tables, axis=1) if tables else None


def _matching(layer: keras.Operation, axes: tuple) -> list:
    weights = getattr(layer, "weights", [])
    return [
        (w, axis) for w in weights for name, axis in axes if f"/{w.path}".endswith(f"/{name}") and w.ndim > 1
    ]


def _rows(weight: np.ndarray, axis: int, units: int | None) -> np.ndarray:
    """One row per output; the gates of a recurrent layer, side by side in the last axis, are joined."""
    outputs = np.moveaxis(weight, axis, -1)
    outputs = outputs.reshape(-1, outputs.shape[-1])
    if units is not None and outputs.shape[1] != units:
        outputs = outputs.reshape(-1, units)
    return outputs.T
