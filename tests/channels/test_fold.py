"""Channels that are constant can go without changing anything."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from surgery import inputs_for, outputs_of, randomize, relative_error

from tfcompress import channels

DEAD = np.array([1, 4])
KEEP = {"first": ~np.isin(np.arange(6), DEAD)}


def network(reader: layers.Layer, before: tuple = ()) -> keras.Model:
    """Two of the six filters of `first` are zero, but BatchNormalization makes constants of them."""
    x = i = keras.Input((10, 10, 3))
    x = layers.Conv2D(6, 3, name="first")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    for layer in before:
        x = layer(x)
    model = keras.Model(i, layers.Flatten()(reader(x)))
    randomize(model)
    first = model.get_layer("first")
    kernel, bias = first.get_weights()
    kernel[..., DEAD] = 0
    first.set_weights([kernel, bias])
    model.get_layer("norm").beta.assign(np.full(6, 1.5))  # so that the constants pass the ReLU
    return model


@pytest.mark.parametrize(
    "reader",
    [
        lambda: layers.Conv2D(4, 3, activation="tanh"),
        lambda: layers.Conv2D(4, 3, use_bias=False),
        lambda: layers.SeparableConv2D(4, 3, depth_multiplier=2),
        lambda: layers.Dense(4, activation="sigmoid"),
    ],
)
def test_folding_is_exact_without_padding(reader):
    model = network(reader())
    graph = channels.trace(model)
    folded = channels.shrink(model, graph, KEEP, fold_constants=True)
    plain = channels.shrink(model, graph, KEEP)
    inputs = inputs_for(model)
    assert relative_error(outputs_of(model, inputs), outputs_of(folded, inputs)) < 1e-5
    assert relative_error(outputs_of(model, inputs), outputs_of(plain, inputs)) > 1e-3


@pytest.mark.parametrize(
    ("reader", "before"),
    [
        (lambda: layers.Conv2D(4, 3, padding="same"), ()),
        (lambda: layers.Conv2D(4, 3), (layers.ZeroPadding2D(1),)),
    ],
)
def test_folding_into_a_padded_layer_is_said_to_be_inexact_and_is_better_than_nothing(reader, before):
    model = network(reader(), before)
    graph = channels.trace(model)
    with pytest.warns(UserWarning, match="exact only on average"):
        folded = channels.shrink(model, graph, KEEP, fold_constants=True)
    inputs = inputs_for(model)
    truth = outputs_of(model, inputs)
    plain = outputs_of(channels.shrink(model, graph, KEEP), inputs)
    got = outputs_of(folded, inputs)
    assert np.square(got[0] - truth[0]).sum() < 0.5 * np.square(plain[0] - truth[0]).sum()
    middle = np.abs(got[0] - truth[0]).reshape(2, 8, 8, 4)[:, 1:-1, 1:-1]
    assert np.ptp(middle, axis=(0, 1, 2)).max() < 1e-5  # all of the middle is off by the same little


def test_channels_that_are_not_constant_are_not_folded():
    model = network(layers.Conv2D(4, 3))
    graph = channels.trace(model)
    keep = {"first": np.arange(6) != 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folded = channels.shrink(model, graph, keep, fold_constants=True)
    plain = channels.shrink(model, graph, keep)
    inputs = inputs_for(model)
    assert relative_error(outputs_of(plain, inputs), outputs_of(folded, inputs)) == 0
