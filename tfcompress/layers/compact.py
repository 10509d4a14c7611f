"""A convolution without the empty rows and columns of its kernel."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

_PADDINGS = ("valid", "same", "causal")


@keras.saving.register_keras_serializable(package="tfcompress")
class CompactConv(keras.layers.Layer):
    """A convolution, or a Dense, whose kernel holds only some of its rows and columns.

    Read as a matrix, a kernel has one row per output and one column per tap and input channel. Group
    lasso over rows and columns ("shapes") leaves a smaller matrix, and the layer multiplies just that:

        y[p, rows] = x[p * strides + tap * dilation, channel][columns] @ kernel

    It gathers the columns from shifted slices of the input, and makes one matrix product of them. Outputs
    without a row are the bias alone. `tfcompress.compact(model)` makes such layers.

    Args:
        filters: how many outputs there are, those without a row included.
        kernel_size: the size of the full kernel along each axis: 1 to 3 numbers; none for Dense.
        blocks: the parts of the matrix: a dict with `"rows"`, a list of outputs, and `"columns"`, a list of
            `[tap, channel]`. Taps count through the kernel, its last axis fastest. One block serves for a
            convolution without groups; with groups there is one for each.
        strides: one number, or one per axis.
        dilation_rate: likewise.
        padding: `"valid"`, `"same"`, or `"causal"` for one axis.
        data_format: as for Keras's convolutions.
        activation: applied last.
        use_bias: whether there is a bias, one for each output.
        kernel_initializer: for the entries of the matrix.
        bias_initializer: for the bias.

    Weights: `kernel`, `(entries,)`: block after block, each a matrix `(columns, rows)`, flattened; `bias`,
    `(filters,)`.

    Raises:
        ValueError: the padding is unknown, blocks share an output, an output, tap or channel does not
            exist; or there are strides, and the input's size is open.

    Wei Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016, section 3.1. Departs
    from its code in that the columns are gathered, not lowered whole and then compacted.

    >>> block = {"rows": [1], "columns": [[0, 2], [3, 0]]}
    >>> layer = CompactConv(2, (2, 2), blocks=[block], kernel_initializer="ones")
    >>> image = np.arange(12.0).reshape(1, 2, 2, 3)  # channel 2 at the first pixel, 0 at the last
    >>> ops.convert_to_numpy(layer(image))[0, 0, 0]
    array([ 0., 11.], dtype=float32)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        blocks: Sequence[Mapping[str, Any]],
        strides: int | Sequence[int] = 1,
        dilation_rate: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
        self.strides, self.dilation_rate = self._per_axis(strides), self._per_axis(dilation_rate)
        self.blocks: list[dict[str, Any]] = [
            {
                "rows": [int(row) for row in block["rows"]],
                "columns": [[int(tap), int(channel)] for tap, channel in block["columns"]],
            }
            for block in blocks
        ]
        self.padding = padding
        self.data_format = data_format or keras.config.image_data_format()
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self._check()

    def build(self, input_shape: tuple) -> None:
        shape = self._channels_last(input_shape)
        highest = max((channel for block in self.blocks for _, channel in block["columns"]), default=0)
        if shape[-1] is None or highest >= shape[-1]:
            raise ValueError(f"'{self.name}' reads channel {highest}, its input has {shape[-1]} channels.")
        self._pads(shape)  # refuses what cannot be sliced
        # Initializers look at a matrix for how many inputs and outputs there are; the kernel is flat.
        entries = sum(len(block["columns"]) * len(block["rows"]) for block in self.blocks)
        self.kernel = self.add_weight(shape=(entries,), initializer=self._initialized, name="kernel")
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), initializer=self.bias_initializer, name="bias")
        self.built = True

    def call(self, inputs: Any) -> Any:
        first = self.data_format == "channels_first" and self.kernel_size
        # A layer may be called on inputs of several sizes, so nothing of them is kept from `build`.
        lengths = self._channels_last(self.compute_output_shape(inputs.shape))[1:-1]
        x = self._in_phases(ops.moveaxis(inputs, 1, -1) if first else inputs)
        made, start = [], 0
        for block in self.blocks:
            shape = len(block["columns"]), len(block["rows"])
            if math.prod(shape):
                kernel = ops.reshape(self.kernel[start : start + math.prod(shape)], shape)
                made.append(ops.matmul(self._gathered(x, block["columns"], lengths), kernel))
                start += math.prod(shape)
        made = self._in_order(x, made, lengths)
        if self.bias is not None:
            made = made + self.bias
        made = self.activation(made)
        return ops.moveaxis(made, -1, 1) if first else made

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        shape = self._channels_last(input_shape)
        axes = zip(shape[1:-1], self._spans(), self.strides, strict=True) if self.kernel_size else ()
        inner = tuple(self._length(*axis) for axis in axes) if self.kernel_size else tuple(shape[1:-1])
        moved = self.data_format == "channels_first" and self.kernel_size
        return (shape[0], self.filters, *inner) if moved else (shape[0], *inner, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": list(self.kernel_size),
            "blocks": self.blocks,
            "strides": list(self.strides),
            "dilation_rate": list(self.dilation_rate),
            "padding": self.padding,
            "data_format": self.data_format,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }

    def _gathered(self, x: Any, columns: list, lengths: tuple) -> Any:
        """`(..., columns)`: what the columns read, at every position of the output."""
        channels: dict[int, list[int]] = {}
        for tap, channel in columns:
            channels.setdefault(tap, []).append(channel)
        # Columns of one tap follow each other, as `_check` sees to.
        parts = [
            part if wanted == list(range(x.shape[-1])) else ops.take(part, wanted, axis=-1)
            for tap, wanted in channels.items()
            for part in [self._slice(x, tap, lengths)]
        ]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)

    def _in_phases(self, x: Any) -> Any:
        """The padded input; with strides `(batch, size / stride, stride, ..., channels)`.

        Then what a window reads at all its places lies together. Slices with strides took up to seven times
        as long.
        """
        margins = self._pads(tuple(x.shape))
        if any(pair != (0, 0) for pair in margins):
            x = ops.pad(x, margins)
        if not self._strided():
            return x
        pairs = [(size // stride, stride) for size, stride in zip(x.shape[1:-1], self.strides, strict=True)]
        return ops.reshape(x, (-1, *(number for pair in pairs for number in pair), x.shape[-1]))

    def _slice(self, x: Any, tap: int, lengths: tuple) -> Any:
        """What one tap sees as the window moves over the input, which is in phases, `lengths` times."""
        if not self.kernel_size:
            return x
        taps = np.unravel_index(tap, self.kernel_size)
        offsets = [int(place) * rate for place, rate in zip(taps, self.dilation_rate, strict=True)]
        if not self._strided():
            ends = [-(span - 1 - offset) or None for span, offset in zip(self._spans(), offsets, strict=True)]
            return x[(slice(None), *map(slice, offsets, ends), slice(None))]
        along: list[Any] = []
        for offset, stride, length in zip(offsets, self.strides, lengths, strict=True):
            along += [slice(offset // stride, offset // stride + length), offset % stride]
        return x[(slice(None), *along, slice(None))]

    def _strided(self) -> bool:
        return any(stride > 1 for stride in self.strides)

    def _in_order(self, x: Any, made: list, lengths: tuple) -> Any:
        """The products put at the places of their outputs, with zeros where there is none."""
        places = [row for block in self.blocks if block["columns"] for row in block["rows"]]
        if len(places) < self.filters:
            made = [*made, ops.zeros_like(self._slice(x, 0, lengths)[..., :1])]
        joined = made[0] if len(made) == 1 else ops.concatenate(made, axis=-1)
        if places == list(range(self.filters)):
            return joined
        at = {row: place for place, row in enumerate(places)}
        return ops.take(joined, [at.get(row, len(places)) for row in range(self.filters)], axis=-1)

    def _spans(self) -> list[int]:
        """How far the window reaches along each axis."""
        return [
            (size - 1) * rate + 1 for size, rate in zip(self.kernel_size, self.dilation_rate, strict=True)
        ]

    def _pads(self, shape: tuple) -> list[tuple[int, int]]:
        """How much is added before and after, along all axes; with strides up to a multiple of them."""
        if not self.kernel_size:
            return [(0, 0)] * len(shape)
        inner = []
        for size, span, stride in zip(shape[1:-1], self._spans(), self.strides, strict=True):
            if size is None and self._strided():
                raise ValueError(
                    f"'{self.name}' has strides {self.strides}, and how to slice its input depends on the "
                    "size, which is open. Give the model's Input a size."
                )
            before, after = self._pad(size, span, stride)
            inner.append((before, after + (0 if size is None else -(before + size + after) % stride)))
        return [(0, 0), *inner, (0, 0)]

    def _pad(self, size: int | None, span: int, stride: int) -> tuple[int, int]:
        if self.padding == "valid":
            return 0, 0
        if self.padding == "causal":
            return span - 1, 0
        total = span - 1 if size is None else max((math.ceil(size / stride) - 1) * stride + span - size, 0)
        return total // 2, total - total // 2

    def _length(self, size: int | None, span: int, stride: int) -> int | None:
        if size is None:
            return None
        return (size + sum(self._pad(size, span, stride)) - span) // stride + 1

    def _channels_last(self, shape: tuple) -> tuple:
        first = self.data_format == "channels_first" and self.kernel_size
        return (shape[0], *shape[2:], shape[1]) if first else tuple(shape)

    def _initialized(self, shape: tuple, dtype: Any = None) -> Any:
        blocks = [
            ops.reshape(self.kernel_initializer((len(block["columns"]), len(block["rows"])), dtype), (-1,))
            for block in self.blocks
        ]
        return ops.concatenate(blocks) if blocks else ops.zeros(shape, dtype)

    def _per_axis(self, value: int | Sequence[int]) -> tuple[int, ...]:
        return (value,) * len(self.kernel_size) if isinstance(value, int) else tuple(value)

    def _check(self) -> None:
        rows = [row for block in self.blocks for row in block["rows"]]
        columns = [column for block in self.blocks for column in block["columns"]]
        for name, numbers in {"strides": self.strides, "dilation_rate": self.dilation_rate}.items():
            if len(numbers) != len(self.kernel_size) or not all(number >= 1 for number in numbers):
                raise ValueError(
                    f"{name} must be above 0 for each of {len(self.kernel_size)} axes, got {numbers}."
                )
        if self.padding not in _PADDINGS or (self.padding == "causal" and len(self.kernel_size) != 1):
            raise ValueError(
                f"padding must be 'valid', 'same', or 'causal' for one axis, got {self.padding!r} for "
                f"{len(self.kernel_size)} axes."
            )
        if len(set(rows)) < len(rows) or not all(0 <= row < self.filters for row in rows):
            raise ValueError(
                f"Each of the outputs 0 ... {self.filters - 1} may be in one block at most, got {rows}."
            )
        taps = math.prod(self.kernel_size)
        if wrong := [(tap, channel) for tap, channel in columns if not (0 <= tap < taps and channel >= 0)]:
            raise ValueError(
                f"A kernel of size {self.kernel_size} has the taps 0 ... {taps - 1}, and channels count from "
                f"0; got the columns {wrong}."
            )
        if any(block["columns"] != sorted(block["columns"]) for block in self.blocks):
            raise ValueError("The columns of a block must be in order of tap, then channel.")
