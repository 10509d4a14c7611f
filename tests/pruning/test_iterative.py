"""A little pruning and a little training, again and again."""

import json

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import Selection, analysis, criteria, prune_iteratively

EXACT = Selection(round_to=1, scale="none")


def network(seed: int = 0) -> keras.Model:
    i = keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, name="first")(i)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(16, 3, activation="relu", name="second")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(i, layers.Dense(3, activation="softmax", name="head")(x), name="net")
    rng = np.random.default_rng(seed)
    for name in ("first", "second", "head"):
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([rng.normal(0, 0.4, kernel.shape), bias])
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
    return model


def data(count: int = 48) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, 8, 8, 2)).astype("float32"), rng.integers(0, 3, count)


def train(model: keras.Model) -> None:
    model.fit(*data(), epochs=1, batch_size=16, shuffle=False, verbose=0)


def widths(model: keras.Model) -> tuple[int, int]:
    return model.get_layer("first").filters, model.get_layer("second").filters


def test_few_channels_go_in_each_round_and_training_lies_in_between():
    seen: list[int] = []

    def retrain(model):
        seen.append(sum(widths(model)))
        train(model)

    small = prune_iteratively(
        network(),
        "taylor",
        retrain=retrain,
        sparsity=0.5,
        per_round=5,
        data=data(),
        selection=EXACT,
        verbose=False,
    )
    assert seen == [19, 14, 12] and sum(widths(small)) == 12
    lost = {removal.group: len(removal.layers[removal.group]) for removal in small.removed}
    assert sum(lost.values()) == 12
    for removal in small.removed:
        assert removal.before - removal.after == lost[removal.group]
        assert small.get_layer(removal.group).filters == removal.after


def test_without_training_and_with_fixed_scores_rounds_equal_one_ranking():
    model = network()
    scores = np.random.default_rng(5).random(24)
    scores = {"first": scores[:8], "second": scores[8:]}
    left: dict = {}

    def fixed(model, layers, data):
        return {path: scores[path][left.get(path, np.arange(len(scores[path])))] for path in layers}

    def note(smaller):
        for path in scores:  # what is left of each layer, by its biases
            biases = smaller.get_layer(path).get_weights()[1]
            left[path] = np.round(biases).astype(int)

    for path in scores:
        kernel, bias = model.get_layer(path).get_weights()
        model.get_layer(path).set_weights([kernel, np.arange(len(bias))])
    prune_iteratively(model, fixed, retrain=note, sparsity=0.5, per_round=3, selection=EXACT, verbose=False)
    threshold = np.sort(np.concatenate(list(scores.values())))[12]
    for path, values in scores.items():
        np.testing.assert_array_equal(left[path], np.flatnonzero(values >= threshold))


def test_momentum_mixes_the_scores_of_rounds():
    asked = iter([np.array([3.0, 1.0, 2.0, 4.0]), np.array([3.0, 1.0, 2.0, 4.0]), np.array([1.0, 3.0, 9.0])])
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(1)(layers.Dense(4, name="units")(i)))
    model.get_layer("units").set_weights([np.ones((4, 4)), np.arange(4.0)])
    small = prune_iteratively(
        model,
        lambda model, layers, data: {"units": next(asked)},
        retrain=None,
        sparsity=0.5,
        per_round=1,
        momentum=0.9,
        selection=EXACT,
        verbose=False,
    )
    # Left after the first round: 0, 2, 3. Mixed: 0.9 * (3, 2, 4) + 0.1 * (1, 3, 9), so 2 goes.
    assert small.get_layer("units").get_weights()[1].tolist() == [0.0, 3.0]


def test_a_budget_is_met_and_widths_stay_multiples_of_the_step():
    model = network()
    small = prune_iteratively(
        model,
        "l1",
        retrain=None,
        budget={"macs": 0.5},
        per_round=0.1,
        selection=Selection(round_to=2),
        verbose=False,
    )
    assert analysis.macs(small) <= 0.5 * analysis.macs(model)
    assert widths(small)[1] % 2 == 0 and widths(model) == (8, 16)


@pytest.mark.parametrize("stop", [1, 2])
def test_an_interrupted_call_goes_on_to_the_same_weights(tmp_path, stop):
    keywords = {
        "sparsity": 0.5,
        "per_round": 4,
        "momentum": 0.5,
        "data": data(),
        "selection": EXACT,
        "verbose": False,
    }
    whole = prune_iteratively(network(), criteria.Taylor2019(), retrain=train, **keywords)
    rounds = 0

    def interrupted(model):
        nonlocal rounds
        rounds += 1
        if rounds > stop:
            raise KeyboardInterrupt
        train(model)

    with pytest.raises(KeyboardInterrupt):
        prune_iteratively(network(), criteria.Taylor2019(), retrain=interrupted, folder=tmp_path, **keywords)
    assert [file.name for file in sorted(tmp_path.iterdir())] == [f"round-{stop}.keras", "state.json"]
    resumed = prune_iteratively(network(), criteria.Taylor2019(), retrain=train, folder=tmp_path, **keywords)
    assert widths(resumed) == widths(whole)
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert str(resumed.removed) == str(whole.removed)


def test_a_folder_of_another_call_is_refused(tmp_path):
    keywords = {"retrain": None, "selection": EXACT, "folder": tmp_path, "verbose": False}
    prune_iteratively(network(), "l1", sparsity=0.2, **keywords)
    before = (tmp_path / "state.json").read_text()
    with pytest.raises(ValueError, match="another call"):
        prune_iteratively(network(), "l2", sparsity=0.2, **keywords)
    assert (tmp_path / "state.json").read_text() == before
    assert json.loads(before)["settings"]["criterion"] == "l1"


def test_the_model_given_is_not_changed_even_if_nothing_is_to_be_removed():
    model = network()
    same = prune_iteratively(model, "l1", retrain=train, sparsity=0.0, verbose=False)
    assert same is not model and widths(same) == widths(model) and not list(same.removed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": {"first": 0.5}}, "one sparsity"),
        ({"per_round": 0}, "per_round, of channels or a share below 1, must be"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"retrain": "fit"}, "retrain must be"),
        ({"criterion": "taylor", "data": None}, "pass data"),
        ({"sparsity": None, "budget": {"params": 0.001}}, "least is params"),
        ({"sparsity": 0.95}, "at the floor of 10%"),
        ({"sparsity": None}, "either sparsity or budget"),
    ],
)
def test_bad_arguments(arguments, message):
    given = {"criterion": "l1", "retrain": None, "sparsity": 0.5, "verbose": False, **arguments}
    with pytest.raises(ValueError, match=message):
        prune_iteratively(network(), given.pop("criterion"), **given)
