"""Shares of layers: the numbers of the formulas, totals to the weight, budgets on the shrunk model."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from surgery import randomize

import tfcompress
from tfcompress import Selection, allocation, analysis, callbacks
from tfcompress._arrays import to_numpy
from tfcompress._ranking import largest
from tfcompress.layers import MagnitudePruning

EXACT = Selection(round_to=1, floor=0.0)
SPARSITIES = st.floats(0.0, 0.98)


@functools.cache
def network(widths=(8, 12), hidden: int = 20) -> keras.Model:
    x = i = keras.Input((8, 8, 3))
    for number, width in enumerate(widths):
        x = layers.Conv2D(width, 3, activation="relu", padding="same", name=f"conv{number}")(x)
    x = layers.Dense(hidden, activation="relu", name="hidden")(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(i, layers.Dense(5, name="head")(x)))


def chain(kernels: list[np.ndarray]) -> keras.Model:
    """Dense layers side by side, one for each kernel."""
    inputs = [keras.Input((len(kernel),)) for kernel in kernels]
    dense = [layers.Dense(kernel.shape[1], use_bias=False, name=f"d{n}") for n, kernel in enumerate(kernels)]
    model = keras.Model(inputs, [layer(x) for layer, x in zip(dense, inputs, strict=True)])
    for layer, kernel in zip(dense, kernels, strict=True):
        layer.kernel.assign(kernel)
    return model


def recurrent() -> keras.Model:
    i = keras.Input((5, 4))
    x = layers.TimeDistributed(layers.Dense(6), name="steps")(i)
    return randomize(keras.Model(i, layers.Dense(3, name="head")(layers.LSTM(4, name="lstm")(x))))


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {layer.name: to_numpy(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")}


def masks(model: keras.Model, shares: dict[str, float]) -> dict[str, np.ndarray]:
    """Those that magnitude pruning makes of the shares, through `wrap` and the callback."""
    rules = {path: MagnitudePruning(share) for path, share in shares.items()}
    sparse = tfcompress.wrap(model, rules)
    sparse.compile("sgd", "mse")
    x, y = np.ones((1, *model.input_shape[1:])), np.ones((1, *model.output_shape[1:]))
    sparse.fit(x, y, verbose=0, callbacks=[callbacks.UpdateMasks()])
    return {path: sparse.get_layer(path).masked[0].kept for path in rules}


# --- single weights -------------------------------------------------------------------------------------

SIZES = {"conv0": 3 * 3 * 3 * 8, "conv1": 3 * 3 * 8 * 12, "hidden": 12 * 20, "head": 20 * 5}
SUMS = {"conv0": 3 + 3 + 3 + 8, "conv1": 3 + 3 + 8 + 12, "hidden": 12 + 20, "head": 20 + 5}
TOTAL = sum(SIZES.values())


@given(SPARSITIES, st.sampled_from(["erk", "lamp"]))
def test_totals_are_exact_to_the_weight(sparsity, name):
    shares = getattr(allocation, name)(network(), sparsity)
    assert list(shares) == list(SIZES) and all(0 <= share < 1 for share in shares.values())
    kept = {path: SIZES[path] - round(share * SIZES[path]) for path, share in shares.items()}
    assert sum(kept.values()) == TOTAL - round(sparsity * TOTAL)
    np.testing.assert_allclose([(1 - shares[path]) * SIZES[path] for path in kept], list(kept.values()))


@given(SPARSITIES)
def test_erk_keeps_weights_in_proportion_to_the_sums_except_in_dense_layers(sparsity):
    shares = allocation.erk(network(), sparsity)
    kept = {path: (1 - share) * SIZES[path] for path, share in shares.items()}
    factors = {path: kept[path] / SUMS[path] for path in kept if shares[path] > 0}
    for path, factor in factors.items():  # one factor for all, but for whole numbers
        assert abs(factor - max(factors.values())) <= 1 / SUMS[path] + 1 / min(SUMS.values())
    for path in set(kept) - set(factors):
        assert not factors or SIZES[path] / SUMS[path] <= max(factors.values()) + 1 / SUMS[path]


def test_erk_of_a_hand_worked_network():
    """Two layers, no caps: 740 of 7,400 weights are shared out as 164 to 110."""
    i = keras.Input((64,))
    model = keras.Model(i, layers.Dense(10, name="head")(layers.Dense(100, name="body")(i)))
    assert allocation.erk(model, 0.9) == {"body": 1 - 443 / 6400, "head": 1 - 297 / 1000}
    assert allocation.erk(model, 0.1) == {"body": 1 - 5660 / 6400, "head": 0.0}  # the head would exceed 1
    assert allocation.erk(model, 0.5, exclude="head") == {"body": 0.5}
    assert allocation.erk(model, 0.5, include="head") == {"head": 0.5}


def test_erk_counts_every_kernel_of_a_layer_and_the_outputs_of_a_depthwise_one():
    shares = allocation.erk(recurrent(), 0.6)
    sizes = {"steps": 24, "lstm": 6 * 16 + 4 * 16, "head": 12}
    sums = {"steps": 10, "lstm": 6 + 16 + 4 + 16, "head": 7}
    total = sum(sizes.values()) - round(0.6 * sum(sizes.values()))
    for path, share in shares.items():
        assert (1 - share) * sizes[path] == pytest.approx(total * sums[path] / sum(sums.values()), abs=1)
    i = keras.Input((8, 8, 4))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(i)
    model = keras.Model(i, layers.Conv2D(16, 1, name="pointwise")(x))
    kept = {"depthwise": 3 + 3 + 1 + 8, "pointwise": 1 + 1 + 8 + 16}  # out of 72 and 128
    assert allocation.erk(model, 1 - sum(kept.values()) / 200) == {
        "depthwise": 1 - kept["depthwise"] / 72,
        "pointwise": 1 - kept["pointwise"] / 128,
    }


def test_every_layer_keeps_one_weight():
    model = chain([np.ones((20, 20)), np.ones((1, 1)), np.zeros((2, 1))])
    for rule in (allocation.erk, allocation.lamp):
        shares = rule(model, 1 - 3 / 403)
        assert shares == {"d0": 1 - 1 / 400, "d1": 0.0, "d2": 0.5}


def brute_force(kernels: dict[str, np.ndarray], kept: int) -> dict[str, np.ndarray]:
    """One ranking by the scores of the paper, in two loops."""
    scores = {}
    for path, kernel in kernels.items():
        flat = kernel.astype(float).ravel() ** 2
        scores[path] = np.array([one / flat[flat >= one].sum() for one in flat])
    mask = largest(np.concatenate(list(scores.values())), kept)
    parts = np.split(mask, np.cumsum([kernel.size for kernel in kernels.values()])[:-1])
    return {
        path: part.reshape(kernel.shape) for (path, kernel), part in zip(kernels.items(), parts, strict=True)
    }


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.95])
def test_magnitude_pruning_by_lamp_removes_what_one_ranking_by_its_scores_removes(sparsity):
    expected = brute_force(kernels(network()), TOTAL - round(sparsity * TOTAL))
    found = masks(network(), allocation.lamp(network(), sparsity))
    assert all((found[path] == mask).all() for path, mask in expected.items())


@given(st.integers(0, 1000), st.floats(0.0, 0.9))
def test_lamp_equals_brute_force_on_random_layers(seed, sparsity):
    rng = np.random.default_rng(seed)
    shapes = rng.integers(1, 7, (3, 2))
    given = {f"d{n}": rng.normal(0, 10.0**n, shape).astype("float32") for n, shape in enumerate(shapes)}
    total = sum(kernel.size for kernel in given.values())
    kept = max(total - round(sparsity * total), 3)
    found = allocation.lamp(chain(list(given.values())), 1 - kept / total)
    expected = {path: float(1 - mask.mean()) for path, mask in brute_force(given, kept).items()}
    assert found == pytest.approx(expected)


@given(st.sampled_from(list(SIZES)), st.integers(-20, 20), SPARSITIES)
def test_lamp_does_not_see_the_scale_of_a_layer(path, exponent, sparsity):
    before = allocation.lamp(network(), sparsity)
    kernel = network().get_layer(path).kernel
    kept = to_numpy(kernel).copy()
    kernel.assign(kept * 2.0**exponent)
    after = allocation.lamp(network(), sparsity)
    kernel.assign(kept)
    assert before == after


def test_shares_are_rules_for_wrap():
    shares = allocation.erk(network(), 0.8, exclude="conv0")
    found = masks(network(), shares)
    assert list(found) == ["conv1", "hidden", "head"]
    for path, mask in found.items():
        assert (~mask).sum() == round(shares[path] * SIZES[path])


def with_nan() -> keras.Model:
    model = network.__wrapped__()
    model.get_layer("hidden").kernel.assign(np.full((12, 20), np.nan))
    return model


class Subclassed(keras.Model):
    pass


@pytest.mark.parametrize("rule", [allocation.erk, allocation.lamp])
@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (network, {"sparsity": 1.0}, r"\[0, 1\), got 1.0"),
        (network, {"sparsity": -0.1}, r"\[0, 1\)"),
        (network, {"sparsity": float("nan")}, r"\[0, 1\)"),
        (network, {"sparsity": {"conv0": 0.5}}, r"\[0, 1\)"),
        (network, {"sparsity": 0.9999}, "each of the 4 layers keeps one at least: the most is 0.997"),
        (network, {"include": "cnv0"}, "Did you mean 'conv0'"),
        (network, {"exclude": ".*"}, "is left to mask"),
        (with_nan, {}, "'hidden' has NaN"),
        (Subclassed, {}, "subclassed"),
    ],
)
def test_bad_input_for_single_weights_is_refused(rule, make, arguments, message):
    with pytest.raises(ValueError, match=message):
        rule(make(), **{"sparsity": 0.5, **arguments})


# --- channels -------------------------------------------------------------------------------------------

WIDTHS = (10, 20, 30)
CURVES = {  # of 10, 20, 30 and 20 channels
    "conv0": {0.0: 0.9, 0.4: 0.8, 0.8: 0.1},
    "conv1": {0.0: 0.9, 0.4: 0.7, 0.8: 0.5},
    "conv2": {0.0: 0.9, 0.4: 0.95, 0.8: 0.85},  # better at 0.4: costs nothing until there
    "hidden": {0.0: 0.9, 0.8: 0.9},  # costs nothing at all
}


def pruned(shares: dict[str, float], selection: Selection) -> keras.Model:
    return tfcompress.prune(network(WIDTHS), "l1", sparsity=shares, selection=selection)


def params(shares: dict[str, float], selection: Selection) -> int:
    """What is left of the network, by hand."""
    sizes = dict(zip(CURVES, (*WIDTHS, 20), strict=True))
    a, b, c, d = selection.counts({name: np.zeros(size) for name, size in sizes.items()}, shares).values()
    return (9 * 3 + 1) * a + (9 * a + 1) * b + (9 * b + 1) * c + (c + 1) * d + (d + 1) * 5


@pytest.mark.parametrize(
    ("tolerance", "removed"),
    [
        # conv2: 0.4 + 0.4 * 0.025 / 0.05 = 0.6; conv1: 0.4 * 0.025 / 0.2 = 0.05; conv0: 0.4 * 0.025 / 0.1
        (0.025, {"conv0": 1, "conv1": 1, "conv2": 18, "hidden": 16}),
        (0.05, {"conv0": 2, "conv1": 2, "conv2": 24, "hidden": 16}),
        (0.1, {"conv0": 4, "conv1": 4, "conv2": 24, "hidden": 16}),
    ],
)
def test_each_group_loses_what_its_curve_allows_for_one_tolerance(tolerance, removed):
    share = sum(removed.values()) / 80
    found = allocation.from_sensitivity(network(WIDTHS), CURVES, sparsity=share, selection=EXACT)
    assert {name: round(found[name] * size) for name, size in zip(CURVES, (10, 20, 30, 20), strict=True)} == (
        removed
    )


def test_groups_that_cost_nothing_share_what_is_asked_for():
    flat = {name: {0.0: 0.9, 0.8: 0.9} for name in CURVES}
    found = allocation.from_sensitivity(network(WIDTHS), flat, sparsity=0.3, selection=EXACT)
    assert found == pytest.approx(dict.fromkeys(CURVES, 0.3))


def random_curves(seed: int) -> dict[str, dict[float, float]]:
    rng = np.random.default_rng(seed)
    points = [0.0, 0.2, 0.5, 0.9]
    return {name: dict(zip(points, rng.random(4).tolist(), strict=True)) for name in CURVES}


@given(st.integers(0, 1000), st.floats(0.25, 1.0), st.sampled_from([EXACT, Selection()]))
def test_budgets_hold(seed, budget, selection):
    curves = random_curves(seed)
    shares = allocation.from_sensitivity(
        network(WIDTHS), curves, budget={"params": budget}, selection=selection
    )
    whole = network(WIDTHS).count_params()
    assert params(shares, selection) <= budget * whole
    if budget < 0.95:  # and it is not met by removing far too much
        assert params(shares, selection) > 0.5 * budget * whole


@pytest.mark.parametrize("selection", [EXACT, Selection()])
def test_the_model_really_shrinks_to_what_was_counted(selection):
    shares = allocation.from_sensitivity(network(WIDTHS), CURVES, budget={"params": 0.4}, selection=selection)
    assert pruned(shares, selection).count_params() == params(shares, selection)
    assert params(shares, selection) <= 0.4 * network(WIDTHS).count_params()


@given(st.integers(0, 1000), st.floats(0.2, 0.99), st.floats(0.2, 0.99))
def test_a_tighter_budget_never_gives_a_group_more(seed, one, other):
    tight, loose = (
        allocation.from_sensitivity(
            network(WIDTHS), random_curves(seed), budget={"params": limit}, selection=EXACT
        )
        for limit in sorted([one, other])
    )
    assert all(tight[name] >= loose[name] for name in CURVES)


def test_curves_of_a_real_sensitivity_and_macs():
    x = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype("float32")
    whole = keras.ops.convert_to_numpy(network(WIDTHS)(x))

    def evaluate(model):
        return -float(np.abs(keras.ops.convert_to_numpy(model(x)) - whole).mean())

    curves = analysis.sensitivity(network(WIDTHS), "l1", evaluate, sparsities=[0.3, 0.6, 0.9])
    shares = allocation.from_sensitivity(network(WIDTHS), curves, budget={"macs": 0.5, "bytes": 0.6})
    small = tfcompress.prune(network(WIDTHS), "l1", sparsity=shares)
    assert analysis.macs(small) <= 0.5 * analysis.macs(network(WIDTHS))
    assert small.count_params() <= 0.6 * network(WIDTHS).count_params()
    layerwise = tfcompress.prune_layerwise(
        network(WIDTHS), "l1", sparsity=shares, retrain=None, verbose=False
    )
    assert layerwise.count_params() == small.count_params()


def test_groups_that_must_keep_equal_numbers_meet_the_budget_too():
    i = keras.Input((8, 8, 3))
    x = layers.Concatenate()([layers.Conv2D(12, 1, name="a")(i), layers.Conv2D(12, 1, name="b")(i)])
    x = layers.Conv2D(24, 3, groups=2, name="g")(x)
    model = randomize(keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))))
    curves = {"a": {0.0: 1.0, 0.9: 0.5}, "b": {0.0: 1.0, 0.9: 0.5}, "g": {0.0: 1.0, 0.9: 0.1}}
    shares = allocation.from_sensitivity(model, curves, budget={"params": 0.5}, selection=EXACT)
    small = tfcompress.prune(model, "l1", sparsity=shares, selection=EXACT)
    assert small.count_params() <= 0.5 * model.count_params()
    assert small.get_layer("a").filters == small.get_layer("b").filters


def test_groups_without_a_curve_and_excluded_ones_stay_whole():
    some = {name: CURVES[name] for name in ("conv1", "conv2")}
    assert list(allocation.from_sensitivity(network(WIDTHS), some, sparsity=0.2)) == ["conv1", "conv2"]
    assert list(allocation.from_sensitivity(network(WIDTHS), CURVES, sparsity=0.2, exclude="conv.*")) == [
        "hidden"
    ]


def test_the_least_that_can_be_reached_is_met_and_named():
    least = pruned(dict.fromkeys(CURVES, 0.8), EXACT).count_params()
    shares = allocation.from_sensitivity(network(WIDTHS), CURVES, budget={"params": least}, selection=EXACT)
    assert shares == pytest.approx(dict.fromkeys(CURVES, 0.8))
    with pytest.raises(ValueError, match=f"the least is params {least:,} > {least - 1:,}"):
        allocation.from_sensitivity(network(WIDTHS), CURVES, budget={"params": least - 1}, selection=EXACT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give either sparsity or budget"),
        ({"sparsity": 0.5, "budget": {"params": 0.5}}, "Give either sparsity or budget"),
        ({"sparsity": 1.0}, r"\[0, 1\)"),
        ({"sparsity": {"conv0": 0.5}}, r"\[0, 1\)"),
        ({"sparsity": 0.81}, "the curves go to 0.8 of all channels"),
        ({"budget": {"params": 0.01}}, "The budget cannot be met: .* the least is params"),
        ({"budget": {"flops": 0.5}}, "Unknown budget"),
        ({"sparsity": 0.5, "selection": Selection(scope="global")}, "scope='group'"),
        ({"sparsity": 0.5, "include": "cnv0"}, "Did you mean"),
        ({"sparsity": 0.5, "curves": {}}, "what analysis.sensitivity"),
        ({"sparsity": 0.5, "curves": [0.5]}, "what analysis.sensitivity"),
        ({"sparsity": 0.5, "curves": {"cnv0": {0.0: 1.0, 0.5: 0.5}}}, "'conv0'.*must be of the model given"),
        ({"sparsity": 0.5, "curves": {"head": {0.0: 1.0, 0.5: 0.5}}}, "must be of the model given"),
        ({"sparsity": 0.5, "curves": {"conv0": {0.5: 0.5, 0.6: 0.4}}}, "'conv0' must have a finite figure"),
        ({"sparsity": 0.5, "curves": {"conv0": {0.0: 1.0}}}, "'conv0' must have"),
        ({"sparsity": 0.5, "curves": {"conv0": {0.0: 1.0, 1.0: 0.4}}}, "'conv0' must have"),
        ({"sparsity": 0.5, "curves": {"conv0": {0.0: 1.0, 0.5: float("nan")}}}, "'conv0' must have"),
        ({"sparsity": 0.5, "curves": {"conv0": {0.0: 1.0, "0.5": 0.5}}}, "'conv0' must have"),
        ({"sparsity": 0.5, "curves": {"conv0": CURVES["conv0"]}, "exclude": "conv0"}, "No group is left"),
    ],
)
def test_bad_input_for_channels_is_refused(arguments, message):
    given = {"curves": CURVES, **arguments}
    with pytest.raises(ValueError, match=message):
        allocation.from_sensitivity(network(WIDTHS), given.pop("curves"), **given)
