"""The race of criteria: controls, seeds, and going on after an interruption."""

import json

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import Selection, compare, criteria
from tfcompress.pruning import Budget, Comparison

QUIET = {"verbose": False}


def network(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    i = keras.Input((8, 8, 2))
    x = layers.Conv2D(16, 3, activation="relu", name="conv")(i)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(i, layers.Dense(3, activation="softmax", name="head")(x))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
    return model


def data(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, 8, 8, 2)).astype("float32"), rng.integers(0, 3, count)


def train(model: keras.Model) -> None:
    model.fit(*data(), epochs=1, batch_size=16, verbose=0)


def largest(model: keras.Model) -> float:
    return float(max(np.abs(weight).max() for weight in model.get_weights()))


def test_every_method_has_a_run_per_seed_and_the_same_widths():
    trained: list[int] = []
    found = compare(
        network(),
        ["l1", "apoz"],
        data(),
        {"params": 0.51},
        lambda model: trained.append(model.get_layer("conv").filters),
        [0, 1],
        evaluate=largest,
        **QUIET,
    )
    methods = ["dense", "l1", "apoz", "random", "scratch"]
    assert [(run["method"], run["seed"]) for run in found.runs] == [(m, s) for s in (0, 1) for m in methods]
    assert trained == [8] * 8
    assert {run["params"] for run in found.runs} == {16 * 19 + 17 * 3, 8 * 19 + 9 * 3}
    cuts = {run["method"]: run["after_cut"] is not None for run in found.runs}
    assert cuts == {"dense": False, "l1": True, "apoz": True, "random": True, "scratch": False}


def test_random_draws_anew_for_each_seed_and_scratch_has_new_weights():
    first = network()
    seen: dict[str, list] = {"small": [], "fresh": []}
    compare(
        first,
        {"random": criteria.Random(), "l1": "l1"},
        None,
        {"params": 0.51},
        lambda model: seen["small"].append(model),
        [0, 1],
        evaluate=lambda model: 1.0,
        scratch=lambda model: seen["fresh"].append(model),
        **QUIET,
    )
    kernel = first.get_layer("conv").get_weights()[0]
    random = [model.get_layer("conv").get_weights()[0] for model in seen["small"][::2]]
    for each in random:
        assert all(np.any(np.all(each[..., [i]] == kernel, axis=(0, 1, 2))) for i in range(8))
    assert not np.array_equal(*random)
    l1 = [model.get_layer("conv").get_weights()[0] for model in seen["small"][1::2]]
    np.testing.assert_array_equal(*l1)
    fresh = [model.get_layer("conv").get_weights()[0] for model in seen["fresh"]]
    assert not np.array_equal(*fresh)
    assert not np.any(np.isin(fresh[0], kernel))
    assert all(model.compiled and int(model.optimizer.iterations) == 0 for model in seen["fresh"])


def test_a_function_gives_each_seed_its_own_network():
    found = compare(network, ["l1"], None, {"params": 0.51}, train, [3, 4], evaluate=largest, **QUIET)
    dense = [run["value"] for run in found.runs if run["method"] == "dense"]
    assert dense == [pytest.approx(largest(network(seed))) for seed in (3, 4)]


def test_runs_can_be_repeated():
    runs = [
        [
            (run["method"], run["value"])
            for run in compare(
                network(), ["taylor"], data(), {"params": 0.51}, train, [5], evaluate=largest, **QUIET
            ).runs
        ]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_a_file_takes_up_what_is_finished(tmp_path):
    path = tmp_path / "race.json"
    model, calls = network(), []

    def evaluate(small):
        calls.append(small)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return float(len(calls))

    arguments = (None, {"params": 0.51}, lambda m: None)
    with pytest.raises(KeyboardInterrupt):
        compare(model, ["l1", "l2"], *arguments, [0], evaluate=evaluate, path=path, **QUIET)
    assert [run["method"] for run in json.loads(path.read_text())["runs"]] == ["dense", "l1"]
    found = compare(model, ["l1", "l2"], *arguments, [0], evaluate=evaluate, path=path, **QUIET)
    values = {run["method"]: run["value"] for run in found.runs}
    assert values["dense"] == 1 and values["l1"] == 3 and values["l2"] > 4
    again = compare(model, ["l1"], *arguments, [0], evaluate=evaluate, path=path, **QUIET)
    assert [run["method"] for run in again.runs] == ["dense", "l1", "random", "scratch"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_another_comparison_or_network_is_refused(tmp_path):
    path = tmp_path / "race.json"

    def race(model, budget, seeds=(0,), names=("l1",)):
        return compare(
            model, names, None, budget, lambda m: None, seeds, evaluate=lambda m: 1.0, path=path, **QUIET
        )

    race(network(), {"params": 0.51})
    with pytest.raises(ValueError, match="other settings"):
        race(network(), {"params": 0.4})
    with pytest.raises(ValueError, match="another network"):
        race(network(1), {"params": 0.51}, names=("l1", "l2"))
    assert len(race(network(), {"params": 0.51}, names=("l1", "l2")).runs) == 5


def test_the_table_is_sorted_and_the_plot_has_a_line_for_dense(tmp_path):
    runs = [
        {
            "method": m,
            "seed": s,
            "value": v + s / 100,
            "after_cut": None,
            "params": 10,
            "macs": None,
            "seconds": 1,
        }
        for m, v in {"dense": 0.9, "l1": 0.5, "random": 0.7}.items()
        for s in (0, 1)
    ]
    found = Comparison(runs)
    assert [row["method"] for row in found.rows] == ["dense", "random", "l1"]
    assert found.rows[1]["value"] == pytest.approx(0.705)
    assert found.rows[1]["std"] == pytest.approx(0.01 / 2**0.5)
    lines = [line for line in str(found).splitlines() if "0." in line]
    assert "0.7050 ± 0.0071" in lines[1]
    figure = found.plot(tmp_path / "race.png")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["random", "l1"]
    assert (tmp_path / "race.png").stat().st_size > 1000


def test_budgets_with_an_input_size_and_selections_are_passed_on():
    i = keras.Input((None, None, 2))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3, name="conv")(i))
    model = keras.Model(i, layers.Dense(3)(x))
    budget = Budget({"macs": 0.5}, input_shape=(8, 8, 2))
    found = compare(
        model, ["l1"], None, budget, lambda m: None, [0], evaluate=lambda m: 1.0,
        selection=Selection(round_to=1, scope="global"), **QUIET,
    )  # fmt: skip
    assert [run["macs"] for run in found.runs] == [None] * 4
    assert {run["params"] for run in found.runs[1:]} == {8 * 19 + 9 * 3}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"criteria": ["l3"]}, "Unknown criterion"),
        ({"criteria": {"dense": "l1"}}, "name of a control"),
        ({"criteria": ["l1", "l1"]}, "same name"),
        ({"seeds": []}, "seeds must be"),
        ({"seeds": [0, 0]}, "seeds must be"),
        ({"seeds": 3}, "seeds must be"),
        ({"seeds": [0.5]}, "seeds must be"),
        ({"retrain": None}, "retrain must be a function"),
        ({"evaluate": "accuracy"}, "evaluate must be a function"),
        ({"evaluate": lambda m: "good"}, "evaluate must return a number"),
        ({"evaluate": lambda m: float("nan")}, "evaluate returned nan"),
        ({"scratch": 3}, "scratch must be a function"),
        ({"model": lambda seed: 3}, "a function from a seed to one"),
        ({"budget": {"flops": 0.5}}, "Unknown budget"),
        ({"budget": {"params": 1e-6}}, "The budget cannot be met"),
        ({"criteria": ["taylor"], "data": None}, "data"),
    ],
)
def test_bad_arguments(arguments, message):
    given = {
        "model": network(),
        "criteria": ["l1"],
        "data": data(),
        "budget": {"params": 0.51},
        "retrain": train,
        "seeds": [0],
        "evaluate": largest,
        **QUIET,
    }
    with pytest.raises(ValueError, match=message):
        compare(**{**given, **arguments})
