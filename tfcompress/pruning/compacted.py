"""Leave out the empty rows and columns of convolutions."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _kernels, analysis, channels
from tfcompress._arrays import to_numpy
from tfcompress._names import Patterns
from tfcompress.channels import visits
from tfcompress.layers import CompactConv
from tfcompress.pruning.replaced import Replaced, exchange

analysis.register(CompactConv, analysis.MacRule({"kernel": analysis.at_outputs}))
channels.register(
    CompactConv, lambda v: visits.opaque(v, f"'{v.path}' is compacted; remove channels before compact()")
)

_COMPACTABLE = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, keras.layers.Dense)


@dataclass(frozen=True)
class Compacted(Replaced):
    """Which layers a `compact` replaced, and which not. Print it for a table."""

    title = "Compacted kernels"


def compact(
    model: keras.Model,
    threshold: float = 0.8,
    *,
    include: Patterns = None,
    exclude: Patterns = None,
) -> keras.Model:
    """Returns a copy in which kernels with empty rows and columns hold only the others.

    Group lasso over `"shapes"` empties columns of a kernel: one tap of one input channel, for all outputs.
    No channel can be removed for that, but the matrix product gets smaller: `layers.CompactConv` takes the
    place of the layer, with equal outputs. Remove what can be removed whole first, by `remove_zeroed`;
    the channels around a compacted layer stay as they are.

    The attribute `compacted` of the result says which layers were replaced and why others were not. The
    optimizer's slots of replaced kernels begin anew; all others are carried over. Regularizers and
    constraints of replaced layers have done their work, and are gone.

    Args:
        model: a built functional or Sequential model. It is not changed.
        threshold: replace a layer only if at least this share of its multiplications goes. Gathering
            columns costs time, too, so that a little saved makes a slower layer: on a CPU 3x3 kernels of 128
            channels with half of their columns gone here and there take 1.7 times as long as in full,
            with 80 % gone 0.8 times, with 90 % gone 0.4 times; whole taps gone pay from 45 % on.
        include: layer names or regular expressions; only these layers.
        exclude: likewise, not those.

    Raises:
        ValueError: the model is subclassed or unbuilt, a name is unknown, or the threshold is not in
            [0, 1].

    Wei Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016, section 3.1.

    >>> x = keras.Input((8, 8, 3))
    >>> conv = keras.layers.Conv2D(4, 3, name="stem")
    >>> model = keras.Model(x, conv(x))
    >>> kernel = np.zeros((3, 3, 3, 4))
    >>> kernel[1, 1] = 1  # of 27 columns 3 are left
    >>> conv.set_weights([kernel, np.zeros(4)])
    >>> small = compact(model)
    >>> small.compacted.layers, analysis.macs(small) / analysis.macs(model) == 3 / 27
    ({'stem': (108, 12)}, True)
    """
    _calls.check_functional(model)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], a share of the multiplications, got {threshold!r}.")

    def make(path: str, layer: Any) -> CompactConv | str:
        return _compacted(layer, threshold)

    small, report = exchange(model, make, include, exclude, Compacted)
    small.compacted = report
    return small


def _compacted(layer: Any, threshold: float) -> CompactConv | str:
    """The layer that stands in for this one, built; or why there is none."""
    if type(layer) not in _COMPACTABLE:
        return f"not a convolution or Dense that could be compacted, but {type(layer).__name__}"
    if len(layer.weights) != 1 + layer.use_bias:
        return "it has other weights than a kernel and a bias: it is quantized, or has LoRA"
    blocks, entries = _blocks(layer)
    saved = 1 - len(entries) / to_numpy(layer.kernel).size
    if saved < threshold:
        return f"it would save {saved:.0%} of its multiplications"
    try:
        made = _made(layer, blocks)
    except ValueError as error:
        return str(error)
    made.set_weights([entries, *layer.get_weights()[1:]])
    made.trainable = layer.trainable
    return made


def _blocks(layer: Any) -> tuple[list[dict[str, list]], np.ndarray]:
    """The non-empty rows and columns, one block per convolution group, and their entries, flat."""
    [(kernel, layout)] = _kernels.kernels(layer)
    lowered = layout.lower(to_numpy(kernel))
    blocks, entries = [], []
    for group, part in enumerate(np.split(lowered, getattr(layer, "groups", 1))):
        rows = np.flatnonzero(part.any(axis=(1, 2)))
        taps, places = np.nonzero(part.any(axis=0))
        columns = np.stack([taps, places + group * part.shape[2]], axis=1)
        blocks.append({"rows": (rows + group * len(part)).tolist(), "columns": columns.tolist()})
        entries.append(part[rows][:, taps, places].T.ravel())
    return blocks, np.concatenate(entries)


def _made(layer: Any, blocks: list[dict[str, list]]) -> CompactConv:
    dense = isinstance(layer, keras.layers.Dense)
    windows = {
        key: value
        for key, value in _calls.config_of(layer).items()
        if key in ("strides", "dilation_rate", "padding")
    }
    made = CompactConv(
        layer.units if dense else layer.filters,
        () if dense else layer.kernel_size,
        blocks=blocks,
        data_format=None if dense else layer.data_format,
        activation=layer.activation,
        use_bias=layer.use_bias,
        dtype=layer.dtype_policy,
        name=layer.name,
        **windows,
    )
    made.build(layer.get_build_config()["input_shape"])
    return made
