"""Energy-aware pruning: the hungriest layer first, and by what outputs lose."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress import analysis, prune_by_energy


def network(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    i = keras.Input((10, 10, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(i)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="wide")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(i, layers.Dense(4, activation="softmax", name="head")(x))
    model.compile(keras.optimizers.SGD(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def images(count: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 10, 10, 3)).astype("float32")


def masks(model: keras.Model) -> dict[str, np.ndarray]:
    return {layer.name: layer.masked[0].kept for layer in model.layers if hasattr(layer, "masked")}


def squared_error(one: keras.Model, other: keras.Model, data: np.ndarray) -> float:
    before = [keras.Model(m.inputs, m.get_layer("head").input).predict(data, verbose=0) for m in (one, other)]
    return float(((before[0] - before[1]) ** 2).sum())


def test_every_filter_keeps_its_share_and_layers_go_by_energy():
    model = network()
    masked = prune_by_energy(model, images(), sparsity=0.75, retrain=None, verbose=False)
    expected = {"first": round(27 / 4), "depthwise": round(9 / 4), "wide": 18, "head": 4}
    for name, kept in masks(masked).items():
        columns = kept.reshape(-1, kept.shape[-1])
        if name == "depthwise":
            columns = kept.reshape(-1, kept.shape[-2] * kept.shape[-1])
        assert (columns.sum(axis=0) == expected[name]).all(), name
    by_layer = analysis.energy(model, data=images()).by_layer
    assert [len(masked.rounds), list(masked.rounds[0].order)] == [2, list(by_layer)]
    assert masked.rounds[1].energy < masked.rounds[0].energy < sum(by_layer.values())
    assert masked.rounds[0].sparsity == pytest.approx(0.5, abs=0.02) and np.isnan(masked.rounds[0].value)
    total = analysis.energy(tfcompress.strip(masked), data=images()).total
    assert masked.rounds[1].energy == pytest.approx(total)


def test_outputs_lose_less_than_by_magnitude_and_than_without_restoring():
    model, data = network(), images(128)
    arguments = {"sparsity": 0.6, "retrain": None, "per_round": 1.0, "verbose": False}
    aware = tfcompress.strip(prune_by_energy(model, data, **arguments))
    unrestored = tfcompress.strip(prune_by_energy(model, data, share_restored=0.0, **arguments))
    magnitude = keras.models.clone_model(model)
    magnitude.set_weights(model.get_weights())
    for layer, mask in masks(prune_by_energy(model, data, share_restored=0.0, **arguments)).items():
        weights = magnitude.get_layer(layer).get_weights()
        magnitude.get_layer(layer).set_weights([weights[0] * mask, *weights[1:]])
    fresh = images(256, seed=9)
    errors = [squared_error(model, other, fresh) for other in (aware, unrestored, magnitude)]
    assert errors[0] < errors[1] < errors[2]


def test_without_restoring_the_largest_weights_stay():
    model = network()
    masked = prune_by_energy(
        model, images(), sparsity=0.5, retrain=None, per_round=1.0, share_restored=0.0, verbose=False
    )
    kernel = np.abs(model.get_layer("wide").get_weights()[0]).reshape(-1, 16)
    expected = kernel >= np.sort(kernel, axis=0)[-36]
    np.testing.assert_array_equal(masks(masked)["wide"].reshape(-1, 16), expected)


def test_rounds_end_before_accuracy_breaks():
    figures = iter([0.9, 0.9, 0.895, 0.5])
    trained: list[float] = []

    def retrain(model):
        trained.append(float(np.mean(masks(model)["wide"])))

    found = prune_by_energy(
        network(),
        images(),
        sparsity=0.95,
        retrain=retrain,
        evaluate=lambda model: next(figures),
        verbose=False,
    )
    assert [each.value for each in found.rounds] == [0.9, 0.895, 0.5]
    assert trained == pytest.approx([0.5, 0.25, 0.125])
    assert masks(found)["wide"].mean() == pytest.approx(0.25)


def test_a_first_round_that_breaks_leaves_all_weights_and_says_so():
    figures, model = iter([0.9, 0.1]), network()
    with pytest.warns(UserWarning, match="nothing is pruned"):
        found = prune_by_energy(
            model, images(), sparsity=0.5, retrain=None, evaluate=lambda m: next(figures), verbose=False
        )
    assert all(mask.all() for mask in masks(found).values())
    np.testing.assert_array_equal(found.predict(images(), verbose=0), model.predict(images(), verbose=0))


def test_masks_hold_while_the_network_trains_and_the_given_one_stays_as_it_is():
    model, data, labels = network(), images(), np.arange(64) % 4
    before = [w.copy() for w in model.get_weights()]
    found = prune_by_energy(
        model, data, sparsity=0.5, retrain=lambda m: m.fit(data, labels, epochs=1, verbose=0), verbose=False
    )
    found.fit(data, labels, epochs=1, verbose=0)
    stripped = tfcompress.strip(found)
    for name, mask in masks(found).items():
        kernel = stripped.get_layer(name).get_weights()[0]
        assert not kernel[~mask].any() and kernel[mask].all()
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_what_is_named_is_pruned():
    found = prune_by_energy(network(), images(), sparsity={"wide": 0.5}, retrain=None, verbose=False)
    assert set(masks(found)) == {"wide"}
    found = prune_by_energy(
        network(), images(), sparsity={"wide": 0.5, ".*": 0.2}, retrain=None, exclude=["head"], verbose=False
    )
    shares = {name: 1 - mask.mean() for name, mask in masks(found).items()}
    assert set(shares) == {"first", "depthwise", "wide"}
    assert shares["wide"] == pytest.approx(0.5) and shares["first"] == pytest.approx(0.2, abs=0.02)


def test_the_target_may_be_what_unpruned_weights_say_to_what_is_seen_now():
    """The head comes after the layer before it, and makes up for what that one lost."""
    model, data = network(), images(256)
    arguments = {"sparsity": {"wide": 0.8, "head": 0.25}, "retrain": None, "verbose": False, "per_round": 1.0}
    found = {t: prune_by_energy(model, data, target=t, **arguments) for t in ("original", "current")}
    assert found["original"].rounds[0].order == ("wide", "head")
    expected = model.predict(data, verbose=0)
    errors = {t: np.abs(each.predict(data, verbose=0) - expected).mean() for t, each in found.items()}
    assert errors["original"] < errors["current"]


def test_lines_tell_how_far_it_is(capsys):
    prune_by_energy(network(), images(), sparsity=0.5, retrain=None, evaluate=lambda m: 0.5)
    assert "round 1: 50.0% of the weights are zero" in capsys.readouterr().out.replace("49.9", "50.0")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"data": None}, "pass data"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"retrain": 3}, "retrain must be a function"),
        ({"evaluate": 3}, "evaluate must be a function"),
        ({"evaluate": lambda m: None}, "evaluate must return a number"),
        ({"tolerance": -0.1}, "tolerance must be"),
        ({"per_round": 0.0}, "per_round must be"),
        ({"share_restored": 1.5}, "share_restored must be"),
        ({"steps": 0}, "steps must be"),
        ({"target": "now"}, "Unknown target"),
        ({"positions": 0}, "positions must be"),
        ({"ridge": -1.0}, "ridge must be"),
        ({"include": ["norm"]}, "cannot be pruned: BatchNormalization"),
        ({"include": ["heads"]}, "Did you mean 'head'"),
    ],
)
def test_bad_arguments(arguments, message):
    given = {"data": images(4), "sparsity": 0.5, "retrain": None, "verbose": False, **arguments}
    with pytest.raises(ValueError, match=message):
        prune_by_energy(network(), given.pop("data"), **given)
