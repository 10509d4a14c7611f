"""Connections dropped by correlation: counts, halves, order, retraining."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfcompress import prune_connections, strip
from tfcompress.layers import MaskedLayer
from tfcompress.pruning.connections import drawn

SEEDS = st.integers(0, 10**6)


@given(SEEDS, st.floats(0, 1), st.floats(0, 1), st.integers(2, 60))
def test_counts_of_both_signs_are_exact(seed, density, upper, inputs):
    rng = np.random.default_rng(seed)
    r = rng.uniform(-1, 1, (inputs, 3)) * (rng.random((inputs, 3)) > 0.2)
    keep = drawn(r, density, upper, rng)
    for column, kept in zip(r.T, keep.T, strict=True):
        positive, negative = (round(density * int(part.sum())) for part in (column > 0, column < 0))
        if positive + negative == 0:
            assert kept.sum() == 1 and np.abs(column)[kept] == np.abs(column).max()
        else:
            assert (kept & (column > 0)).sum() == positive and (kept & (column < 0)).sum() == negative
            assert not (kept & (column == 0)).any()


@given(SEEDS, st.sampled_from([0.1, 0.3, 0.5, 0.6]), st.sampled_from([0.5, 0.75]))
def test_the_upper_half_has_its_share(seed, density, upper):
    rng = np.random.default_rng(seed)
    r = np.concatenate([rng.uniform(0.01, 1, (100, 2)), -rng.uniform(0.01, 1, (80, 2))])
    keep = drawn(r, density, upper, rng)
    for column, kept in zip(r.T, keep.T, strict=True):
        for size, part in ((100, column > 0), (80, column < 0)):
            strong = part & (np.abs(column) >= np.sort(np.abs(column[part]))[size // 2])
            assert (kept & strong).sum() == min(round(upper * round(density * size)), size // 2)


def test_a_half_that_is_used_up_is_filled_from_the_other():
    r = np.linspace(0.1, 1, 10)[:, None]
    keep = drawn(r, 0.9, 1.0, np.random.default_rng(0))
    assert keep[5:].all() and keep.sum() == 9  # 5 of the upper half, though 9 were to come from it
    keep = drawn(r, 0.9, 0.0, np.random.default_rng(0))
    assert keep[:5].all() and keep.sum() == 9


def network() -> keras.Model:
    rng = np.random.default_rng(0)
    i = keras.Input((8, 8, 2))
    x = layers.Conv2D(6, 3, name="first")(i)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(5, 3, activation="relu", name="second")(x)
    x = layers.Dense(12, activation="relu", name="hidden")(layers.Flatten()(x))
    model = keras.Model(i, layers.Dense(3, activation="softmax", name="head")(x))
    for layer in ("first", "second", "hidden", "head"):
        kernel, bias = model.get_layer(layer).get_weights()
        model.get_layer(layer).set_weights([rng.normal(0, 0.3, kernel.shape), bias])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def data(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, 8, 8, 2)).astype("float32"), rng.integers(0, 3, count)


def densities(model: keras.Model) -> dict[str, float]:
    masked = [layer for layer in model.layers if isinstance(layer, MaskedLayer)]
    return {layer.name: float(layer.masked[0].kept.mean()) for layer in masked}


def test_from_the_last_layer_to_the_first_with_the_whole_network_trained_in_between():
    model, (x, y) = network(), data()
    seen, before = [], [np.array(weight) for weight in model.get_weights()]

    def retrain(masked):
        seen.append(densities(masked))
        masked.fit(x, y, epochs=1, verbose=0)

    masked = prune_connections(model, x, sparsity=0.6, retrain=retrain, exclude="head")
    assert [sorted(name for name, share in step.items() if share < 1) for step in seen] == [
        ["hidden"],
        ["hidden", "second"],
        ["first", "hidden", "second"],
    ]
    assert densities(masked) == seen[-1]  # training held them
    assert all(0.3 < share < 0.5 for share in seen[-1].values())
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    small = strip(masked)
    np.testing.assert_allclose(small.predict(x, verbose=0), masked.predict(x, verbose=0), rtol=1e-5)
    assert (small.get_layer("first").get_weights()[0] == 0).mean() >= 0.5


def test_correlations_are_those_of_the_adapted_network():
    model, (x, _) = network(), data()

    def spoil(masked):
        layer = masked.get_layer("first").layer
        layer.set_weights([-weight for weight in layer.get_weights()])

    chosen = {"sparsity": 0.5, "include": ["first", "second"]}
    plain = prune_connections(model, x, retrain=None, **chosen)
    spoiled = prune_connections(model, x, retrain=spoil, **chosen)
    masks = [[m.get_layer(name).masked[0].kept for name in ("second", "first")] for m in (plain, spoiled)]
    assert (masks[0][0] == masks[1][0]).all() and (masks[0][1] != masks[1][1]).any()


def test_shares_by_layer_and_the_same_draws_for_the_same_seed():
    model, (x, _) = network(), data()
    first, again, other = (
        prune_connections(model, x, sparsity={"hidden": 0.8, "s.*": 0.2}, retrain=None, seed=seed)
        for seed in (0, 0, 1)
    )
    assert list(densities(first)) == ["second", "hidden"] and densities(first)["second"] > 0.7
    masks = [m.get_layer("hidden").masked[0].kept for m in (first, again, other)]
    assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": {"hiden": 0.5}}, "Did you mean 'hidden'"),
        ({"sparsity": {}}, "empty"),
        ({"upper": 1.5}, "upper must be"),
        ({"images": 1}, "images must be"),
        ({"signs": "both"}, "Unknown signs"),
        ({"retrain": 3}, "retrain must be"),
        ({"include": "flatten.*"}, "Flatten is no Dense layer"),
        ({"exclude": ["first", "second", "hidden", "head"]}, "no Dense layer and no convolution"),
        ({"data": None}, "pass data"),
    ],
)
def test_bad_arguments(arguments, message):
    given = {"data": data()[0], "sparsity": 0.5, "retrain": None, **arguments}
    with pytest.raises(ValueError, match=message):
        prune_connections(network(), given.pop("data"), **given)
