"""Layers by name, by pattern and by resolution; what a network says on the way."""

import keras
import numpy as np
import pytest
from distilling import data, network, numpy, teacher
from keras import layers

from tfcompress.distillation.watch import RESOLUTIONS, Watch, pairs


def test_patterns_match_in_the_order_of_the_network():
    watch = Watch(teacher())
    assert watch.paths(["t_relu.", "t_head"]) == ["t_relu0", "t_relu1", "t_head"]
    with pytest.raises(ValueError, match="In 'functional.*Did you mean 't_relu0'"):
        watch.paths("t_rely0")


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "ResNet50": {
            112: "conv1_relu",
            56: "conv2_block3_out",
            28: "conv3_block4_out",
            14: "conv4_block6_out",
            7: "conv5_block3_out",
        },
        "MobileNetV2": {
            112: "block_1_expand_relu",
            56: "block_3_expand_relu",
            28: "block_6_expand_relu",
            14: "block_13_expand_relu",
            7: "out_relu",
        },
        "EfficientNetB0": {
            112: "block2a_expand_activation",
            56: "block3a_expand_activation",
            28: "block4a_expand_activation",
            14: "block6a_expand_activation",
            7: "top_activation",
        },
    }.items(),
)
def test_the_last_layer_of_each_resolution(name, expected):
    model = getattr(keras.applications, name)(weights=None)
    found = Watch(model).last_of_each_resolution()
    assert {size[0]: path for size, path in found.items()} == expected


def nested():
    i = keras.Input((8, 8, 3))
    body = network((3, 4), name="s", seed=2)
    inner = keras.Model(body.input, body.get_layer("s_relu1").output, name="body")
    x = layers.Rescaling(0.5)(i)
    x = layers.GlobalAveragePooling2D()(inner(x))
    return keras.Model(i, layers.Dense(4, name="head")(x))


def test_layers_of_nested_models_are_seen():
    model = nested()
    watch = Watch(model)
    assert watch.last_of_each_resolution() == {(4, 4): "body/s_relu0", (2, 2): "body"}
    watch.look_at(["body/s_relu0", "body", "body/s_relu1"])
    x, _ = data()
    seen = watch(x)
    np.testing.assert_allclose(numpy(seen.given), numpy(model(x)), rtol=1e-6)
    np.testing.assert_array_equal(numpy(seen.features["body"]), numpy(seen.features["body/s_relu1"]))
    inner = model.get_layer("body")
    expected = keras.Model(inner.input, inner.get_layer("s_relu0").output)(x * 0.5)
    np.testing.assert_allclose(numpy(seen.features["body/s_relu0"]), numpy(expected), rtol=1e-6)


def test_watching_changes_nothing_of_the_model():
    model = nested()
    config = model.get_config()
    Watch(model).look_at(["body/s_relu0"])
    assert model.get_config() == config


def test_maps_are_seen_channels_last():
    i = keras.Input((3, 8, 6))
    x = layers.Conv2D(5, 3, data_format="channels_first", name="conv")(i)
    model = keras.Model(i, layers.Dense(2)(layers.Flatten()(x)))
    assert Watch(model).shape("conv") == (None, 6, 4, 5)


def test_layers_of_equal_resolution_are_partners():
    large, small = Watch(teacher()), Watch(nested())
    assert pairs(large, small, RESOLUTIONS, RESOLUTIONS) == [("t_relu0", "body/s_relu0"), ("t_relu1", "body")]
    with pytest.raises(ValueError, match="no maps of one known size"):
        pairs(large, Watch(network((3,), name="s", size=20)), RESOLUTIONS, RESOLUTIONS)


def test_dicts_of_inputs_and_outputs_keep_their_structure():
    i = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    x = layers.Dense(3, name="hidden")(layers.Add()([i["a"], i["b"]]))
    model = keras.Model(i, {"one": layers.Dense(2)(x), "two": x})
    watch = Watch(model)
    watch.look_at(["hidden"])
    values = {key: np.ones((2, 4), "float32") for key in i}
    seen = watch(values)
    assert sorted(seen.given) == ["one", "two"]
    np.testing.assert_array_equal(numpy(seen.features["hidden"]), numpy(seen.given["two"]))


def test_sequential_models_are_watched():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="hidden"), layers.Dense(2)])
    watch = Watch(model)
    watch.look_at(watch.paths("hidden"))
    assert watch(np.ones((2, 4))).features["hidden"].shape == (2, 3)
