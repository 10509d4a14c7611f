"""BatchNormalization measured again, another head, sensitivity."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress import _cloning, analysis


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


class Subclassed(keras.Model):
    pass


UNREADABLE = [
    (Subclassed, "subclassed model"),
    (lambda: keras.Sequential([layers.Dense(3)]), "not built"),
    (lambda: None, "Expected a keras.Model, got NoneType"),
]


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


@pytest.mark.parametrize("given", [list, lambda arrays: dict(zip("ab", arrays, strict=True))])
@pytest.mark.parametrize("structure", [list, lambda tensors: {t.name: t for t in tensors}])
def test_statistics_of_a_model_with_several_inputs(given, structure):
    tensors = [keras.Input((4,), name=name) for name in "ab"]
    norm = layers.BatchNormalization(name="norm")
    model = keras.Model(structure(tensors), norm(layers.Subtract()(tensors)))
    a, b = np.random.default_rng(0).normal(size=(2, 64, 4)).astype("float32")
    measured = tfcompress.reestimate_batch_norm(model, [(given([a, b]),)])
    np.testing.assert_allclose(measured.get_layer("norm").moving_mean, (a - b).mean(0), atol=1e-5)


def plain() -> keras.Model:
    i = keras.Input((4,))
    return keras.Model(i, layers.Dense(2)(i))


def test_model_without_batch_norm_is_just_copied():
    model = plain()
    copy = tfcompress.reestimate_batch_norm(model, np.zeros((3, 4)))
    assert (copy.weights[0].numpy() == model.weights[0].numpy()).all()


@pytest.mark.parametrize("make", [plain, network])
@pytest.mark.parametrize("data", [None, [], np.zeros((0, 4))])
def test_statistics_of_no_data_are_refused(make, data):
    with pytest.raises(ValueError, match="data is empty|Expected arrays"):
        tfcompress.reestimate_batch_norm(make(), data)


@pytest.mark.parametrize(("make", "message"), UNREADABLE)
def test_statistics_of_a_model_without_a_graph_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        tfcompress.reestimate_batch_norm(make(), np.zeros((3, 4)))


def test_what_is_frozen_stays_so_when_statistics_are_measured():
    model = network()
    model.get_layer("norm").gamma.trainable = False
    frozen = network()
    frozen.get_layer("norm").trainable = False
    for old in (model, frozen):
        new = tfcompress.reestimate_batch_norm(old, images(8))
        assert [w.trainable for w in new.weights] == [w.trainable for w in old.weights]
        assert new.get_layer("norm").trainable == old.get_layer("norm").trainable


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


def joined() -> keras.Model:
    i = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3)(i)
    side = layers.Dense(4)(layers.GlobalAveragePooling2D()(x))
    x = layers.Concatenate(name="join")([layers.Dense(5)(layers.Flatten()(x)), side])
    return keras.Model(i, layers.Dense(5)(x))


def flat_at_the_end() -> keras.Model:
    i = keras.Input((8, 8, 3))
    return keras.Model(i, layers.Flatten()(layers.Dense(5)(i)))


def without_flatten() -> keras.Model:
    i = keras.Input((8, 8, 3))
    return keras.Model(i, layers.Conv2D(2, 3)(i))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_flatten, "needs one Flatten.*it has 0 Flatten"),
        (joined, "'join' joins what comes from the Flatten .* with something else"),
        (flat_at_the_end, "does not end in a Dense layer behind the Flatten"),
        *UNREADABLE,
    ],
)
def test_model_without_such_a_head_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        tfcompress.replace_head(make())


def test_sequential_model_with_a_new_head_is_sequential_and_trained_further():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(9, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(3, kernel_regularizer="l2", bias_constraint="non_neg", name="old"),
            layers.Softmax(name="soft"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    x, y = images(8), np.arange(8) % 3
    model.train_on_batch(x, y)
    new = tfcompress.replace_head(model)
    assert isinstance(new, keras.Sequential) and new.name == model.name
    assert [type(layer).__name__ for layer in new.layers] == [
        "Conv2D",
        "GlobalAveragePooling2D",
        "Dense",
        "Softmax",
    ]
    head = new.get_layer("head")
    assert isinstance(head.kernel.regularizer, keras.regularizers.L2)
    assert isinstance(head.bias.constraint, keras.constraints.NonNeg)
    kernels = [m.get_layer("conv").kernel for m in (model, new)]
    slots = [
        keras.ops.convert_to_numpy(slot)
        for m, kernel in zip((model, new), kernels, strict=True)
        for slot, _ in _cloning.slots(m.optimizer, [kernel])
    ]
    assert (slots[0] == slots[1]).all() and slots[0].any() and len(slots) == 2
    assert np.isfinite(new.train_on_batch(x, y))


def test_functional_model_with_a_new_head_stays_compiled():
    assert tfcompress.replace_head(network(activation="softmax")).compiled


def test_branches_that_all_come_from_the_flatten_are_replaced():
    i = keras.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2D(4, 3)(i))
    x = layers.Add()([layers.Dense(5)(x), layers.Dense(5)(x)])
    new = tfcompress.replace_head(keras.Model(i, 2 * layers.Dense(2)(x) + 1))
    assert [type(layer).__name__ for layer in new.layers][1:] == [
        "Conv2D",
        "GlobalAveragePooling2D",
        "Dense",
    ]
    new.get_layer("head").kernel.assign(np.zeros((4, 2)))
    assert (keras.ops.convert_to_numpy(new(np.zeros((1, 8, 8, 3)))) == 1).all()


def test_name_of_the_new_head_that_is_taken_gets_a_number():
    i = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="head")(i)
    x = layers.Conv2D(8, 3, name="head_1")(x)
    new = tfcompress.replace_head(keras.Model(i, layers.Dense(5)(layers.Flatten()(x))))
    assert new.get_layer("head_2").kernel.shape == (8, 5)


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
    with pytest.raises(ValueError, match="function of the model"):
        analysis.sensitivity(network(), "l1", 0.5)
