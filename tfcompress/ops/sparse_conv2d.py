"""A convolution of which only some weights are left, computed by a native TensorFlow op.

>>> import numpy as np
>>> image = np.arange(9.0, dtype="float32").reshape(1, 3, 3, 1)
>>> made = sparse_conv2d(image, [4], [10.0], filter_shape=(3, 3, 1, 1))  # 10 times the pixel in the middle
>>> made.numpy().ravel()
array([40.], dtype=float32)
"""

import functools
import math
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import _native
from tfcompress._checks import check_choice, is_whole
from tfcompress._runtimes.child import op_library

ACTIVATIONS = (None, "relu", "relu6")
_OP = "TfcompressSparseConv2D"
_LOCK = threading.Lock()


def sparse_conv2d(
    inputs: Any,
    indices: Any,
    values: Any,
    bias: Any = None,
    *,
    filter_shape: Sequence[int],
    strides: int | Sequence[int] = 1,
    dilation_rate: int | Sequence[int] = 1,
    padding: str = "valid",
    activation: str | None = None,
) -> Any:
    """Returns the convolution of maps with filters of which only some weights are not zero.

    With `filters = zeros(filter_shape)` and `filters.flat[indices] = values` it is

        y[n, p, f] = activation(bias[f] + sum over taps t, channels c of
                                x[n, p * strides + t * dilation_rate, c] * filters[t, c, f])

    and only the products with the weights given are computed. The native op runs on the CPU, on as many
    threads as TensorFlow may use inside an op (`tf.config.threading`, or TF_NUM_INTRAOP_THREADS; else the
    processors of this process). In its place come TensorFlow's dense convolutions, with the same result,
    where XLA compiles (`jit_compile=True`), on a GPU, and where the library was not built or does not load,
    of which a warning tells once. Outputs are NaN at least where one of their weights meets a NaN; whether
    also where only weights meet it that are not there depends on what computes: in the dense convolutions,
    and in blocks of 16 filters, these are zeros.

    It can be differentiated by inputs, values and bias; gradients are those of dense convolutions.

    Args:
        inputs: `(batch, height, width, channels)`, float32. The channels must be known.
        indices: `(n,)`, int32: the places of the weights, counted through `filter_shape` with the last
            axis fastest, in increasing order. There may be none.
        values: `(n,)`, float32: the weights. They may change from call to call.
        bias: `(filters,)`, float32, or None.
        filter_shape: `(height, width, channels / groups, filters)` of the full filters.
        strides: one number, or one for each of height and width.
        dilation_rate: likewise. Not above 1 where a stride is.
        padding: `"valid"` or `"same"`.
        activation: None, `"relu"` or `"relu6"`.

    Returns:
        `(batch, out_height, out_width, filters)`, float32.

    Raises:
        ValueError: an argument is none of these, or arguments do not fit together.
        tf.errors.InvalidArgumentError: when it runs: weights are not finite, indices do not increase or are
            out of range.
    """
    import tensorflow as tf

    conv = _Conv.of(filter_shape, strides, dilation_rate, padding, activation)
    inputs, values = _tensor("inputs", inputs, tf.float32), _tensor("values", values, tf.float32)
    bias = tf.zeros(conv.filters) if bias is None else _tensor("bias", bias, tf.float32)
    if not tf.is_tensor(indices) and not isinstance(indices, tf.Variable):
        conv.check_indices(np.asarray(indices, "int32"))
    indices = _tensor("indices", indices, tf.int32)
    conv.check_shapes(inputs.shape, indices.shape, values.shape, bias.shape)
    shape = conv.output_shape(inputs.shape)
    arguments = inputs, indices, values, bias
    module, _ = _library()
    outputs = conv.checked(*arguments) if module is None else _where_it_runs(module, conv, arguments)
    outputs.set_shape(shape)
    return outputs


def load_library() -> None:
    """Loads the native op into TensorFlow, which must know it to load a SavedModel that holds it.

        import tfcompress
        tfcompress.ops.load_library()
        model = tf.saved_model.load(path)

    Set TensorFlow's threads before. `sparse_conv2d` and `layers.SparseConv2D` load it by themselves.

    Raises:
        RuntimeError: it was not built, or does not load; the message says why.
    """
    module, reason = _library()
    if module is None:
        raise RuntimeError(f"The native op of tfcompress is not there: {reason}. {_WAY_OUT}")


def output_shape(
    input_shape: Sequence[int | None],
    conv_shape: Sequence[int],
    strides: Any,
    dilation_rate: Any,
    padding: str,
) -> tuple[int | None, ...]:
    """The shape of what `sparse_conv2d` makes, with None for what is open.

    Raises:
        ValueError: the filters do not fit into the map.
    """
    return _Conv.of(conv_shape, strides, dilation_rate, padding, None).output_shape(input_shape)


@dataclass(frozen=True)
class _Conv:
    """All that is known of a convolution before its tensors come."""

    filter_shape: tuple[int, ...]
    strides: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    padding: str
    activation: str | None

    @classmethod
    def of(
        cls, filter_shape: Any, strides: Any, dilation_rate: Any, padding: str, activation: Any
    ) -> "_Conv":
        conv = cls(
            _sizes("filter_shape", filter_shape, 4),
            _sizes("strides", strides, 2),
            _sizes("dilation_rate", dilation_rate, 2),
            str(padding).lower(),
            activation,
        )
        check_choice("padding", conv.padding, ("valid", "same"))
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be None, 'relu' or 'relu6', got {activation!r}. "
                "Apply others to what comes out."
            )
        if max(conv.strides) > 1 and max(conv.dilation_rate) > 1:
            raise ValueError(
                f"strides {conv.strides} do not go with dilation_rate {conv.dilation_rate}: TensorFlow's "
                "dense convolutions, and with them gradients, take one of the two."
            )
        return conv

    @property
    def filters(self) -> int:
        return self.filter_shape[-1]

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of the native op."""
        return {
            "filter_shape": list(self.filter_shape),
            "steps": [*self.strides, *self.dilation_rate],
            "padding": self.padding.upper(),
            "activation": self.activation or "linear",
        }

    @classmethod
    def of_operation(cls, operation: Any) -> "_Conv":
        """From the attributes of a native op in a graph."""
        import tensorflow as tf

        steps = list(operation.get_attr("steps"))
        padding, activation = (
            tf.compat.as_str(operation.get_attr(name)) for name in ("padding", "activation")
        )
        activation = None if activation == "linear" else activation
        return cls.of(operation.get_attr("filter_shape"), steps[:2], steps[2:], padding, activation)

    def check_indices(self, indices: np.ndarray) -> None:
        """For indices whose numbers are known; others are looked at when the op runs."""
        size = math.prod(self.filter_shape)
        in_order = indices.ndim == 1 and (np.diff(indices) > 0).all()
        if not in_order or (indices.size and not 0 <= indices[0] <= indices[-1] < size):
            raise ValueError(
                f"indices must increase and lie in 0 ... {size - 1}, for filters {self.filter_shape}; got "
                f"{indices}."
            )

    def check_shapes(self, inputs: Any, indices: Any, values: Any, bias: Any) -> None:
        """Raises `ValueError` unless the shapes of the tensors, as far as known, fit together."""
        channels = inputs[-1] if inputs.rank == 4 else None
        depth = self.filter_shape[2]
        if channels is None:
            raise ValueError(
                f"Expected inputs (batch, height, width, channels), channels known, got {inputs}."
            )
        if channels % depth or self.filters % (channels // depth or 1) or channels < depth:
            raise ValueError(
                f"Filters {self.filter_shape} do not fit inputs of {channels} channels: their third size is "
                "the channels / groups, and groups must divide the channels and the filters."
            )
        if not (indices.rank == 1 and values.rank == 1 and indices.is_compatible_with(values)):
            raise ValueError(f"indices and values must be (n,), n the same, got {indices} and {values}.")
        if not bias.is_compatible_with([self.filters]):
            raise ValueError(f"bias must be ({self.filters},), one for each filter, got {bias}.")

    def output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        axes = zip(input_shape[1:3], self.filter_shape, self.strides, self.dilation_rate, strict=False)
        return (input_shape[0], *(self._length(*axis) for axis in axes), self.filters)

    def _length(self, size: int | None, taps: int, stride: int, rate: int) -> int | None:
        if size is None:
            return None
        span = (taps - 1) * rate + 1 if self.padding == "valid" else 1
        if size < span:
            raise ValueError(f"Filters that span {span} pixels do not fit into a map of {size}.")
        return (size - span) // stride + 1

    def dense(self, inputs: Any, indices: Any, values: Any, bias: Any) -> Any:
        """By TensorFlow's own convolutions."""
        import tensorflow as tf

        activate = {None: tf.identity, "relu": tf.nn.relu, "relu6": tf.nn.relu6}[self.activation]
        return activate(self.linear(inputs, indices, values, bias))

    def linear(self, inputs: Any, indices: Any, values: Any, bias: Any) -> Any:
        """The same without activation."""
        import tensorflow as tf

        size = math.prod(self.filter_shape)
        kernel = tf.reshape(tf.scatter_nd(indices[:, tf.newaxis], values, [size]), self.filter_shape)
        # Group by group: on processors where TensorFlow leaves oneDNN off it cannot differentiate groups.
        groups = inputs.shape[-1] // self.filter_shape[2]
        parts = zip(tf.split(inputs, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
        options = {
            "strides": self.strides,
            "padding": self.padding.upper(),
            "dilations": self.dilation_rate,
            "data_format": "NHWC",  # by default it is None, which second derivatives do not understand
        }
        return tf.concat([tf.nn.convolution(x, k, **options) for x, k in parts], axis=-1) + bias

    def checked(self, inputs: Any, indices: Any, values: Any, bias: Any) -> Any:
        """The dense convolution with what the native op complains of."""
        import tensorflow as tf

        in_order = tf.math.is_strictly_increasing(indices)
        with tf.control_dependencies([tf.debugging.Assert(in_order, ["the indices must increase"])]):
            indices = tf.identity(indices)
        values, bias = (
            tf.debugging.check_numerics(weights, "a weight or bias is infinite or not a number")
            for weights in (values, bias)
        )
        return self.dense(inputs, indices, values, bias)


def _where_it_runs(module: Any, conv: _Conv, arguments: tuple) -> Any:
    """The native op on a CPU; the dense convolution elsewhere, be it XLA or a GPU.

    Which it is shows when the graph is placed or compiled: `DeviceIndex` becomes 0 on a CPU and 1, the number
    of devices listed, elsewhere. Of the two branches TensorFlow and XLA keep only the one it picks.
    """
    import tensorflow as tf

    native = functools.partial(module.tfcompress_sparse_conv2d, *arguments, **conv.attributes)
    dense = functools.partial(conv.dense, *arguments)
    return tf.switch_case(tf.raw_ops.DeviceIndex(device_names=["CPU"]), [native, dense])


def _gradient(operation: Any, upstream: Any) -> list:
    """Those of the dense convolution. What it would compute forward is not used, and in a graph left out."""
    import tensorflow as tf

    inputs, indices, values, bias = operation.inputs
    conv, outputs = _Conv.of_operation(operation), operation.outputs[0]
    if conv.activation is not None:
        top = np.inf if conv.activation == "relu" else 6.0
        upstream = tf.where((outputs > 0) & (outputs < top), upstream, 0.0)
    with tf.GradientTape() as tape:
        tape.watch([inputs, values, bias])
        made = conv.linear(inputs, indices, values, bias)
    by_inputs, by_values, by_bias = tape.gradient(made, [inputs, values, bias], output_gradients=upstream)
    return [by_inputs, None, by_values, by_bias]


_WAY_OUT = "With a C++17 compiler on the machine, installing tfcompress again builds it."


def _library() -> tuple[Any, str]:
    """The module of the native op, or None and the reason."""
    with _LOCK:
        return _load()


@functools.cache
def _load() -> tuple[Any, str]:
    module, reason = _open(_native.path("tf"))
    if module is None:
        warnings.warn(
            f"Sparse convolutions are computed densely, no faster than others: {reason}. {_WAY_OUT}",
            stacklevel=4,
        )
    return module, reason


def _open(file: Any) -> tuple[Any, str]:
    import tensorflow as tf

    if file is None:
        return None, "the native op was not built"
    try:
        module = op_library(file)
    except (tf.errors.OpError, RuntimeError) as error:
        return None, f"the native op does not load ({error})"
    _register_gradient()
    with tf.init_scope():  # not in a graph that is being traced, if any
        module.tfcompress_use_threads(threads=tf.config.threading.get_intra_op_parallelism_threads())
    return module, ""


@functools.cache
def _register_gradient() -> None:
    """TensorFlow takes it once."""
    import tensorflow as tf

    tf.RegisterGradient(_OP)(_gradient)


def _tensor(name: str, value: Any, dtype: Any) -> Any:
    import tensorflow as tf

    found = getattr(value, "dtype", dtype)
    if (tf.is_tensor(value) or isinstance(value, tf.Variable)) and found != dtype:
        raise ValueError(f"{name} must be {dtype.name}, got {tf.as_dtype(found).name}. tf.cast makes it so.")
    return tf.convert_to_tensor(value, dtype)


def _sizes(name: str, value: Any, count: int) -> tuple[int, ...]:
    numbers = (value,) * count if isinstance(value, (int, np.integer)) else tuple(value)
    if len(numbers) != count or not all(map(is_whole, numbers)):
        raise ValueError(f"{name} must be {count} whole numbers above 0, got {value!r}.")
    return tuple(int(number) for number in numbers)
