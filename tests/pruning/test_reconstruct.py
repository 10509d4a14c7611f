"""Pruned models whose layers say again what they said."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import tfcompress
from tfcompress import prune, reconstruct
from tfcompress.layers import MagnitudePruning
from tfcompress.pruning.reconstruct import Origin, moments
from tfcompress.pruning.unfolded import Inputs, Unfolded, rows

KINDS = {
    "dense": lambda **k: layers.Dense(6, name="it", **k),
    "conv1d": lambda **k: layers.Conv1D(6, 3, padding="causal", dilation_rate=2, name="it", **k),
    "strides": lambda **k: layers.Conv2D(6, 3, strides=2, padding="same", name="it", **k),
    "even": lambda **k: layers.Conv2D(6, (2, 4), padding="same", name="it", **k),
    "dilated": lambda **k: layers.Conv2D(6, 3, dilation_rate=2, name="it", **k),
    "grouped": lambda **k: layers.Conv2D(6, 3, groups=2, padding="same", name="it", **k),
    "depthwise": lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="it", **k),
    "cubes": lambda **k: layers.Conv3D(6, 2, name="it", **k),
}
SHAPES = {"conv1d": (9, 4), "cubes": (4, 5, 6, 4)}


def network(kind: str, use_bias: bool = True, activation: str | None = "relu") -> keras.Model:
    i = keras.Input(SHAPES.get(kind, (7, 8, 4)))
    model = keras.Model(i, KINDS[kind](use_bias=use_bias, activation=activation)(i))
    rng = np.random.default_rng(len(kind))
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def images(model: keras.Model, count: int = 40, seed: int = 0) -> np.ndarray:
    shape = model.input_shape[1:]
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype("float32")


def deep(seed: int = 0) -> keras.Model:
    """Strides, depthwise, normalization, groups, a residual, a nested model and a head."""
    keras.utils.set_random_seed(seed)
    i = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="first")(i)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    inside = j = keras.Input((6, 6, 16))
    inside = layers.Conv2D(16, 3, groups=2, padding="same", activation="relu", name="grouped")(inside)
    x = keras.Model(j, inside, name="body")(x)
    y = layers.Conv2D(24, 1, activation="relu", name="point")(x)
    x = layers.Add()([y, layers.Conv2D(24, 1, use_bias=False, name="short")(x)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(i, layers.Dense(5, name="head", activation="softmax")(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no bias"])
def test_the_matrices_of_a_layer_say_what_the_layer_says(kind, use_bias):
    model = network(kind, use_bias, activation=None)
    data, layer = images(model, 5), model.get_layer("it")
    unfolded = Unfolded(layer)
    np.testing.assert_array_equal(
        unfolded.unfold(unfolded.fold(layer.get_weights()[0])), layer.get_weights()[0]
    )
    (seen,) = zip(*rows([Inputs(model, "it")], data, None, 0), strict=True)
    said = np.concatenate([x.astype("float64") @ unfolded.weights() for x in seen], axis=1)
    said = np.concatenate(list(said), axis=-1)
    expected = model.predict(data, verbose=0)
    expected = expected.reshape(len(data), -1, expected.shape[-1])
    np.testing.assert_allclose(said, expected.reshape(-1, expected.shape[-1]), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_lost_its_weights_gets_them_back(kind):
    model = network(kind)
    broken = keras.models.clone_model(model)
    broken.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in model.get_weights()])
    found = reconstruct(broken, model, images(model), ridge=0.0)
    for weight, expected in zip(found.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-3)
    assert found.reconstruction.errors["it"][1] < 1e-8


@settings(max_examples=5)
@given(st.integers(0, 1000), st.sampled_from(["l1", "random"]), st.sampled_from([0.25, 0.5]))
def test_no_layer_is_further_from_what_it_said(seed, criterion, sparsity):
    model = deep(seed)
    small = prune(model, criterion, sparsity=sparsity)
    data = images(model, 80, seed)
    found = reconstruct(small, model, data)
    paths = ["first", "depthwise", "body/grouped", "point", "short", "head"]
    assert sorted(found.reconstruction.errors) == sorted(paths)
    assert all(after <= before for before, after in found.reconstruction.errors.values())
    assert found.reconstruction.left_alone == {
        "norm": "BatchNormalization is no Dense layer and no convolution"
    }
    assert [w.shape for w in found.get_weights()] == [w.shape for w in small.get_weights()]
    assert found.removed is small.removed


def test_removed_filters_whose_readers_can_make_up_for_them_cost_nothing():
    """Two filters are alike, so that the reader of one can stand in for that of the other."""
    model = deep()
    kernel, bias = model.get_layer("point").get_weights()
    model.get_layer("short").set_weights([np.zeros_like(model.get_layer("short").get_weights()[0])])
    kernel[..., 12:], bias[12:] = kernel[..., :12], bias[:12]
    model.get_layer("point").set_weights([kernel, bias])
    scores = np.arange(24)[::-1]
    small = prune(model, lambda *_: {"point": scores, "short": scores}, sparsity=0.5, include=["point"])
    assert small.get_layer("head").get_weights()[0].shape[0] == 12
    data = images(model, 80)
    found = reconstruct(small, model, data, include=["head"], ridge=1e-9)
    expected = model.predict(data, verbose=0)
    assert np.abs(small.predict(data, verbose=0) - expected).max() > 2e-3
    np.testing.assert_allclose(found.predict(data, verbose=0), expected, atol=1e-4)


def test_nothing_changes_where_nothing_was_lost():
    model = deep()
    found = reconstruct(model, model, images(model, 80))
    for weight, expected in zip(found.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-4)


def test_what_masks_hide_stays_hidden_and_zeros_stay_zero():
    model = deep()
    masked = tfcompress.wrap(model, MagnitudePruning(0.5), exclude=["head"])
    for layer in masked.layers:
        for weight in getattr(layer, "masked", ()):
            weight.mask.assign(np.abs(weight.value) > np.median(np.abs(weight.value)))
    before = [w.kept.copy() for layer in masked.layers for w in getattr(layer, "masked", ())]
    found = reconstruct(masked, model, images(model, 80))
    after = [w.kept for layer in found.layers for w in getattr(layer, "masked", ())]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    zeros = tfcompress.strip(masked)
    stripped = reconstruct(zeros, model, images(model, 80))
    for one, other in zip(tfcompress.strip(found).get_weights(), stripped.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for one, other in zip(zeros.get_weights(), stripped.get_weights(), strict=True):
        if one.ndim > 1:
            np.testing.assert_array_equal(one == 0, other == 0)


def test_the_given_models_stay_as_they_are():
    model = deep()
    small = prune(model, "l1", sparsity=0.5)
    before = [w.copy() for each in (model, small) for w in each.get_weights()]
    reconstruct(small, model, images(model))
    after = [w for each in (model, small) for w in each.get_weights()]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_batches_and_drawn_positions_change_only_what_is_seen():
    model = deep()
    small, data = prune(model, "l1", sparsity=0.5), images(model, 90)
    whole = reconstruct(small, model, data).get_weights()
    batches = [data[start : start + 7] for start in range(0, 90, 7)]
    for one, other in zip(whole, reconstruct(small, model, batches).get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    few = [reconstruct(small, model, data, positions=5, seed=seed).get_weights() for seed in (0, 0, 1)]
    assert all(np.array_equal(one, other) for one, other in zip(few[0], few[1], strict=True))
    assert not all(np.array_equal(one, other) for one, other in zip(few[0], few[2], strict=True))


def test_a_shared_layer_is_fitted_to_all_its_calls():
    i = keras.Input((6, 6, 3))
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    model = keras.Model(i, shared(layers.ReLU()(shared(i))))
    broken = keras.models.clone_model(model)
    broken.set_weights([w + 0.1 for w in model.get_weights()])
    data = images(model)
    found = moments(broken, "shared", data, None, 0, reference=model, origin=Origin("shared", np.arange(3)))
    assert found.xx[0, -1, -1] == 2 * len(data) * 36  # the bias: a row for each position of both calls


def test_what_does_not_match_is_left_alone_with_the_reason():
    model = deep()
    twice = prune(prune(model, "l1", sparsity=0.5), "l1", sparsity=0.5)
    with pytest.raises(ValueError, match="must be the model that the verb was given"):
        reconstruct(twice, model, images(model), include=["first"])
    other = keras.models.clone_model(model)
    i = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 5, name="first")(i)
    x = layers.Conv2D(8, 1, name="new")(x)
    x = layers.GlobalAveragePooling2D()(x)
    changed = keras.Model(i, layers.Dense(5, name="head")(x))
    found = reconstruct(changed, other, images(model))
    assert set(found.reconstruction.errors) == {"head"}
    assert found.reconstruction.left_alone == {
        "first": "it has other positions than in the reference",
        "new": "the reference has no such layer",
    }
    assert "no such layer" in str(found.reconstruction)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"data": None}, "pass data"),
        ({"positions": 0}, "positions must be"),
        ({"positions": 1.5}, "positions must be"),
        ({"ridge": -1}, "ridge must be"),
        ({"include": ["heads"]}, "Did you mean 'head'"),
        ({"data": np.zeros((4, 5))}, "wants batches of shape"),
    ],
)
def test_bad_arguments(arguments, message):
    model = deep()
    with pytest.raises(ValueError, match=message):
        reconstruct(model, model, **{"data": images(model, 4), **arguments})
