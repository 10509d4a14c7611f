"""A convolution that computes only with the weights that pruning has left."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress import _calls
from tfcompress._arrays import to_numpy
from tfcompress._checks import is_whole
from tfcompress._runtimes import conversion
from tfcompress.ops import sparse_conv2d
from tfcompress.ops.sparse_conv2d import output_shape

_STOCK = (keras.layers.Conv2D, keras.layers.Dense)


@keras.saving.register_keras_serializable(package="tfcompress")
class SparseConv2D(keras.layers.Layer):
    """A Conv2D, or a Dense, that holds the weights that are not zero and the places where they stand.

    It computes what `ops.sparse_conv2d` does, on the CPU with a native op, and is meant for kernels of which
    half or more is zero at no special places. `tfcompress.sparsify(model)` makes such layers where they are
    faster, `SparseConv2D.from_conv(layer)` makes one, `to_conv()` and `tfcompress.densify(model)` lead back.

    It can be trained: `values` and `bias` move, what is zero stays zero. Gradients are dense convolutions,
    so that training is no faster than that of a Conv2D. XLA, which cannot take the op, would compile a dense
    convolution: so `fit` leaves it off unless `jit_compile` insists, and then Keras warns and leaves it off.

    It computes in float32 under every dtype policy, and casts what comes out to the policy's compute dtype.
    Weights that are not finite are an error when the layer runs.

    Args:
        filters: how many outputs there are.
        kernel_size: the size of the full kernel, one number or two; `()` for a Dense, which takes inputs of
            any rank.
        entries: how many weights of the kernel are not zero.
        strides: one number, or one for each of height and width.
        padding: `"valid"` or `"same"`.
        dilation_rate: as `strides`; not above 1 where a stride is.
        groups: into how many groups channels and filters fall that see nothing of each other.
        activation: applied last. None, relu and relu6 are computed in one go with the convolution.
        use_bias: whether there is a bias, one for each output.
        kernel_initializer: for the full kernel, of which the weights at the places are taken.
        bias_initializer: for the bias.

    Weights: `values`, `(entries,)`; `bias`, `(filters,)`; and, not trained, `indices`, `(entries,)`, int32:
    the places of the values, counted through the kernel `(height, width, channels / groups, filters)` with
    the last axis fastest, in increasing order. A new layer has them evenly spaced.

    Input and output: `(batch, height, width, channels)`, channels last; for a Dense `(batch, ..., channels)`.

    Raises:
        ValueError: Keras does not run on TensorFlow, a size is not one, groups do not divide, there are more
            entries than the kernel has, or the kernel does not fit into the input.

    >>> dense = keras.layers.Conv2D(2, 1)
    >>> dense.build((None, 8, 8, 3))
    >>> dense.set_weights([np.array([[[[0.0, 5.0], [0.0, 0.0], [7.0, 0.0]]]]), np.zeros(2)])
    >>> layer = SparseConv2D.from_conv(dense)
    >>> layer.entries, to_numpy(layer.indices), to_numpy(layer.values)
    (2, array([1, 4], dtype=int32), array([5., 7.], dtype=float32))
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        entries: int,
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters, self.entries, self.groups = filters, entries, groups
        self.kernel_size, self.strides, self.dilation_rate = map(_pair, (kernel_size, strides, dilation_rate))
        self.padding = str(padding).lower()
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.supports_jit = False
        self._check()

    @classmethod
    def from_conv(cls, layer: keras.layers.Layer) -> "SparseConv2D":
        """The layer that does what a Conv2D or Dense does, with its weights that are not zero.

        Its regularizers and constraints have done their work, and are gone.

        Args:
            layer: a built Conv2D, channels last, or a Dense. It is not changed.

        Raises:
            ValueError: it is none, or not built, quantized, has LoRA, computes in float64, or has weights
                that are not finite.
        """
        if reason := unsuited(layer):
            raise ValueError(f"'{getattr(layer, 'name', layer)}' cannot become a SparseConv2D: {reason}.")
        kernel = to_numpy(layer.kernel).ravel()
        places = np.flatnonzero(kernel)
        config = _calls.config_of(layer)
        dense = isinstance(layer, keras.layers.Dense)
        made = cls(
            config["units"] if dense else config["filters"],
            () if dense else config["kernel_size"],
            entries=len(places),
            activation=layer.activation,
            use_bias=layer.use_bias,
            dtype=layer.dtype_policy,
            name=layer.name,
            **{key: config[key] for key in _WINDOW if key in config},
        )
        made.build(layer.get_build_config()["input_shape"])
        made.indices.assign(places)
        made.trainable = layer.trainable
        pairs = [(made.values, layer.kernel, kernel[places])]
        if layer.bias is not None:
            pairs.append((made.bias, layer.bias, to_numpy(layer.bias)))
        for variable, old, value in pairs:
            variable.assign(value)
            variable.trainable = old.trainable
        return made

    def to_conv(self) -> keras.layers.Layer:
        """The stock Conv2D or Dense that does what this layer does, with zeros in its kernel.

        Raises:
            ValueError: the layer is not built.
        """
        if not self.built:
            raise ValueError(f"'{self.name}' is not built, so it has no weights yet. Call it once.")
        options = {
            "activation": self.activation,
            "use_bias": self.use_bias,
            "dtype": self.dtype_policy,
            "name": self.name,
        }
        stock = (
            keras.layers.Conv2D(
                self.filters,
                self.kernel_size,
                data_format="channels_last",
                **{key: getattr(self, key) for key in _WINDOW},
                **options,
            )
            if self.kernel_size
            else keras.layers.Dense(self.filters, **options)
        )
        stock.build(self.get_build_config()["input_shape"])
        kernel = np.zeros(math.prod(stock.kernel.shape), to_numpy(self.values).dtype)
        kernel[to_numpy(self.indices)] = to_numpy(self.values)
        stock.set_weights(
            [kernel.reshape(stock.kernel.shape), *([to_numpy(self.bias)] if self.use_bias else [])]
        )
        stock.trainable = self.trainable
        return stock

    def build(self, input_shape: tuple) -> None:
        channels = input_shape[-1]
        if channels is None or channels % self.groups:
            raise ValueError(
                f"'{self.name}' has {self.groups} groups, which must divide the channels of its input, "
                f"{tuple(input_shape)}."
            )
        self.input_spec = keras.layers.InputSpec(
            ndim=4 if self.kernel_size else None,
            min_ndim=None if self.kernel_size else 2,
            axes={-1: channels},
        )
        self.filter_shape = (*(self.kernel_size or (1, 1)), channels // self.groups, self.filters)
        size = math.prod(self.filter_shape)
        if self.entries > size:
            raise ValueError(
                f"'{self.name}' was to have {self.entries} entries, and its kernel {self.filter_shape} has "
                f"room for {size}."
            )
        self.compute_output_shape(input_shape)  # refuses a map that is too small
        places = np.arange(self.entries) * size // max(self.entries, 1)
        self.values = self.add_weight(
            shape=(self.entries,),
            initializer=lambda shape, dtype: self._initial(places, dtype),
            autocast=False,
            name="values",
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                shape=(self.filters,), initializer=self.bias_initializer, autocast=False, name="bias"
            )
        self.indices = self.add_weight(
            shape=(self.entries,),
            dtype="int32",
            initializer=lambda shape, dtype: ops.convert_to_tensor(places, dtype),
            trainable=False,
            name="indices",
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = ops.cast(inputs, "float32")
        alone = not self.kernel_size and len(inputs.shape) != 4  # vectors, as the pixels of one row
        made = sparse_conv2d(
            ops.reshape(x, (1, 1, -1, inputs.shape[-1])) if alone else x,
            self.indices.value,
            ops.cast(self.values.value, "float32"),
            None if self.bias is None else ops.cast(self.bias.value, "float32"),
            filter_shape=self.filter_shape,
            strides=self.strides,
            dilation_rate=self.dilation_rate,
            padding=self.padding,
            activation=self._fused,
        )
        if alone:
            made = ops.reshape(made, (*ops.shape(inputs)[:-1], self.filters))
        made = ops.cast(made, self.compute_dtype)
        return made if self._fused is not None else self.activation(made)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        if not self.kernel_size:
            return (*input_shape[:-1], self.filters)
        shape = (*self.kernel_size, input_shape[-1] // self.groups, self.filters)
        return output_shape(input_shape, shape, self.strides, self.dilation_rate, self.padding)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": list(self.kernel_size),
            "entries": self.entries,
            "strides": list(self.strides),
            "padding": self.padding,
            "dilation_rate": list(self.dilation_rate),
            "groups": self.groups,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }

    @property
    def _fused(self) -> str | None:
        """The name under which the op applies the activation."""
        return next((name for name, function in _FUSED.items() if self.activation is function), None)

    def _initial(self, places: np.ndarray, dtype: Any) -> Any:
        full = self.kernel_initializer(self.filter_shape, dtype)
        return ops.take(ops.reshape(full, (-1,)), places)

    def _check(self) -> None:
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "SparseConv2D needs Keras on TensorFlow, whose op it is, and Keras runs on "
                f"{keras.backend.backend()}. Set the environment variable KERAS_BACKEND=tensorflow, or keep "
                "the Conv2D."
            )
        if len(self.kernel_size) not in (0, 2):
            raise ValueError(
                f"kernel_size must be one number or two, or () for a Dense, got {self.kernel_size}."
            )
        least = {"kernel_size": 1, "filters": 1, "groups": 1, "entries": 0}
        for name, low in least.items():
            given = getattr(self, name) if name == "kernel_size" else (getattr(self, name),)
            if not all(is_whole(number, low) for number in given):
                raise ValueError(f"{name} must be whole, {low} or more, got {getattr(self, name)!r}.")
        if self.filters % self.groups:
            raise ValueError(f"groups={self.groups} must divide filters={self.filters}.")
        shape = (*(self.kernel_size or (1, 1)), 1, self.filters)
        output_shape((None,) * 4, shape, self.strides, self.dilation_rate, self.padding)  # refuses the others


_WINDOW = ("strides", "padding", "dilation_rate", "groups")
_FUSED = {"relu": keras.activations.relu, "relu6": keras.activations.relu6}


def densify(model: keras.Model) -> keras.Model:
    """Returns a copy with stock layers, which have zeros in their kernels, in place of every `SparseConv2D`.

    The way back from `tfcompress.sparsify`: for export to TFLite (`export.tflite` does it by itself), a GPU
    or XLA. The copy loads without tfcompress. The optimizer's slots of these kernels begin anew.

    Args:
        model: a built functional or Sequential model. It is not changed.

    Raises:
        ValueError: the model is subclassed or not built, or has no SparseConv2D.
    """
    _calls.check_functional(model)
    if not any(isinstance(operation, SparseConv2D) for _, operation in _calls.walk(model)):
        raise ValueError(f"'{model.name}' has no SparseConv2D, so there is nothing to densify.")
    return conversion.in_stock_layers(model)


def unsuited(layer: Any) -> str:
    """Why a layer cannot become a `SparseConv2D`; nothing where it can."""
    if type(layer) not in _STOCK:
        return f"not a Conv2D or Dense, but {type(layer).__name__}"
    if not layer.built:
        return "it is not built; call it once"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "its data_format is channels_first; the sparse op takes channels_last"
    if len(layer.weights) != 1 + layer.use_bias:
        return "it has other weights than a kernel and a bias: it is quantized, or has LoRA"
    if layer.compute_dtype == "float64":
        return "it computes in float64, the sparse op in float32"
    if not all(np.isfinite(weight).all() for weight in layer.get_weights()):
        return "it has weights that are infinite or not a number"
    return ""


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Iterable) else (value, value)
