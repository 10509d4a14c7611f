"""Masks on layers of every kind, put on and taken off again."""

import zipfile
from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers
from masks import (
    array,
    assert_equal,
    assign_random_masks,
    counting,
)

from tfcompress.layers import (
    DynamicNetworkSurgery,
    MagnitudePruning,
    MaskedLayer,
    masked_weights,
    strip,
    wrap,
)

KINDS: dict[str, tuple[Callable[[], keras.Layer], tuple[int, ...], int]] = {  # layer, input, masks
    "dense": (lambda: layers.Dense(3), (4,), 1),
    "conv1d": (lambda: layers.Conv1D(4, 3), (7, 2), 1),
    "causal_conv1d": (lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2), (7, 2), 1),
    "conv2d": (lambda: layers.Conv2D(4, 3, strides=2), (7, 7, 3), 1),
    "conv3d": (lambda: layers.Conv3D(4, 2), (4, 4, 4, 2), 1),
    "grouped_conv1d": (lambda: layers.Conv1D(6, 3, groups=2), (7, 4), 1),
    "grouped_conv2d": (lambda: layers.Conv2D(6, 3, groups=2), (6, 6, 4), 1),
    "conv1d_transpose": (lambda: layers.Conv1DTranspose(3, 3, strides=2), (5, 4), 1),
    "conv2d_transpose": (lambda: layers.Conv2DTranspose(3, 3), (5, 5, 4), 1),
    "conv3d_transpose": (lambda: layers.Conv3DTranspose(3, 2), (3, 3, 3, 2), 1),
    "depthwise_conv1d": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (7, 4), 1),
    "depthwise_conv2d": (lambda: layers.DepthwiseConv2D(3), (6, 6, 4), 1),
    "separable_conv1d": (lambda: layers.SeparableConv1D(5, 3), (7, 4), 2),
    "separable_conv2d": (lambda: layers.SeparableConv2D(5, 3), (6, 6, 4), 2),
    "einsum_dense": (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="e"), (3, 4), 1),
    "embedding": (lambda: layers.Embedding(5, 3), (6,), 1),
    "simple_rnn": (lambda: layers.SimpleRNN(4), (5, 3), 2),
    "lstm": (lambda: layers.LSTM(4, return_sequences=True), (5, 3), 2),
    "gru": (lambda: layers.GRU(4), (5, 3), 2),
    "lstm_with_dropout": (lambda: layers.LSTM(4, dropout=0.4, recurrent_dropout=0.4, seed=1), (5, 3), 2),
    "rnn_of_a_cell": (lambda: layers.RNN(layers.LSTMCell(4)), (5, 3), 2),
    "rnn_of_cells": (lambda: layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)]), (5, 3), 4),
    "bidirectional": (lambda: layers.Bidirectional(layers.LSTM(3)), (5, 3), 4),
    "time_distributed": (lambda: layers.TimeDistributed(layers.Conv2D(3, 2)), (2, 4, 4, 3), 1),
    "conv_lstm1d": (lambda: layers.ConvLSTM1D(2, 3), (3, 6, 2), 2),
    "conv_lstm2d": (lambda: layers.ConvLSTM2D(2, 3), (3, 5, 5, 2), 2),
    "multi_head_attention": (lambda: layers.MultiHeadAttention(2, 3), (5, 4), 4),
    "grouped_query_attention": (lambda: layers.GroupQueryAttention(2, 4, 2), (5, 4), 4),
}


def model_of(layer: keras.Layer, shape: tuple[int, ...]) -> keras.Model:
    whole = isinstance(layer, layers.Embedding)
    x = keras.Input(shape, dtype="int32" if whole else "float32")
    attends = isinstance(layer, (layers.MultiHeadAttention, layers.GroupQueryAttention))
    return keras.Model(x, layer(x, x) if attends else layer(x))


def model_of_kind(kind: str, seed: int = 0) -> keras.Model:
    """One layer; biases are random, too."""
    make, shape, _ = KINDS[kind]
    keras.utils.set_random_seed(seed)
    model = model_of(make(), shape)
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return model


def inputs_for(kind: str, batch: int = 3) -> np.ndarray:
    rng = np.random.default_rng(1)
    shape = (batch, *KINDS[kind][1])
    return rng.integers(0, 5, shape) if kind == "embedding" else rng.normal(size=shape).astype("float32")


def masked_model(kind: str, rule=None) -> keras.Model:
    wrapped = wrap(model_of_kind(kind), lambda layer: MaskedLayer(layer, rule))
    assign_random_masks(wrapped)
    return wrapped


def assert_close(expected, got, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(array(got), array(expected), rtol=tolerance, atol=tolerance)


# --- every kind of layer --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_mask_that_hides_nothing_changes_no_output(kind):
    model, x = model_of_kind(kind), inputs_for(kind)
    wrapped = wrap(model, MagnitudePruning(0.5))
    assert len(masked_weights(wrapped)) == KINDS[kind][2]
    np.testing.assert_array_equal(array(wrapped(x)), array(model(x)))


@pytest.mark.parametrize("kind", KINDS)
def test_masked_layer_computes_what_its_layer_would_with_zeros(kind):
    model, wrapped, x = model_of_kind(kind), masked_model(kind), inputs_for(kind)
    before = array(wrapped(x))
    for weight, value in zip(model.trainable_variables, counting(wrapped), strict=True):
        weight.assign(value)
    np.testing.assert_array_equal(before, array(model(x)))
    assert not np.allclose(before, array(model_of_kind(kind)(x))), "the comparison would be blind"


@pytest.mark.parametrize("kind", KINDS)
def test_stripped_layer_is_a_stock_layer_with_the_same_outputs(kind, tmp_path):
    wrapped, x = masked_model(kind), inputs_for(kind)
    plain = strip(wrapped)
    assert [type(layer) for layer in plain.layers] == [type(layer) for layer in model_of_kind(kind).layers]
    np.testing.assert_array_equal(array(plain(x)), array(wrapped(x)))
    assert_equal(counting(wrapped), [array(weight) for weight in plain.trainable_variables])
    plain.save(tmp_path / "model.keras")
    assert "tfcompress" not in zipfile.ZipFile(tmp_path / "model.keras").read("config.json").decode()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_file_keeps_weights_masks_and_rule(kind, tmp_path):
    rule = MagnitudePruning(0.5)
    wrapped, x = masked_model(kind, rule), inputs_for(kind)
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(*([array(weight) for weight in model.weights] for model in (wrapped, loaded)))
    assert [masked.rule for masked in masked_weights(loaded)] == [rule] * KINDS[kind][2]
    np.testing.assert_array_equal(array(loaded(x)), array(wrapped(x)))


def steps_of_descent(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    """How far one step of gradient descent moves each trained weight."""
    before = [array(weight) for weight in model.trainable_variables]
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    model.train_on_batch(x, np.ones(model(x).shape, "float32"))
    return [array(weight) - b for weight, b in zip(model.trainable_variables, before, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_straight_through_moves_all_weights_as_if_they_counted(kind):
    if kind == "lstm_with_dropout":
        pytest.skip("the two models draw different dropout")
    wrapped, x = masked_model(kind, DynamicNetworkSurgery()), inputs_for(kind)
    for expected, moved in zip(
        steps_of_descent(strip(wrapped), x), steps_of_descent(wrapped, x), strict=True
    ):
        assert_close(expected, moved, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_masks_let_no_gradient_through(kind):
    wrapped, x = masked_model(kind), inputs_for(kind)
    masks = {masked.path: masked.kept for masked in masked_weights(wrapped)}
    for weight, moved in zip(wrapped.trainable_variables, steps_of_descent(wrapped, x), strict=True):
        if weight.path in masks:
            kept = masks[weight.path]
            assert (moved[~kept] == 0).all() and (moved[kept] != 0).any()
