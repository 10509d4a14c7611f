"""How a sparsity is shared out among layers."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import tfcompress
from tfcompress import Selection, analysis, prune
from tfcompress.layers import MagnitudePruning
from tfcompress.pruning import allocation

EXACT = Selection(round_to=1, floor=0.0)


def network(seed: int = 0) -> keras.Model:
    i = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, activation="relu", name="first")(i)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    inside = j = keras.Input((8, 8, 16))
    inside = layers.Conv2D(32, 3, activation="relu", name="inner")(inside)
    x = keras.Model(j, inside, name="body")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(64, activation="relu", name="wide")(x)
    model = keras.Model(i, layers.Dense(4, name="head")(x))
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, rng.uniform(0.1, 2), w.shape) for w in model.get_weights()])
    return model


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    body = {"body/inner": model.get_layer("body").get_layer("inner")}
    own = {name: model.get_layer(name) for name in ("first", "depthwise", "wide", "head")}
    return {path: layer.get_weights()[0] for path, layer in {**own, **body}.items()}


def removed(shares: dict[str, float], model: keras.Model) -> float:
    sizes = {path: kernel.size for path, kernel in kernels(model).items() if path in shares}
    return sum(shares[path] * size for path, size in sizes.items()) / sum(sizes.values())


@given(st.floats(0.0, 0.99))
def test_erk_removes_the_share_asked_for(sparsity):
    model = MODEL
    shares = allocation.erk(model, sparsity)
    assert set(shares) == set(kernels(model)) and all(0 <= share < 1 for share in shares.values())
    assert removed(shares, model) == pytest.approx(sparsity, abs=1e-9)


@given(st.floats(0.5, 0.99))
def test_densities_by_erk_go_by_the_formula_where_layers_are_not_dense(sparsity):
    shares = allocation.erk(MODEL, sparsity)
    raw = {path: sum(k.shape) / k.size for path, k in kernels(MODEL).items()}
    factors = [(1 - share) / raw[path] for path, share in shares.items() if share > 0]
    np.testing.assert_allclose(factors, factors[0], rtol=1e-6)
    dense = [raw[path] for path, share in shares.items() if share <= 0]
    assert all(each * factors[0] >= 1 - 1e-9 for each in dense)


@given(st.integers(0, 50), st.floats(0.05, 0.95))
def test_lamp_equals_one_ranking_by_brute_force(seed, sparsity):
    small = {"a": (5, 4), "b": (3, 3, 2, 2), "c": (6,)}
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(0, rng.uniform(0.1, 3), shape) for name, shape in small.items()}
    scores = {
        name: np.array([w**2 / (values[np.abs(values) >= abs(w)] ** 2).sum() for w in values.ravel()])
        for name, values in arrays.items()
    }
    for name, values in arrays.items():
        np.testing.assert_allclose(allocation._lamp(values), np.sort(scores[name])[::-1], rtol=1e-9)


@settings(max_examples=5)
@given(st.integers(0, 50), st.floats(0.1, 0.95))
def test_magnitude_pruning_with_shares_by_lamp_removes_the_lowest_scores(seed, sparsity):
    model = network(seed)
    shares = allocation.lamp(model, sparsity)
    own = kernels(model)
    scores = {path: scored(kernel) for path, kernel in own.items()}
    ranked = np.sort(np.concatenate([score.ravel() for score in scores.values()]))
    count = len(ranked) - round((1 - sparsity) * len(ranked))
    limit = ranked[count] if count < len(ranked) else np.inf
    for path, score in scores.items():
        kept = round((1 - shares[path]) * score.size)
        assert kept == (score >= limit).sum(), path
    assert removed(shares, model) == pytest.approx(count / len(ranked), abs=1e-9)


def scored(kernel: np.ndarray) -> np.ndarray:
    order = np.argsort(-np.abs(kernel.ravel()), kind="stable")
    squares = kernel.ravel().astype("float64")[order] ** 2
    scores = np.empty(kernel.size)
    scores[order] = squares / np.cumsum(squares)
    return scores.reshape(kernel.shape)


def test_shares_by_lamp_do_not_change_when_a_layer_is_scaled():
    model = network()
    before = allocation.lamp(model, 0.7)
    weights = model.get_layer("wide").get_weights()
    model.get_layer("wide").set_weights([100 * weights[0], weights[1]])
    assert allocation.lamp(model, 0.7) == pytest.approx(before, abs=1e-3)


def test_only_the_layers_chosen_count():
    model = network()
    for allocate in (allocation.erk, allocation.lamp):
        shares = allocate(model, 0.5, exclude=["head", "first"])
        assert set(shares) == {"depthwise", "body/inner", "wide"}
        assert removed(shares, model) == pytest.approx(0.5, abs=1e-3)


def test_wrap_takes_a_rule_for_each_layer():
    model = network()
    rules = {"wide": MagnitudePruning(0.5), "body/.*": MagnitudePruning(0.9)}
    masked = tfcompress.wrap(model, rules)
    assert masked.get_layer("wide").rule == rules["wide"]
    assert masked.get_layer("body").get_layer("inner").rule == rules["body/.*"]
    assert masked.left_alone["head"] == "not chosen"
    with pytest.raises(ValueError, match="Did you mean 'wide'"):
        tfcompress.wrap(model, {"wider": MagnitudePruning(0.5)})
    with pytest.raises(ValueError, match="Expected a rule"):
        tfcompress.wrap(model, {"wide": 0.5})
    with pytest.raises(ValueError, match="is left to mask"):
        tfcompress.wrap(model, {})


# ------------------------------------------------------------------ sensitivity


CURVES = {
    "first": {0.0: 0.9, 0.25: 0.8, 0.5: 0.5, 0.75: 0.2},
    "body/inner": {0.0: 0.9, 0.25: 0.9, 0.5: 0.89, 0.75: 0.7},
    "wide": {0.0: 0.9, 0.25: 0.85, 0.5: 0.88, 0.75: 0.6},
}


def fall(name: str, share: float) -> float:
    """How far the figure has fallen, by hand."""
    shares = sorted(CURVES[name])
    return float(np.interp(share, shares, np.maximum.accumulate([0.9 - CURVES[name][s] for s in shares])))


@given(st.floats(0.01, 0.7))
def test_all_layers_fall_alike(sparsity):
    shares = allocation.by_sensitivity(MODEL, CURVES, sparsity=sparsity)
    sizes = {"first": 16, "body/inner": 32, "wide": 64}
    total = sum(shares[name] * size for name, size in sizes.items()) / 112
    assert total >= sparsity - 1e-6
    falls = {name: fall(name, share) for name, share in shares.items()}
    tolerance = max(falls.values())
    for name, share in shares.items():
        assert share == 0.75 or fall(name, min(share + 1e-3, 0.75)) >= tolerance - 1e-6


@settings(max_examples=5)
@given(st.floats(0.25, 0.9), st.sampled_from(["params", "macs", "energy"]))
def test_the_budget_holds_for_the_pruned_model(share, cost):
    budget = {cost: share}
    shares = allocation.by_sensitivity(MODEL, CURVES, budget=budget, selection=EXACT)
    small = prune(MODEL, "l1", sparsity=shares, selection=EXACT)
    costs = {
        "params": lambda model: model.count_params(),
        "macs": analysis.macs,
        "energy": lambda model: analysis.energy(model).total,
    }
    assert costs[cost](small) <= share * costs[cost](MODEL) * (1 + 1e-9)


def test_curves_of_sensitivity_are_what_it_takes():
    curves = analysis.sensitivity(
        MODEL, "l1", lambda m: -float(np.square(m.get_weights()[0]).sum()), sparsities=[0.5]
    )
    shares = allocation.by_sensitivity(MODEL, curves, budget={"params": 0.7})
    assert set(shares) == set(curves)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: allocation.erk(MODEL, 1.0), "sparsity"),
        (lambda: allocation.erk(MODEL, {"wide": 0.5}), "number in"),
        (lambda: allocation.lamp(MODEL, 0.5, include=["width"]), "Did you mean 'wide'"),
        (
            lambda: allocation.erk(keras.Model(i := keras.Input((3,)), layers.ReLU()(i)), 0.5),
            "no layer with a kernel",
        ),
        (lambda: allocation.by_sensitivity(MODEL, CURVES), "either sparsity or budget"),
        (lambda: allocation.by_sensitivity(MODEL, {}, sparsity=0.5), "what analysis.sensitivity returned"),
        (lambda: allocation.by_sensitivity(MODEL, {"other": {0.0: 1.0}}, sparsity=0.5), "of another model"),
        (lambda: allocation.by_sensitivity(MODEL, {"wide": {0.5: 1.0}}, sparsity=0.5), "0 among them"),
        (lambda: allocation.by_sensitivity(MODEL, CURVES, sparsity=0.9), "measure larger shares"),
        (lambda: allocation.by_sensitivity(MODEL, CURVES, budget={"params": 0.01}), "the least is params"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nan_weights_have_no_scores():
    model = network()
    model.get_layer("wide").set_weights([np.full((32, 64), np.nan), np.zeros(64)])
    with pytest.raises(ValueError, match="NaN"):
        allocation.lamp(model, 0.5)


MODEL = network()
