"""The int8 core gives, bit for bit, what the stock interpreter does."""

import core
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import tfcompress

SHAPE = (11, 13, 8)
LAYERS = {
    "3x3": lambda: layers.Conv2D(24, 3),
    "same, strides": lambda: layers.Conv2D(20, 3, strides=2, padding="same", activation="relu"),
    "pointwise": lambda: layers.Conv2D(40, 1, activation="relu6"),
    "no bias": lambda: layers.Conv2D(16, (1, 5), use_bias=False),
    "dense": lambda: layers.Dense(19),
}


def quantized(make, path, seed):
    """The file of one layer with random weights, most of them zero, as an interpreter."""
    rng = np.random.default_rng(seed)
    layer = make()
    x = keras.Input((SHAPE[-1],) if isinstance(layer, layers.Dense) else SHAPE)
    model = keras.Model(x, layer(x))
    kernel = rng.normal(size=layer.kernel.shape) * (rng.random(layer.kernel.shape) < 0.3)
    layer.kernel.assign(kernel)
    if layer.use_bias:
        layer.bias.assign(rng.normal(size=layer.bias.shape))
    data = rng.normal(0.3, size=(64, *x.shape[1:])).astype("float32")
    tfcompress.export.tflite(
        model, path, quantization="int8", representative_data=data, sparse_encoding=False, tolerance=1.0
    )
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return layer, interpreter


def quantization(tensor: dict) -> tuple[np.ndarray, int]:
    """Scales and zero."""
    found = tensor["quantization_parameters"]
    return found["scales"].astype("float32"), int(found["zero_points"][0])


def tensors(interpreter) -> tuple[dict, dict, dict, dict]:
    """Input, weights, bias and output of the layer."""
    (operation,) = (
        each for each in interpreter._get_ops_details() if each["op_name"] in ("CONV_2D", "FULLY_CONNECTED")
    )
    by_index = {each["index"]: each for each in interpreter.get_tensor_details()}
    return *(by_index[index] for index in operation["inputs"]), by_index[operation["outputs"][0]]


def bounds(layer, scale: float, zero: int) -> tuple[int, int]:
    """Of the activation, in int8."""
    name = layer.activation.__name__
    low = max(-128, zero) if name.startswith("relu") else -128
    return low, min(127, zero + round(6 / scale)) if name == "relu6" else 127


def convolution(layer, interpreter) -> core.Int8Convolution:
    x, weights, bias, y = tensors(interpreter)
    (scale,), zero = quantization(x)
    (out_scale,), out_zero = quantization(y)
    scales = scale * quantization(weights)[0] / out_scale
    kernel = np.moveaxis(interpreter.get_tensor(weights["index"]), 0, -1)
    requantization = core.Requantization(scales, zero, out_zero, *bounds(layer, out_scale, out_zero))
    return core.Int8Convolution(
        shape_of(layer, x["shape"]), kernel, interpreter.get_tensor(bias["index"]), requantization
    )


def shape_of(layer, x) -> core.Shape:
    if isinstance(layer, layers.Dense):
        return core.Shape(channels=x[-1], filters=layer.units)
    (height, width), (stride_height, stride_width) = layer.kernel_size, layer.strides
    shape = core.Shape(
        height=x[1],
        width=x[2],
        channels=x[3],
        filters=layer.filters,
        kernel_height=height,
        kernel_width=width,
        stride_height=stride_height,
        stride_width=stride_width,
    )
    if layer.padding == "same":
        assert core.library().tfc_pad_same(core.ctypes.byref(shape)) == core.OK
    return shape


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_that_of_the_interpreter(name, tmp_path):
    layer, interpreter = quantized(LAYERS[name], tmp_path / "model.tflite", sum(map(ord, name)))
    ours = convolution(layer, interpreter)
    assert (ours.weights == 0).mean() > 0.6
    given, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    (scale,), zero = quantization(tensors(interpreter)[0])
    (out_scale,), out_zero = quantization(tensors(interpreter)[-1])
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.integers(-128, 128, given["shape"]).astype("int8")
        interpreter.set_tensor(given["index"], (scale * (x.astype("float32") - zero)).astype("float32"))
        interpreter.invoke()
        whole = np.rint(interpreter.get_tensor(result["index"]) / out_scale).astype(int) + out_zero
        shape = (1, ours.shape.height, ours.shape.width, ours.shape.channels)
        for kernel in core.kernels("int8_"):
            np.testing.assert_array_equal(ours.run(x.reshape(shape), kernel).reshape(whole.shape), whole)
