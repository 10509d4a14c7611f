"""Channels that are constant can go without changing anything."""

import warnings
from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers
from surgery import inputs_for, outputs_of, randomize, relative_error

from tfcompress import channels

DEAD = np.array([1, 4])
KEEP = {"first": ~np.isin(np.arange(6), DEAD)}


class Inheriting(layers.Conv2D):
    """Works as its parent does."""


def network(
    reader: Callable,
    before: tuple = (),
    shape: tuple = (10, 10, 3),
    first: Callable = lambda: layers.Conv2D(6, 3, name="first"),
) -> keras.Model:
    """Two of the six filters of `first` are zero, but BatchNormalization makes constants of them."""
    x = i = keras.Input(shape)
    x = first()(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    for layer in before:
        x = layer(x)
    model = keras.Model(i, layers.Flatten()(reader(x)))
    randomize(model)
    kernel, bias = model.layers[1].get_weights()
    kernel[..., DEAD] = 0
    model.layers[1].set_weights([kernel, bias])
    model.get_layer("norm").beta.assign(np.full(6, 1.5))  # so that the constants pass the ReLU
    return model


@pytest.mark.parametrize(
    "reader",
    [
        lambda: layers.Conv2D(4, 3, activation="tanh"),
        lambda: layers.Conv2D(4, 3, use_bias=False),
        lambda: layers.SeparableConv2D(4, 3, depth_multiplier=2),
        lambda: layers.Dense(4, activation="sigmoid"),
        lambda: layers.Dense(4, use_bias=False, bias_initializer="ones"),
        lambda: layers.Conv2D(4, 3, groups=2),
        lambda: Inheriting(4, 3),
        lambda: layers.TimeDistributed(layers.Conv1D(4, 3)),
        lambda: layers.TimeDistributed(layers.TimeDistributed(layers.Dense(4))),
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


def test_constants_that_a_layer_inside_time_distributed_makes_are_folded():
    model = network(
        layers.Conv2D(4, 3), first=lambda: layers.TimeDistributed(layers.Conv1D(6, 3, name="first"), name="t")
    )
    graph = channels.trace(model)
    folded = channels.shrink(model, graph, {"t/first": KEEP["first"]}, fold_constants=True)
    inputs = inputs_for(model)
    assert relative_error(outputs_of(model, inputs), outputs_of(folded, inputs)) < 1e-5


def test_a_layer_called_twice_takes_constants_that_both_calls_read():
    shared = layers.Conv2D(4, 3, name="shared")
    model = network(lambda x: layers.Add()([shared(x), shared(layers.Dropout(0.5)(x))]))
    graph = channels.trace(model)
    folded = channels.shrink(model, graph, KEEP, fold_constants=True)
    inputs = inputs_for(model)
    assert relative_error(outputs_of(model, inputs), outputs_of(folded, inputs)) < 1e-5


def test_a_layer_called_on_other_constants_the_second_time_takes_none_and_says_so():
    shared = layers.Conv2D(4, 3, name="shared")
    model = network(lambda x: layers.Concatenate()([shared(x), shared(layers.Rescaling(2.0)(x))]))
    graph = channels.trace(model)
    with pytest.warns(UserWarning, match="2 channels of group 'first' .* 'shared' .* called several times"):
        folded = channels.shrink(model, graph, KEEP, fold_constants=True)
    inputs = inputs_for(model)
    plain = channels.shrink(model, graph, KEEP)
    assert relative_error(outputs_of(plain, inputs), outputs_of(folded, inputs)) == 0


@pytest.mark.parametrize(
    ("reader", "name"),
    [
        (layers.LSTM(4, name="reader"), "LSTM"),
        (layers.Bidirectional(layers.GRU(4), name="reader"), "Bidirectional"),
        (lambda x: layers.MultiHeadAttention(2, 3, name="reader")(x, x), "MultiHeadAttention"),
    ],
)
def test_constants_that_the_reader_cannot_take_are_said_to_be_lost(reader, name):
    model = network(reader, shape=(10, 3), first=lambda: layers.Conv1D(6, 3, name="first"))
    graph = channels.trace(model)
    with pytest.warns(UserWarning, match=f"2 channels of group 'first' .* 'reader' .* {name} cannot"):
        channels.shrink(model, graph, KEEP, fold_constants=True)


@pytest.mark.parametrize("shape", [(10, 10, 3), (None, None, 3)])
def test_what_only_looks_constant_on_random_images_is_not_folded(shape):
    """A relu6 that is saturated for small inputs is not for pixels."""
    i = keras.Input(shape)
    x = layers.Conv2D(6, 1, activation="relu6", name="first")(i)
    model = keras.Model(i, layers.Conv2D(4, 3)(x))
    model.get_layer("first").bias.assign(np.full(6, 40.0))
    graph = channels.trace(model)
    folded = channels.shrink(model, graph, KEEP, fold_constants=True)
    inputs = inputs_for(model)
    plain = channels.shrink(model, graph, KEEP)
    assert relative_error(outputs_of(plain, inputs), outputs_of(folded, inputs)) == 0


def test_words_are_not_constant_though_few_are_drawn():
    i = keras.Input((1,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(10, 6, name="first")(i))
    model = randomize(keras.Model(i, layers.Dense(3)(x)))
    graph = channels.trace(model)
    folded = channels.shrink(model, graph, KEEP, fold_constants=True)
    plain = channels.shrink(model, graph, KEEP)
    assert (
        relative_error(
            outputs_of(plain, [np.arange(10)[:, None]]), outputs_of(folded, [np.arange(10)[:, None]])
        )
        == 0
    )


def test_folding_carries_the_optimizer_over_to_a_reader_that_gets_a_bias():
    model = network(layers.Conv2D(4, 3, use_bias=False))
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(4, 10, 10, 3))
    model.fit(x, np.zeros((4, 144)), verbose=0)
    first = model.get_layer("first")
    first.kernel.assign(first.kernel.numpy() * KEEP["first"])
    folded = channels.shrink(model, channels.trace(model), KEEP, fold_constants=True)
    assert relative_error(outputs_of(model, [x]), outputs_of(folded, [x])) < 1e-5
    folded.fit(x, np.zeros((4, 144)), verbose=0)


@pytest.mark.parametrize(
    ("reader", "before"),
    [
        (lambda: layers.Conv2D(4, 3, padding="same"), ()),
        (lambda: layers.Conv2D(4, 3), (layers.ZeroPadding2D(1),)),
        (lambda: Inheriting(4, 3, groups=2, padding="same"), ()),
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


@pytest.mark.filterwarnings("ignore:.*does not support masking")
def test_a_model_inside_the_model_that_is_given_a_mask_is_looked_into():
    words = keras.Input((7,), dtype="int32")
    x = inner = keras.Input((7, 8))
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Dense(6, name="first")(x)))
    x = keras.Model(inner, x, name="inner")(layers.Embedding(5, 8, mask_zero=True)(words))
    model = randomize(keras.Model(words, layers.Dense(4)(x)))
    norm, first = (model.get_layer("inner").get_layer(name) for name in ("norm", "first"))
    norm.beta.assign(np.full(6, 1.5))
    first.kernel.assign(first.kernel.numpy() * KEEP["first"])
    folded = channels.shrink(
        model, channels.trace(model), {"inner/first": KEEP["first"]}, fold_constants=True
    )
    inputs = inputs_for(model)
    assert relative_error(outputs_of(model, inputs), outputs_of(folded, inputs)) < 1e-5


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_moving_average_of_a_bias_gets_the_constants_too(use_bias):
    model = network(layers.Conv2D(4, 3, use_bias=use_bias))
    model.compile(keras.optimizers.SGD(0.0, use_ema=True), "mse")
    model.get_layer("norm").trainable = False  # its statistics, and with them the constants, stay
    x = inputs_for(model)
    model.train_on_batch(x[0], outputs_of(model, x)[0])  # averages = weights: the rate is 0
    folded = channels.shrink(model, channels.trace(model), KEEP, fold_constants=True)
    expected = outputs_of(folded, x)
    folded.optimizer.finalize_variable_values(folded.trainable_variables)
    assert relative_error(outputs_of(folded, x), expected) <= 1e-6
