"""Models and interpreters for tests of the TFLite delegate."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from backends import NEEDS_TENSORFLOW
from hypothesis import strategies as st
from keras import layers

from tfcompress import _native, export
from tfcompress.ops import delegate

NEEDS_DELEGATE = [
    NEEDS_TENSORFLOW,
    pytest.mark.skipif(_native.path("tflite") is None, reason="the delegate was not built"),
]


def thin_out(model, density, seed=0):
    """Random weights and biases, of which `density` stay."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        weights = [
            rng.normal(size=weight.shape) / np.sqrt(max(weight.size, 1)) for weight in layer.get_weights()
        ]
        if weights and not isinstance(layer, layers.DepthwiseConv2D):
            weights[0] *= (rng.random(weights[0].shape) < density) / np.sqrt(max(density, 0.01))
        layer.set_weights(weights)
    return model


def interpreter(content, *, package="litert", threads=1, **options):
    """With the delegate if there are options."""
    library, given_options = delegate.specification(**options)
    if package == "litert":
        from ai_edge_litert.interpreter import Interpreter, load_delegate
    else:
        import tensorflow as tf

        Interpreter, load_delegate = tf.lite.Interpreter, tf.lite.experimental.load_delegate
    delegates = [load_delegate(library, given_options)] if options else []
    return Interpreter(model_content=content, num_threads=threads, experimental_delegates=delegates)


def outputs(runner, x):
    place = runner.get_input_details()[0]["index"]
    runner.resize_tensor_input(place, x.shape)
    runner.allocate_tensors()
    runner.set_tensor(place, x)
    runner.invoke()
    found = sorted(runner.get_output_details(), key=lambda detail: detail["name"])
    return [runner.get_tensor(detail["index"]) for detail in found]


def content_of(model, tmp_path, **options):
    path = tmp_path / "model.tflite"
    export.tflite(model, path, tolerance=1, **options)
    return path.read_bytes()


def dense_layers():
    """Behind each other, on maps and on vectors."""
    x = keras.Input((6, 6, 8))
    y = layers.Conv2D(24, 3, padding="same", activation="relu")(x)
    y = layers.Dense(32, activation="relu")(layers.Dense(40, activation="relu")(y))
    y = layers.Conv2D(24, 1, activation="relu6")(y)
    return keras.Model(x, layers.Dense(30)(layers.Dense(50, activation="relu")(layers.Flatten()(y))))


def residual(size=(20, 20), outputs_inside=False):
    """Blocks as those of ResNet, a stride, a depthwise convolution and a dense end."""
    x = keras.Input((*size, 5))
    y = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(x)
    for filters, stride in ((32, 1), (32, 1), (48, 2), (48, 1)):
        z = layers.Conv2D(16, 1, strides=stride, activation="relu")(y)
        z = layers.Conv2D(16, 3, padding="same", activation="relu")(z)
        inside = layers.Conv2D(filters, 1)(z)
        short = y if stride == 1 else layers.Conv2D(filters, 1, strides=stride)(y)
        y = layers.ReLU()(layers.Add()([inside, short]))
    y = layers.Conv2D(48, 5, padding="valid", activation="relu6")(layers.ZeroPadding2D(2)(y))
    y = layers.Conv2D(24, 1, activation="relu")(layers.DepthwiseConv2D(3, padding="same")(y))
    y = layers.Conv2D(24, 3, padding="same", dilation_rate=2, activation="tanh")(y)
    y = layers.Dense(10)(layers.GlobalAveragePooling2D()(y))
    return keras.Model(x, [y, inside] if outputs_inside else y)


@st.composite
def settings_of_convolutions(draw):
    stride = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2]))
    return {
        "filters": groups * draw(st.integers(1, 20)),
        "kernel_size": draw(st.tuples(st.integers(1, 5), st.integers(1, 5))),
        "strides": stride,
        "dilation_rate": draw(st.integers(1, 2)) if stride == 1 else 1,
        "padding": draw(st.sampled_from(["same", "valid"])),
        "groups": groups,
        "use_bias": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "relu", "relu6", "sigmoid"])),
    }


def report_on(content, tmp_path):
    """What the delegate says of a file."""
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    code = (
        "from ai_edge_litert.interpreter import Interpreter, load_delegate;"
        f"made = load_delegate(*{delegate.specification(force=True, verbosity=2)!r});"
        f"Interpreter({str(path)!r}, experimental_delegates=[made])"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stderr
