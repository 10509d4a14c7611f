"""Criteria from gradients, and the oracle that they stand in for."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from tfcompress import Selection, analysis, channels, criteria, prune

SEEDS = st.integers(0, 10**6)


def height(labels, outputs):
    """A loss that is the output itself."""
    return outputs


def filled(model: keras.Model, seed: int = 0) -> keras.Model:
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        low = 0.5 if "variance" in weight.path else -1.0
        weight.assign(rng.uniform(low, 1.0, weight.shape))
    return model


def maps(activation: str | None = "relu", seed: int = 0) -> keras.Model:
    """Two convolutions, means over positions, a unit."""
    i = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, activation=activation, name="first")(i)
    x = layers.Conv2D(4, 3, activation=activation, name="second")(x)
    return filled(keras.Model(i, layers.Dense(1, name="head")(layers.GlobalAveragePooling2D()(x))), seed)


def images(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 6, 6, 2)).astype("float32"), rng.normal(size=count).astype("float32")


def activations(model: keras.Model, layer: str, x: np.ndarray) -> np.ndarray:
    return keras.Model(model.inputs, model.get_layer(layer).output).predict(x, verbose=0)


# ------------------------------------------------------------------ 2017


@settings(max_examples=5)  # each compiles a network
@given(SEEDS)
def test_taylor_equals_the_formula_of_the_paper(seed):
    model, (x, y) = maps(seed=seed), images(7)
    z = activations(model, "second", x)
    kernel, bias = model.get_layer("head").get_weights()
    errors = z.mean((1, 2)) @ kernel[:, 0] + bias - y
    # C = (p - y)^2, so dC/dz_m = 2 (p - y) kernel / M: summed over the 4 positions times z, over M
    each = 2 * errors[:, None] * kernel[:, 0] * z.mean((1, 2)) / 4
    expected = np.abs(each).mean(axis=0)
    scores = criteria.Taylor(loss="mse", normalize=False).score(model, ["second"], (x, y))["second"]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=5)  # each compiles a network
@given(SEEDS)
def test_on_a_linear_network_taylor_equals_the_true_change_of_the_loss(seed):
    model, data = maps(activation=None, seed=seed), images(1)
    names, sizes = ["first", "second"], {"first": 16, "second": 4}  # positions
    taylor = criteria.Taylor(loss=height, normalize=False).score(model, names, data)
    oracle = analysis.Oracle(loss=height).score(model, names, data)
    for name in names:
        scale = np.abs(oracle[name]).max()
        np.testing.assert_allclose(taylor[name] * sizes[name], oracle[name], atol=1e-4 * scale)


def test_normalized_scores_of_a_layer_have_norm_one():
    scores = criteria.Taylor(loss="mse").score(maps(), ["first", "second"], images(9))
    assert [np.linalg.norm(values) for values in scores.values()] == pytest.approx([1, 1])


def test_a_channel_that_is_always_off_scores_zero():
    model = maps()
    kernel, bias = model.get_layer("second").get_weights()
    bias[2] = -100.0
    model.get_layer("second").set_weights([kernel, bias])
    for name in ("taylor", "taylor2019", "oracle"):
        scores = criteria.get({"name": name, "loss": "mse"}).score(model, ["second"], images(9))["second"]
        assert scores[2] == 0 and (np.delete(scores, 2) > 0).all()


def test_regularization_by_flops_moves_removals_to_the_expensive_layer():
    model, data = maps(), images(9)
    # 2 operations per multiply-accumulate: 16 positions of 3x3x2, and 4 of 3x3x8
    flops = {"first": 2 * 16 * 18, "second": 2 * 4 * 72}
    taylor = criteria.Taylor(loss="mse")
    plain = taylor.score(model, list(flops), data)
    heavy = analysis.FlopsRegularized(taylor, 0.5, "FLOPs").score(model, list(flops), data)
    for name, count in flops.items():
        np.testing.assert_allclose(heavy[name], plain[name] - 0.5 * count)
    everything = Selection(scope="global", scale="none", round_to=1, floor=0)
    small = prune(model, analysis.FlopsRegularized("l1", 1e3), sparsity=0.3, selection=everything)
    assert (
        small.get_layer("second").filters == 4
    )  # each filter of "first" has as many as one of "second" or more


def test_regularization_by_flops_counts_all_layers_of_a_group():
    i = keras.Input((6, 6, 2))
    a, b = layers.Conv2D(4, 1, name="a")(i), layers.Conv2D(4, 3, padding="same", name="b")(i)
    x = layers.GlobalAveragePooling2D()(layers.Add()([a, b]))
    model = filled(keras.Model(i, layers.Dense(1)(x)))
    groups = {group.name: group.layers for group in channels.trace(model).free}
    taylor = criteria.Taylor(loss="mse")
    plain = taylor.score_groups(model, groups, images(3))["a"]
    heavy = analysis.FlopsRegularized(taylor, 1.0, "FLOPs").score_groups(model, groups, images(3))["a"]
    np.testing.assert_allclose(plain - heavy, 2 * 36 * (2 + 18))


# ------------------------------------------------------------------ 2019


@settings(max_examples=8)
@given(SEEDS, st.integers(1, 12))
def test_taylor2019_squares_the_derivative_of_a_mini_batch(seed, batch_size):
    model, (x, y) = maps(seed=seed), images(11)
    z = activations(model, "second", x)
    kernel, bias = model.get_layer("head").get_weights()
    errors = z.mean((1, 2)) @ kernel[:, 0] + bias - y
    by_gate = 2 * errors[:, None] * kernel[:, 0] * z.mean((1, 2))
    whole = len(x) // batch_size * batch_size
    batches = by_gate[:whole].reshape(-1, batch_size, 4) if whole else by_gate[None]
    criterion = criteria.Taylor2019(loss="mse", batch_size=batch_size)
    scores = criterion.score(model, ["second"], (x, y))["second"]
    np.testing.assert_allclose(scores, (batches.mean(axis=1) ** 2).mean(axis=0), rtol=1e-3, atol=1e-6)


def test_gates_of_coupled_layers_add_up_before_they_are_squared():
    i = keras.Input((6, 6, 2))
    a, b = layers.Conv2D(4, 1, name="a")(i), layers.Conv2D(4, 1, name="b")(i)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([a, b])))
    model = filled(keras.Model(i, layers.Dense(1)(x)))
    kernel, bias = model.get_layer("a").get_weights()
    model.get_layer("b").set_weights([-kernel, -bias])  # together they are always nothing
    groups = {group.name: group.layers for group in channels.trace(model).free}
    scores = criteria.Taylor2019(loss="mse").score_groups(model, groups, images(8))
    np.testing.assert_allclose(scores["a"], 0, atol=1e-10)


# ------------------------------------------------------------------ where gates are, and losses


def behind(*after: layers.Layer) -> keras.Model:
    i = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="conv")(i)
    for layer in after:
        x = layer(x)
    return filled(keras.Model(i, layers.Dense(1)(layers.GlobalAveragePooling2D()(x))))


@pytest.mark.parametrize(
    "after",
    [
        [],
        [layers.BatchNormalization(), layers.ReLU()],
        [layers.BatchNormalization(), layers.MaxPooling2D(2), layers.LeakyReLU()],
        [layers.Dropout(0.5), layers.Activation("sigmoid")],
        [layers.ZeroPadding2D(1), layers.Activation("swish")],
    ],
    ids=lambda after: "-".join(type(layer).__name__ for layer in after) or "nothing",
)
def test_a_gate_is_a_factor_of_the_activation_that_is_read(after):
    """Against the difference of losses when that activation is scaled."""
    model, (x, y) = behind(*after), images(5)
    head = model.layers[-1].get_weights()
    z = keras.Model(model.inputs, model.layers[-3].output).predict(x, verbose=0).mean((1, 2))

    def losses(scale):
        return ((z * scale) @ head[0][:, 0] + head[1] - y) ** 2

    step = 1e-2 * np.eye(4)
    slopes = np.stack([(losses(1 + d) - losses(1 - d)) / 2e-2 for d in step], axis=1)
    scores = criteria.Taylor2019(loss="mse", batch_size=1).score(model, ["conv"], (x, y))["conv"]
    np.testing.assert_allclose(scores, (slopes**2).mean(axis=0), rtol=1e-2, atol=1e-5)


def test_a_nested_model_called_twice_has_gates_in_both_calls():
    inner = keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(2, 1, activation="relu", name="conv")])
    i = keras.Input((6, 6, 2))
    x = layers.Concatenate()([inner(i), inner(layers.UpSampling2D()(layers.MaxPooling2D()(i)))])
    model = filled(keras.Model(i, layers.Dense(1, use_bias=False)(layers.GlobalAveragePooling2D()(x))))
    path = f"{inner.name}/conv"
    scores = criteria.Taylor2019(loss=height, batch_size=1).score(model, [path], images(1))[path]
    x = images(1)[0]
    both = keras.Model(model.inputs, model.layers[-2].output).predict(x, verbose=0)[0]
    parts = both * model.layers[-1].get_weights()[0][:, 0]
    np.testing.assert_allclose(scores, (parts[:2] + parts[2:]) ** 2, rtol=1e-4)


def test_the_compiled_loss_is_the_default_and_weighs_outputs():
    i = keras.Input((4,))
    x = layers.Dense(3, activation="relu", name="units")(i)
    outputs = {"a": layers.Dense(1, name="a")(x), "b": layers.Dense(2, activation="softmax", name="b")(x)}
    model = filled(keras.Model(i, outputs))
    x, rng = np.ones((6, 4), "float32"), np.random.default_rng(0)
    labels = {"a": rng.normal(size=6).astype("float32"), "b": rng.integers(0, 2, 6)}
    data, one = (x, labels), {"a": "mse", "b": keras.losses.SparseCategoricalCrossentropy()}

    def slopes(loss, weights=None):
        model.compile(loss=loss, loss_weights=weights)
        return criteria.Taylor2019(batch_size=6).score(model, ["units"], data)["units"] ** 0.5

    alone = [slopes({"a": one["a"]}), slopes({"b": one["b"]})]
    assert all((values >= 0).all() and values.max() > 0 for values in alone)
    np.testing.assert_allclose(slopes({"a": one["a"]}, {"a": 3.0}), 3 * alone[0], rtol=1e-4)
    both = slopes(one)
    assert all(min(abs(a + b - c), abs(abs(a - b) - c)) < 1e-4 for a, b, c in zip(*alone, both, strict=True))


def test_labels_of_one_and_of_two_axes_give_the_same_loss():
    model, (x, y) = maps(), images(9)
    flat, column = (criteria.Taylor(loss="mse").score(model, ["second"], (x, t)) for t in (y, y[:, None]))
    assert (flat["second"] == column["second"]).all()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="half precision needs a GPU there")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_gradients_in_mixed_precision(policy):
    i = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, activation="relu", dtype=policy, name="conv")(i)
    x = layers.GlobalAveragePooling2D(dtype=policy)(x)
    model = filled(keras.Model(i, layers.Dense(1, dtype="float32")(x)))
    scores = criteria.Taylor(loss="mse").score(model, ["conv"], images(9))["conv"]
    assert np.linalg.norm(scores) == pytest.approx(1)


# ------------------------------------------------------------------ together, and in prune


def test_gradients_and_activations_in_one_pass_equal_each_alone():
    chosen = {name: criteria.get(name) for name in ("apoz", "taylor", "taylor2019", "mean_activation")}
    model, data = maps(), images(40)
    model.compile(loss="mse")
    together = criteria.score_together(model, chosen, ["first", "second"], data)
    for name, criterion in chosen.items():
        alone = criterion.score(model, ["first", "second"], data)
        for path, scores in alone.items():
            np.testing.assert_allclose(together[name][path], scores, rtol=1e-5)


def test_criteria_with_different_losses_do_not_go_together():
    chosen = {"a": criteria.Taylor(loss="mse"), "b": criteria.Taylor(loss="mae")}
    with pytest.raises(ValueError, match="One pass has one loss"):
        criteria.score_together(maps(), chosen, ["first"], images(4))


def test_prune_removes_what_the_oracle_ranks_lowest():
    model, data = maps(), images(20)
    scores = analysis.Oracle(loss="mse").score(model, ["first"], data)["first"]
    whole = Selection(round_to=1)
    small = prune(
        model, analysis.Oracle(loss="mse"), sparsity=0.25, data=data, selection=whole, include="first"
    )
    assert set(small.removed.removals[0].layers["first"]) == set(np.argsort(scores)[:2])


def test_the_oracle_leaves_the_model_as_it_was_and_scores_grouped_convolutions():
    i = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 1, name="stem")(i)
    x = layers.Conv2D(4, 3, groups=2, name="grouped")(x)
    model = filled(keras.Model(i, layers.Dense(1)(layers.GlobalAveragePooling2D()(x))))
    before = [np.array(weight) for weight in model.get_weights()]
    scores = analysis.Oracle(loss="mse").score(model, ["stem", "grouped"], images(5))
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert {path: values.shape for path, values in scores.items()} == {"stem": (4,), "grouped": (4,)}
    signed = analysis.Oracle(loss="mse", signed=True).score(model, ["stem"], images(5))["stem"]
    np.testing.assert_allclose(np.abs(signed), scores["stem"])


def test_the_oracle_leaves_out_a_layer_of_one_channel():
    i = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="wide")(layers.Conv2D(1, 1, name="narrow")(i))
    model = filled(keras.Model(i, layers.Dense(1)(layers.GlobalAveragePooling2D()(x))))
    assert list(analysis.Oracle(loss="mse").score(model, ["narrow", "wide"], images(3))) == ["wide"]


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("name", ["taylor", "taylor2019", "oracle"])
def test_what_gradients_need_is_asked_for(name):
    model, (x, y) = maps(), images(4)
    with pytest.raises(ValueError, match="not compiled with a loss"):
        criteria.get(name).score(model, ["first"], (x, y))
    with pytest.raises(ValueError, match="needs labels"):
        criteria.get({"name": name, "loss": "mse"}).score(model, ["first"], x)
    with pytest.raises(ValueError, match="pass data"):
        criteria.get({"name": name, "loss": "mse"}).score(model, ["first"])
    with pytest.raises(ValueError, match="1 outputs"):
        criteria.get({"name": name, "loss": ["mse", "mse"]}).score(model, ["first"], (x, y))
    with pytest.raises(ValueError, match="Unknown output 'haed'. Did you mean 'head'"):
        criteria.get({"name": name, "loss": {"haed": "mse"}}).score(model, ["first"], (x, y))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1}, "weight"),
        ({"weight": np.nan}, "weight"),
        ({"unit": "mflops"}, "Unknown unit 'mflops'"),
        ({"criterion": "tailor"}, "Did you mean 'taylor'"),
    ],
)
def test_settings_of_the_regularization_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        analysis.FlopsRegularized(**{"criterion": "taylor", **arguments})


def test_settings_of_taylor2019_out_of_range():
    with pytest.raises(ValueError, match="batch_size"):
        criteria.Taylor2019(batch_size=0)
