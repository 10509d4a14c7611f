"""The delegate computes, bit for bit, what the stock interpreter does with int8 files."""

import keras
import numpy as np
import pytest
from delegated import content_of, interpreter, outputs, residual, settings_of_convolutions, thin_out
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from tfcompress import _native

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export needs TensorFlow"),
    pytest.mark.skipif(_native.path("tflite") is None, reason="the delegate was not built"),
]


def int8_file(model, tmp_path, **options):
    data = np.random.default_rng(0).normal(0.2, size=(32, *model.input_shape[1:])).astype("float32")
    return content_of(model, tmp_path, quantization="int8", representative_data=data, **options)


def same(content, x, **options):
    stock = outputs(interpreter(content), x)
    mine = outputs(interpreter(content, **options), x)
    assert len(mine) == len(stock)
    for found, expected in zip(mine, stock, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    model = thin_out(residual(outputs_inside=True), 0.2)
    return int8_file(model, tmp_path_factory.mktemp("network"))


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_residual_network(network, force, threads):
    x = np.random.default_rng(1).normal(size=(3, 20, 20, 5)).astype("float32")
    same(network, x, force=force, threads=threads)


@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_any_convolution(tmp_path_factory, data):
    x = keras.Input((data.draw(st.integers(10, 33)), data.draw(st.integers(10, 33)), 6))
    found = [layers.Conv2D(**data.draw(settings_of_convolutions()))(x) for _ in range(8)]
    model = thin_out(keras.Model(x, found), data.draw(st.sampled_from([0.03, 0.2, 1])))
    content = int8_file(model, tmp_path_factory.mktemp("any"))
    same(content, np.random.default_rng(0).normal(size=(2, *x.shape[1:])).astype("float32"), force=True)


def test_dense_layers_behind_each_other_and_on_maps(tmp_path):
    x = keras.Input((6, 6, 8))
    y = layers.Conv2D(24, 3, padding="same", activation="relu")(x)
    y = layers.Dense(32, activation="relu")(layers.Dense(40, activation="relu")(y))
    y = layers.Conv2D(24, 1, activation="relu6")(y)
    y = layers.Dense(30)(layers.Dense(50, activation="relu")(layers.Flatten()(y)))
    content = int8_file(thin_out(keras.Model(x, y), 0.1), tmp_path)
    for batch in (1, 40):
        same(content, np.random.default_rng(0).normal(size=(batch, 6, 6, 8)).astype("float32"), force=True)
