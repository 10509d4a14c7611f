"""Budgets of energy and of latency: what is predicted by a table, and measured in the result."""

import json

import keras
import numpy as np
import pytest
from backends import NEEDS_TENSORFLOW
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import tfcompress
from tfcompress import Selection, analysis, prune, prune_iteratively, prune_layerwise, sparsity_for
from tfcompress.analysis import LatencyTable, latency_table
from tfcompress.analysis.latency import Latency, LatencyRatio
from tfcompress.pruning import Budget, limits

EXACT = Selection(round_to=1)


def network(size: int | None = 12) -> keras.Model:
    keras.utils.set_random_seed(0)
    i = keras.Input((size, size, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(i)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(32, 3, strides=2, padding="same", groups=2, activation="relu", name="second")(x)
    x = layers.Conv2DTranspose(16, 2, strides=2, activation="relu", name="up")(x)
    x = layers.SeparableConv2D(16, 3, activation="relu", name="separable")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(24, activation="relu", name="hidden")(x)
    return keras.Model(i, layers.Dense(4, name="head")(x), name="net")


def widths(model: keras.Model) -> dict[str, int]:
    found = {
        "first": "filters",
        "second": "filters",
        "up": "filters",
        "separable": "filters",
        "hidden": "units",
    }
    return {name: getattr(model.get_layer(name), key) for name, key in found.items()}


# ------------------------------------------------------------------ energy


@settings(max_examples=5)
@given(st.integers(0, 1000), st.floats(0.1, 0.8))
def test_energy_by_shapes_is_that_of_the_smaller_model(seed, sparsity):
    model = network()
    small = prune(model, "random", sparsity=sparsity, selection=EXACT)
    shapes = {key: tuple(shape) for key, shape in limits.shapes_of(small).items()}
    predicted = analysis.energy_by_shapes(model)(shapes)
    assert predicted == pytest.approx(analysis.energy(small).total, rel=1e-9)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_a_model_meets_its_budget_of_energy(share):
    model = network()
    whole = analysis.energy(model).total
    small = prune(model, "l1", budget={"energy": share}, selection=EXACT)
    assert 0.85 * share * whole < analysis.energy(small).total <= share * whole
    absolute = prune(model, "l1", budget={"energy": share * whole}, selection=EXACT)
    assert widths(absolute) == widths(small)


def test_energy_is_that_of_the_hardware_given():
    model = network()
    cheap = Budget({"energy": 0.5}, hardware={"dram": 0.001})
    small = prune(model, "l1", budget=cheap, selection=EXACT)
    whole, rest = (analysis.energy(each, hardware={"dram": 0.001}).total for each in (model, small))
    assert rest <= 0.5 * whole
    assert widths(small) != widths(prune(model, "l1", budget={"energy": 0.5}, selection=EXACT))


def test_zeros_of_the_smaller_model_count():
    """Half the filters are zero, and go first: what is left has no zeros, and so more energy per weight."""
    model = network()
    kernel, bias = model.get_layer("first").get_weights()
    kernel[..., ::2] = 0.0
    model.get_layer("first").set_weights([kernel, bias])
    whole = analysis.energy(model).total
    small = prune(model, "l1", budget={"energy": 0.6}, selection=EXACT)
    assert analysis.energy(small).total <= 0.6 * whole


@pytest.mark.parametrize("verb", [prune_layerwise, prune_iteratively])
def test_other_verbs_meet_budgets_of_energy(verb):
    model = network()
    small = verb(model, "l1", budget={"energy": 0.5}, retrain=None, selection=EXACT, verbose=False)
    assert analysis.energy(small).total <= 0.5 * analysis.energy(model).total


def test_an_energy_out_of_reach_is_an_error_that_says_the_least():
    with pytest.raises(ValueError, match=r"the least is energy [\d,]+ > "):
        prune(network(), "l1", budget={"energy": 0.001})


# ------------------------------------------------------------------ latency, with made-up times


def times(layer: dict, shape: tuple[int, ...]) -> float:
    """Milliseconds of a layer: as its multiplications, and half as much again where its width is odd."""
    config = layer["config"]
    width = config.get("filters", config.get("units", shape[-1]))
    return shape[-1] * width * (1.5 if width % 2 else 1.0) / 1000


def fake(patch: pytest.MonkeyPatch, milliseconds) -> None:
    """Whole models take what `milliseconds` says of them."""

    def latency(model, **settings):
        return Latency.of([milliseconds(model)], batch=1, threads=1, runtime="none")

    def latency_ratio(first, second, **settings):
        return LatencyRatio.of(
            [milliseconds(first)], [milliseconds(second)], batch=1, threads=1, runtime="none"
        )

    patch.setattr(limits, "latency", latency)
    patch.setattr(limits, "latency_ratio", latency_ratio)
    patch.setattr(limits.conversion, "check_backend", lambda: None)


def by_layers(model: keras.Model) -> float:
    size = None if model.inputs[0].shape[1] else (12, 12, 3)
    return LatencyTable(measure=times).predictor(model, size)(limits.shapes_of(model))


def with_the_rest(model: keras.Model) -> float:
    """A half more than what its layers take."""
    return 1.5 * by_layers(model)


@pytest.fixture
def made_up(monkeypatch):
    fake(monkeypatch, with_the_rest)


def budget(**wanted: float) -> Budget:
    return Budget(wanted, table=LatencyTable(measure=times))


@pytest.mark.parametrize("share", [0.7, 0.4, 0.2])
@pytest.mark.parametrize("scope", ["group", "global"])
def test_a_model_meets_its_budget_of_latency_when_measured(made_up, share, scope):
    model = network()
    small = prune(model, "l1", budget=budget(latency=share), selection=Selection(round_to=1, scope=scope))
    assert 0.75 * share < with_the_rest(small) / with_the_rest(model) <= share


def test_milliseconds_are_absolute_even_below_one(made_up):
    model = network()
    small = prune(model, "l1", budget=budget(latency_ms=0.9), selection=EXACT)
    assert 0.6 < with_the_rest(small) <= 0.9


@settings(max_examples=5)
@given(st.floats(0.2, 0.9))
def test_widths_that_run_slower_than_wider_ones_are_never_chosen(share):
    with pytest.MonkeyPatch.context() as patch:
        fake(patch, by_layers)
        model = network()
        graph = tfcompress.trace(model)
        small = prune(model, "l1", budget=budget(latency=share), selection=EXACT)
        predict = LatencyTable(measure=times).predictor(model)
        keep = {removal.group: removal for removal in small.removed}
        for name, removal in keep.items():
            wider = removal.after // 4 * 4 + 4
            if wider > removal.before:
                continue
            masks = {n: np.arange(r.before) < (wider if n == name else r.after) for n, r in keep.items()}
            masks = EXACT.masks({n: mask.astype(float) for n, mask in masks.items()},
                                {n: 1 - m.mean() for n, m in masks.items()}, graph.balances)  # fmt: skip
            if masks[name].sum() == wider and all(
                masks[n].sum() == r.after for n, r in keep.items() if n != name
            ):
                assert predict(graph.shapes_after(masks)) > by_layers(small)


def test_layers_that_are_alike_are_measured_once_and_only_where_asked():
    seen: list = []

    def measure(layer, shape):
        seen.append((layer["config"].get("filters"), shape))
        return 1.0

    i = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", kernel_initializer="zeros", name="one")(i)
    x = layers.Conv2D(4, 3, padding="same", kernel_regularizer="l2", name="two")(x)
    model = keras.Model(i, layers.Conv2D(4, 3, padding="same", activation="relu", name="three")(x))
    predict = LatencyTable(measure=measure).predictor(model)
    assert predict(limits.shapes_of(model)) == 3.0
    assert seen == [(4, (8, 8, 4))] * 2  # the third has an activation function
    assert predict(limits.shapes_of(model)) == 3.0 and len(seen) == 2


def test_a_table_is_kept_in_a_file(tmp_path):
    path = tmp_path / "table.json"
    with LatencyTable(path=path, measure=times) as table:
        value = table.predictor(network())(limits.shapes_of(network()))
    assert list(json.loads(path.read_text())) == ["given"]
    again = LatencyTable(path=path, measure=lambda layer, shape: pytest.fail("it is in the file"))
    assert again.predictor(network())(limits.shapes_of(network())) == value
    assert list(tmp_path.iterdir()) == [path]


def test_a_measurement_above_the_limit_makes_the_model_smaller(monkeypatch):
    """The rest of the network takes more and more of the time as its layers shrink."""

    def milliseconds(model: keras.Model) -> float:
        return by_layers(model) + 1.0

    fake(monkeypatch, milliseconds)
    model = network()
    small = prune(model, "l1", budget=budget(latency=0.5), selection=EXACT)
    assert 0.35 < milliseconds(small) / milliseconds(model) <= 0.5
    with pytest.raises(ValueError, match=r"the least is latency_ms 1\.\d+ > 1"):
        prune(model, "l1", budget=budget(latency_ms=1.0), selection=EXACT)


def test_several_limits_hold_together(made_up):
    model = network()
    small = prune(model, "l1", budget=budget(latency=0.8, params=0.3, energy=0.9), selection=EXACT)
    assert small.count_params() <= 0.31 * model.count_params()
    assert with_the_rest(small) <= 0.8 * with_the_rest(model)


def test_other_verbs_meet_budgets_of_latency(made_up):
    model = network()
    for small in (
        prune_layerwise(model, "l1", budget=budget(latency=0.5), retrain=None, verbose=False),
        prune_iteratively(model, "l1", budget=budget(latency=0.5), retrain=None, verbose=False),
        prune(model, "l1", sparsity=sparsity_for(model, budget(latency=0.5))),
    ):
        assert with_the_rest(small) <= 0.5 * with_the_rest(model)


def test_a_model_of_open_size_is_measured_at_the_size_given(made_up):
    model = network(None)
    open_size = Budget({"latency": 0.5}, (12, 12, 3), table=LatencyTable(measure=times))
    small = prune(model, "l1", budget=open_size, selection=EXACT)
    assert widths(small)["first"] < 16
    with pytest.raises(ValueError, match="leaves its input size open"):
        prune(model, "l1", budget=budget(latency=0.5))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Budget({"latency": 1.5}), "for milliseconds say latency_ms"),
        (lambda: Budget({"latency_ms": 0}), "must be a number above 0"),
        (lambda: Budget({"latencyms": 3}), "Did you mean 'latency_ms'"),
        (lambda: LatencyTable(0), "threads must be"),
        (lambda: LatencyTable(1.5), "threads must be"),
    ],
)
def test_bad_budgets(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ------------------------------------------------------------------ latency, measured


@NEEDS_TENSORFLOW
def test_layers_are_measured_in_litert(tmp_path):
    with LatencyTable(path=tmp_path / "table.json") as table:
        value = table.predictor(network())(limits.shapes_of(network()))
        assert value > 0 and all(entry > 0 for entry in table.entries.values())
        assert not table.unmeasured
        odd = {"module": "keras.layers", "class_name": "Conv2D", "config": {"filters": 4, "kernel_size": 9}}
        assert table.ms(odd, (4, 4, 3)) == 0.0 and "Conv2D" in table.unmeasured
    (machine,) = json.loads((tmp_path / "table.json").read_text())
    assert "LiteRT" in machine and "1 threads" in machine


@NEEDS_TENSORFLOW
def test_a_layer_that_ends_the_process_has_no_time_and_the_next_one_has(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text(
        "import os\n"
        "def version(): return 'none'\n"
        "def median_ms(layer, **rest): return 2.0 if layer['config']['filters'] < 9 else os._exit(1)\n"
    )
    monkeypatch.setattr(latency_table, "CHILD", child)
    with LatencyTable() as table:
        layer = {"class_name": "Conv2D", "config": {"filters": 9}}
        assert table.ms(layer, (4, 4, 3)) == 0.0 and "exit code 1" in table.unmeasured["Conv2D"]
        assert table.ms({**layer, "config": {"filters": 8}}, (4, 4, 3)) == 2.0


@NEEDS_TENSORFLOW
def test_a_small_network_is_pruned_by_what_it_really_takes():
    i = keras.Input((64, 64, 8))
    x = layers.Conv2D(32, 3, activation="relu", name="first")(i)
    x = layers.Conv2D(32, 3, activation="relu", name="second")(x)
    model = keras.Model(i, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    small = prune(model, "l1", budget={"latency": 0.5})
    assert small.get_layer("first").filters < 32 and small.get_layer("first").filters % 4 == 0
    assert analysis.macs(small) < 0.75 * analysis.macs(model)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="it works on TensorFlow")
def test_latency_needs_tensorflow():
    with pytest.raises(ValueError, match="needs Keras on TensorFlow"):
        prune(network(), "l1", budget={"latency": 0.5})
