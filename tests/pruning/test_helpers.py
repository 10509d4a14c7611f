"""BatchNormalization measured again, another head, sensitivity."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress import analysis


def network(**dense) -> keras.Model:
    x = i = keras.Input((8, 8, 2))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, name="conv")(x))
    x = layers.Conv2D(6, 3, activation="relu", name="second")(layers.ReLU()(x))
    x = layers.Dense(20, activation="relu")(layers.Flatten()(x))
    model = keras.Model(i, layers.Dense(3, name="old", **dense)(layers.Dropout(0.5)(x)))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def images(count: int = 64) -> np.ndarray:
    return np.random.default_rng(0).normal(2, 3, (count, 8, 8, 2)).astype("float32")


def test_new_statistics_are_those_of_the_data():
    model, x = network(), images()
    measured = tfcompress.reestimate_batch_norm(model, x)
    maps = keras.ops.convert_to_numpy(model.get_layer("conv")(x)).reshape(2, -1, 8)
    expected = [np.mean([half.mean(0) for half in maps], 0), np.mean([half.var(0) for half in maps], 0)]
    norm = measured.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean.numpy(), expected[0], rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.numpy(), expected[1], rtol=1e-3)
    assert norm.momentum == 0.99
    assert (model.get_layer("norm").moving_mean.numpy() == 0).all()
    assert (measured.get_layer("conv").kernel.numpy() == model.get_layer("conv").kernel.numpy()).all()


def test_model_without_batch_norm_is_just_copied():
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(2)(i))
    copy = tfcompress.reestimate_batch_norm(model, np.zeros((3, 4)))
    assert (copy.weights[0].numpy() == model.weights[0].numpy()).all()


@pytest.mark.parametrize("apart", [False, True])
def test_head_becomes_pooling_and_one_dense(apart):
    model = network(activation=None if apart else "softmax")
    if apart:
        model = keras.Model(model.input, layers.Softmax(name="soft")(model.outputs[0]))
    new = tfcompress.replace_head(model)
    kinds = [type(layer).__name__ for layer in new.layers]
    assert kinds[-2 - apart] == "GlobalAveragePooling2D" and kinds.count("Dense") == 1
    assert new.output_shape == (None, 3) and new.get_layer("head").kernel.shape == (6, 3)
    assert new.count_params() < model.count_params() / 3
    outputs = keras.ops.convert_to_numpy(new(images(4)))
    np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-5)
    assert (new.get_layer("conv").kernel.numpy() == model.get_layer("conv").kernel.numpy()).all()


def test_model_without_such_a_head_is_refused():
    x = i = keras.Input((8, 8, 2))
    with pytest.raises(ValueError, match="needs one Flatten"):
        tfcompress.replace_head(keras.Model(i, layers.Conv2D(2, 3)(x)))


def test_sensitivity_is_that_of_the_pruned_model_and_leaves_no_trace():
    model, x = network(), images()
    y = np.random.default_rng(1).integers(0, 3, len(x))
    before = [weight.numpy() for weight in model.weights]

    def accuracy(m):
        return float((m.predict_on_batch(x).argmax(1) == y).mean())

    curves = analysis.sensitivity(model, "l1", accuracy, sparsities=[0.25, 0.75], include=["conv", "second"])
    assert all((a == b.numpy()).all() for a, b in zip(before, model.weights, strict=True))
    assert list(curves) == ["conv", "second"] and list(curves["conv"]) == [0.0, 0.25, 0.75]
    for name, curve in curves.items():
        selection = tfcompress.Selection(round_to=1)
        small = tfcompress.prune(model, "l1", sparsity=0.75, include=name, selection=selection)
        assert curve[0.75] == accuracy(small) and curve[0.0] == accuracy(model)


def test_sensitivity_wants_a_function():
    with pytest.raises(ValueError, match="function from a model"):
        analysis.sensitivity(network(), "l1", 0.5)
