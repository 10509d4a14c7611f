"""The estimate of energy: what is published of it, what must hold of any, and its parts by hand."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfcompress.analysis import Hardware, energy, macs
from tfcompress.analysis.energy import PARTS


def alexnet() -> keras.Model:
    i = keras.Input((227, 227, 3))
    x = layers.Conv2D(96, 11, strides=4, activation="relu", name="conv1")(i)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Conv2D(256, 5, padding="same", groups=2, activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Conv2D(384, 3, padding="same", activation="relu", name="conv3")(x)
    x = layers.Conv2D(384, 3, padding="same", groups=2, activation="relu", name="conv4")(x)
    x = layers.Conv2D(256, 3, padding="same", groups=2, activation="relu", name="conv5")(x)
    x = layers.Flatten()(layers.MaxPooling2D(3, 2)(x))
    x = layers.Dense(4096, activation="relu", name="fc6")(x)
    x = layers.Dense(4096, activation="relu", name="fc7")(x)
    return keras.Model(i, layers.Dense(1000, name="fc8")(x))


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return alexnet()


@pytest.mark.parametrize(("batch", "share"), [(1, 0.27), (16, 0.80), (48, 0.86)])
def test_the_share_of_convolutions_in_alexnet(network, batch, share):
    """About 80 % in the Eyeriss paper; with one image at a time dense layers wait for their weights."""
    found = energy(network, batch=batch)
    convolutions = sum(row["total"] for row in found.rows if row["layer"].startswith("conv"))
    assert convolutions / found.total == pytest.approx(share, abs=0.005)


def one_conv(density: float = 1.0) -> keras.Model:
    i = keras.Input((13, 13, 256))
    model = keras.Model(i, layers.Conv2D(384, 3, padding="same", name="conv")(i))
    kernel = np.zeros(3 * 3 * 256 * 384, "float32")
    kernel[: round(density * kernel.size)] = 1
    model.get_layer("conv").set_weights([kernel.reshape(3, 3, 256, 384), np.zeros(384)])
    return model


@pytest.mark.parametrize(("density", "millions"), [(1, 1228.24), (0.5, 722.09), (0.1, 230.14)])
def test_a_convolution_of_alexnet_by_its_density(density, millions):
    assert energy(one_conv(density), batch=16).total / 1e6 == pytest.approx(millions, rel=1e-4)


def test_the_parts_of_a_small_convolution_by_hand():
    i = keras.Input((4, 4, 4))
    model = keras.Model(i, layers.Conv2D(8, 3, padding="same", name="conv")(i))
    (row,) = energy(model).rows
    count, weights, inputs, outputs = 16 * 9 * 4 * 8, 9 * 4 * 8, 6 * 6 * 4, 16 * 8
    assert row["mac"] == count == macs(model)
    assert row["register_file"] == 4 * count
    assert row["array"] == 2 * (inputs * 3 + outputs * 2)
    assert row["buffer"] == 6 * (inputs + weights + outputs)
    assert row["dram"] == 200 * (weights + inputs + outputs)
    assert row["total"] == sum(row[part] for part in PARTS)


KINDS = {
    "conv1d": ((16, 4), layers.Conv1D(6, 3, padding="causal")),
    "conv3d": ((4, 5, 6, 3), layers.Conv3D(4, 2, strides=(1, 2, 1))),
    "depthwise": ((8, 8, 6), layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")),
    "separable": ((8, 8, 6), layers.SeparableConv2D(5, 3, padding="same")),
    "transposed": ((8, 8, 6), layers.Conv2DTranspose(5, 3, strides=2)),
    "grouped": ((8, 8, 6), layers.Conv2D(4, 3, groups=2)),
    "dense on maps": ((8, 8, 6), layers.Dense(5)),
    "einsum": ((7, 6), layers.EinsumDense("abc,cd->abd", (7, 5))),
    "gru": ((7, 6), layers.GRU(5)),
    "of each step": ((7, 6), layers.TimeDistributed(layers.Dense(5))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_multiplications_are_those_that_are_counted_elsewhere(kind):
    shape, layer = KINDS[kind]
    i = keras.Input(shape)
    model = keras.Model(i, type(layer).from_config(layer.get_config())(i))
    for weight in model.weights:
        weight.assign(np.ones(weight.shape))
    found = energy(model)
    assert sum(row["mac"] for row in found.rows) == macs(model) and not found.uncounted
    assert all(row[part] >= 0 for row in found.rows for part in PARTS)


@given(st.sampled_from([1, 4, 16]), st.sampled_from([4, 8, 16]), st.sampled_from([4, 8, 16]))
def test_more_bits_and_more_weights_take_more(batch, weight_bits, activation_bits):
    def total(model, **bits):
        return energy(model, batch=batch, **{**bits_given, **bits}).total

    bits_given = {"weight_bits": weight_bits, "activation_bits": activation_bits}
    half, full = (SMALL[density] for density in (0.5, 1.0))
    assert total(half) < total(full)
    assert total(full) < total(full, weight_bits=weight_bits + 2)
    assert total(full) < total(full, activation_bits=activation_bits + 2)


def small(density: float) -> keras.Model:
    i = keras.Input((8, 8, 16))
    model = keras.Model(i, layers.Conv2D(32, 3, padding="same", name="conv")(i))
    rng = np.random.default_rng(0)
    kernel = np.ones((3, 3, 16, 32)) * (rng.random((3, 3, 16, 32)) < density)
    model.get_layer("conv").set_weights([kernel, np.zeros(32)])
    return model


SMALL = {density: small(density) for density in (0.5, 1.0)}


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 64), st.integers(1, 20))
def test_all_data_comes_from_outside_at_least_once(filters, channels, size, batch):
    i = keras.Input((size, size, channels))
    model = keras.Model(i, layers.Conv2D(filters, 1, kernel_initializer="ones")(i))
    (row,) = energy(model, batch=batch).rows
    words = filters * channels / batch + size * size * (channels + filters)
    assert row["dram"] >= 200 * words * (1 - 1e-9)


def test_zeros_of_activations_are_measured_on_data():
    i = keras.Input((6, 6, 2))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, name="first")(i)))
    model = keras.Model(i, layers.Conv2D(4, 3, name="second")(x))
    images = np.random.default_rng(0).normal(size=(40, 6, 6, 2)).astype("float32")
    images[:, :3] = 0
    maps = keras.Model(i, x).predict(images, verbose=0)
    first, second = energy(model, data=images).rows
    assert first["input_density"] == pytest.approx(0.5)
    assert first["output_density"] == pytest.approx((maps != 0).mean(), abs=1e-6)
    assert second["input_density"] == first["output_density"]
    assert sum(row["total"] for row in (first, second)) < energy(model).total
    assert list(energy(model).by_layer) == ["second", "first"]


def test_hardware_from_a_file_a_dict_and_as_an_object(tmp_path):
    file = tmp_path / "chip.yaml"
    file.write_text("dram: 100\nbuffer_bytes: 1024\n")
    expected = energy(one_conv(), hardware=Hardware(dram=100, buffer_bytes=1024)).total
    assert energy(one_conv(), hardware=file).total == expected
    assert energy(one_conv(), hardware={"dram": 100, "buffer_bytes": 1024}).total == expected
    assert expected != energy(one_conv()).total


def test_the_table_names_layers_and_what_is_not_known():
    @keras.saving.register_keras_serializable("test_energy")
    class Mix(layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], shape[-1]))

        def call(self, x):
            return x @ self.matrix

    i = keras.Input((4, 4, 3))
    found = energy(keras.Model(i, Mix(name="mix")(layers.Conv2D(3, 1, name="conv")(i))))
    assert "conv" in str(found) and list(found.uncounted) == ["mix"] and "100.0%" in str(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch must be"),
        ({"weight_bits": 2.5}, "weight_bits must be"),
        ({"hardware": {"drams": 1}}, "Unknown property of the hardware 'drams'. Did you mean 'dram'"),
        ({"hardware": {"dram": 0}}, "dram of the hardware must be"),
        ({"hardware": 3}, "described by names and numbers"),
        ({"data": np.zeros((2, 5, 5, 16), "float32")}, "wants batches of shape"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        energy(SMALL[1.0], **arguments)
