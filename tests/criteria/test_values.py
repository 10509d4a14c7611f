"""Criteria against values by hand, and the checks their papers suggest."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfcompress import criteria


def entropy(values: np.ndarray, **settings) -> np.ndarray:
    criterion = criteria.Entropy(**settings)
    return criterion.result(criterion.update(None, values))


def test_constant_channel_has_entropy_zero():
    assert entropy(np.full((50, 2), 3.0)).tolist() == [0, 0]


def test_uniform_channel_has_entropy_log_bins():
    values = (np.arange(400) % 20)[:, None] / 19.0
    assert entropy(values, bins=20) == pytest.approx(np.log(20))


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 300))
def test_entropy_equals_that_of_numpys_histogram(seed, bins, images):
    values = np.random.default_rng(seed).normal(size=(images, 3))
    counts = [np.histogram(column, bins)[0] for column in values.T]
    expected = [-sum(c / images * np.log(c / images) for c in column if c) for column in counts]
    np.testing.assert_allclose(entropy(values, bins=bins), expected, atol=0.05)


@given(st.integers(0, 10**6), st.sampled_from([0.25, 2.0, 8.0]), st.sampled_from([0.0, 4.0, -2.0]))
def test_entropy_ignores_scale_shift_and_order_of_images(seed, scale, shift):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1000, (100, 2)) / 8  # scaling by powers of two stays exact
    moved = rng.permutation(values * scale + shift)
    np.testing.assert_allclose(entropy(moved), entropy(values), atol=1e-9)


def test_entropy_looks_at_so_many_images_only():
    criterion = criteria.Entropy(images=8)
    state = None
    for start in range(0, 40, 5):
        state = criterion.update(state, np.full((5, 1), float(start)))
    assert sum(map(len, state)) == 8


def relu_network() -> keras.Model:
    """`dead` is never active, `alive` always, `half` on half of the inputs."""
    i = keras.Input((1,))
    model = keras.Model(i, layers.ReLU()(layers.Dense(3, name="units")(i)))
    model.get_layer("units").set_weights([np.array([[0.0, 0.0, 1.0]]), np.array([-1.0, 1.0, 0.0])])
    return model


def test_apoz_of_dead_living_and_half_dead_units():
    inputs = np.array([[-1.0], [2.0], [3.0], [-4.0], [0.0]])
    scores = criteria.APoZ().score(relu_network(), ["units"], inputs)["units"]
    np.testing.assert_allclose(scores, [0.0, 1.0, 0.4])


def test_apoz_is_measured_after_the_relu_and_not_after_pooling():
    x = i = keras.Input((4, 4, 1))
    x = layers.BatchNormalization()(layers.Conv2D(1, 1, name="conv")(x))
    model = keras.Model(i, layers.MaxPooling2D(4)(layers.Activation("relu")(x)))
    model.get_layer("conv").set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    images = np.full((1, 4, 4, 1), -1.0)
    images[0, 0, 0, 0] = 1.0
    assert criteria.APoZ().score(model, ["conv"], images)["conv"] == pytest.approx(1 / 16)


def images(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype("float32")


def active(maps) -> np.ndarray:
    """The share of positions where a channel is above zero, in NumPy."""
    return (keras.ops.convert_to_numpy(maps) > 0).mean((0, 1, 2))


@pytest.mark.parametrize(
    "between",
    [
        [],
        [layers.MaxPooling2D()],
        [layers.BatchNormalization(), layers.AveragePooling2D(2)],
        [layers.SpatialDropout2D(0.1), layers.Cropping2D(1)],
        [layers.ZeroPadding2D(1), layers.Dropout(0.1)],
    ],
    ids=lambda between: "-".join(type(layer).__name__ for layer in between) or "nothing",
)
def test_apoz_looks_behind_the_relu_whatever_lies_between(between):
    i = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="conv")(i)
    for layer in [*between, layers.ReLU()]:
        x = layer(x)
    model = keras.Model(i, layers.GlobalMaxPooling2D()(x))
    scores = criteria.APoZ().score(model, ["conv"], images())["conv"]
    np.testing.assert_allclose(scores, active(keras.Model(i, x)(images())), rtol=1e-5)
    assert scores.min() > 0 and scores.max() < 1


def pooled_behind(convolution, outside) -> keras.Model:
    """A nested Sequential that ends in the convolution `conv`, with `outside` behind it."""
    inner = keras.Sequential([keras.Input((8, 8, 3)), convolution], name="inner")
    i = keras.Input((8, 8, 3))
    return keras.Model(i, layers.GlobalMaxPooling2D()(outside(inner(i))))


def test_apoz_looks_across_the_end_of_a_nested_model():
    conv = layers.Conv2D(6, 3, name="conv")
    model = pooled_behind(conv, layers.ReLU())
    scores = criteria.APoZ().score(model, ["inner/conv"], images())["inner/conv"]
    np.testing.assert_allclose(scores, active(conv(images())), rtol=1e-5)
    assert scores.max() < 1


def test_apoz_looks_into_a_nested_model_and_out_of_it():
    conv = layers.Conv2D(6, 3, name="conv")
    norm = keras.Sequential([keras.Input((6, 6, 6)), layers.BatchNormalization()], name="norm")
    relu = keras.Sequential([keras.Input((6, 6, 6)), layers.ReLU(), layers.MaxPooling2D()], name="relu")
    model = pooled_behind(conv, lambda maps: relu(norm(maps)))
    scores = criteria.APoZ().score(model, ["inner/conv"], images())["inner/conv"]
    np.testing.assert_allclose(scores, active(conv(images())), rtol=1e-5)


def test_batch_norm_scale_is_found_behind_a_nested_model():
    norm = layers.BatchNormalization(name="norm")
    model = pooled_behind(layers.Conv2D(3, 3, name="conv"), norm)
    norm.gamma.assign([-2.0, 0.5, 1.0])
    assert criteria.BatchNormScale().score(model, ["inner/conv"])["inner/conv"].tolist() == [2, 0.5, 1]


def test_apoz_says_nothing_of_layers_that_no_activation_follows():
    i = keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3, name="bare")(i)
    x = layers.Conv2D(6, 3, name="active", activation="relu")(layers.MaxPooling2D()(x))
    model = keras.Model(i, layers.GlobalMaxPooling2D()(x))
    assert list(criteria.APoZ().score(model, ["bare", "active"], images())) == ["active"]
    assert list(criteria.APoZ(epsilon=0.1).score(model, ["bare", "active"], images())) == ["bare", "active"]
    with pytest.raises(ValueError, match=r"none follows the layers \['bare'\]"):
        criteria.APoZ().score(model, ["bare"], images())


def test_linear_layer_is_not_seen_behind_the_activation_of_the_next_layer():
    i = keras.Input((8, 8, 3))
    conv = layers.Conv2D(5, 3, name="linear")
    model = keras.Model(i, layers.Conv2D(7, 3, activation="relu")(conv(i)))
    scores = criteria.Entropy().score(model, ["linear"], images())["linear"]
    means = keras.ops.convert_to_numpy(conv(images())).mean((1, 2))
    np.testing.assert_allclose(scores, entropy(means), rtol=1e-5)


def two_inputs() -> keras.Model:
    """Inputs `z` and `a`, in this order, each with a layer of its own."""
    z, a = keras.Input((4,), name="z"), keras.Input((4,), name="a")
    hidden = [layers.Dense(6, activation="relu", name=f"of_{i.name}")(i) for i in (z, a)]
    return keras.Model([z, a], layers.Dense(2)(layers.Concatenate()(hidden)))


def test_dict_of_inputs_is_paired_by_name_as_in_keras():
    model, x = two_inputs(), np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    named = criteria.Entropy().score(model, ["of_z", "of_a"], {"a": 0 * x, "z": x})
    listed = criteria.Entropy().score(model, ["of_z", "of_a"], [x, 0 * x])
    assert all((named[path] == listed[path]).all() for path in named)
    assert (named["of_a"] == 0).all() and named["of_z"].max() > 1


def test_list_of_batches_is_one_batch_after_the_other():
    model, x = relu_network(), np.random.default_rng(0).normal(size=(30, 1)).astype("float32")
    whole = criteria.Entropy().score(model, ["units"], x)["units"]
    assert (criteria.Entropy().score(model, ["units"], [x[:10], x[10:]])["units"] == whole).all()


def test_own_criterion_is_called_by_its_class_in_messages():
    class Mine(criteria.ActivationCriterion):
        pass

    with pytest.raises(ValueError, match="Criterion \\['Mine'\\] looks at activations: pass data"):
        Mine().score(relu_network(), ["units"])


@pytest.mark.parametrize("name", criteria.names())
def test_unknown_layer_is_refused_with_the_nearest_name(name):
    with pytest.raises(ValueError, match="Unknown layer 'unts'. Did you mean 'units'"):
        criteria.get(name).score(relu_network(), ["unts"], np.zeros((4, 1)))


def test_epsilon_widens_what_counts_as_zero():
    i = keras.Input((2,))
    model = keras.Model(i, layers.Dense(2, name="units", use_bias=False)(i))
    model.get_layer("units").set_weights([np.eye(2)])
    inputs = np.array([[0.05, 1.0], [-0.05, 0.01]])
    assert criteria.APoZ(epsilon=1e-9).score(model, ["units"], inputs)["units"].tolist() == [1, 1]
    assert criteria.APoZ(epsilon=0.1).score(model, ["units"], inputs)["units"].tolist() == [0, 0.5]


def test_activations_of_a_residual_branch_are_those_behind_the_addition():
    x = i = keras.Input((1,))
    y = layers.Dense(1, name="branch")(x)
    model = keras.Model(i, layers.ReLU()(layers.Add()([x, y])))
    model.get_layer("branch").set_weights([np.array([[-2.0]]), np.zeros(1)])
    assert criteria.APoZ().score(model, ["branch"], np.array([[1.0], [2.0]]))["branch"].tolist() == [0]


def conv_network() -> keras.Model:
    i = keras.Input((5, 5, 2))
    model = keras.Model(i, layers.Conv2D(3, 3, name="conv")(i))
    return model


def test_zeroed_filter_comes_first_in_every_norm():
    model = conv_network()
    kernel, bias = model.get_layer("conv").get_weights()
    kernel[..., 1] = 0
    model.get_layer("conv").set_weights([kernel, bias])
    for name in ("l1", "l2"):
        assert criteria.get(name).score(model, ["conv"])["conv"].argmin() == 1


def test_norms_equal_numpy_on_every_kind_of_layer():
    x = i = keras.Input((6, 6, 4))
    x = layers.Conv2DTranspose(3, 2, name="transposed")(x)
    x = layers.SeparableConv2D(5, 3, name="separable")(x)
    x = layers.Reshape((25, 5))(x)
    x = layers.LSTM(4, name="lstm", return_sequences=True)(x)
    model = keras.Model(i, layers.MultiHeadAttention(2, 3, name="attention")(x, x))
    scores = criteria.L1().score(model, ["transposed", "separable", "lstm", "attention", "attention:heads"])
    weights = {w.path: np.abs(w.numpy()) for w in model.weights}
    np.testing.assert_allclose(scores["transposed"], weights["transposed/kernel"].sum((0, 1, 3)), rtol=1e-5)
    np.testing.assert_allclose(
        scores["separable"], weights["separable/pointwise_kernel"].sum((0, 1, 2)), rtol=1e-5
    )
    gates = sum(
        weights[f"lstm/lstm_cell/{k}"].reshape(-1, 4, 4).sum((0, 1)) for k in ("kernel", "recurrent_kernel")
    )
    np.testing.assert_allclose(scores["lstm"], gates, rtol=1e-5)
    heads = sum(weights[f"attention/{k}/kernel"].sum((0, 2)) for k in ("query", "key", "value"))
    heads = heads + weights["attention/attention_output/kernel"].sum((1, 2))
    np.testing.assert_allclose(scores["attention:heads"], heads, rtol=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 30))
def test_geometric_median_equals_the_double_sum(seed, filters, weights):
    rows = np.random.default_rng(seed).normal(size=(filters, weights))
    expected = [sum(np.linalg.norm(a - b) for b in rows) for a in rows]
    np.testing.assert_allclose(criteria.GeometricMedian().score_filters(rows), expected, rtol=1e-6, atol=1e-5)


def test_batch_norm_scale_is_the_gamma_behind_the_layer():
    x = i = keras.Input((5, 5, 2))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(3, 3, name="conv")(x))
    model = keras.Model(i, layers.BatchNormalization(scale=False)(layers.Conv2D(3, 1, name="bare")(x)))
    model.get_layer("norm").gamma.assign([-2.0, 0.5, 1.0])
    assert {k: v.tolist() for k, v in criteria.BatchNormScale().score(model, ["conv", "bare"]).items()} == {
        "conv": [2.0, 0.5, 1.0]
    }


def test_layers_inside_nested_models_and_wrappers_are_seen():
    frame = keras.Input((6, 6, 2))
    inner = keras.Model(
        frame,
        layers.GlobalMaxPooling2D()(layers.Conv2D(3, 3, activation="relu", name="conv")(frame)),
        name="inner",
    )
    i = keras.Input((4, 6, 6, 2))
    x = layers.TimeDistributed(layers.Conv2D(2, 1, activation="relu", name="mixer"), name="frames")(i)
    model = keras.Model(i, layers.Dense(2)(inner(x[:, 0])))
    images = np.random.default_rng(0).normal(size=(5, 4, 6, 6, 2))
    scores = criteria.Entropy().score(model, ["inner/conv", "frames/mixer"], images)
    assert {path: len(values) for path, values in scores.items()} == {"inner/conv": 3, "frames/mixer": 2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: criteria.get("entopy"), "Did you mean 'entropy'"),
        (lambda: criteria.Entropy(bins=1), "at least 2"),
        (lambda: criteria.APoZ(epsilon=-1), "of at least 0"),
        (lambda: criteria.get({"name": "entropy", "bin": 3}), "unexpected keyword argument 'bin'"),
        (lambda: criteria.get({"name": ["entropy"]}), "Unknown criterion"),
        (lambda: criteria.Entropy(bins="many"), "a whole number"),
        (lambda: criteria.APoZ(epsilon="small"), "must be a number"),
        (lambda: criteria.APoZ().score(two_inputs(), ["of_a"], {"a": np.zeros((3, 4))}), "named"),
        (lambda: criteria.APoZ().score(relu_network(), ["units"], {"image": np.zeros((3, 1))}), "named"),
        (lambda: criteria.APoZ().score(relu_network(), ["units"], np.full((3, 1), "x")), "holds text"),
        (lambda: criteria.score_together(relu_network(), {"l1": criteria.L1()}, ["units"], None), "One pass"),
        (lambda: criteria.APoZ().score(relu_network(), ["units"]), "pass data"),
        (lambda: criteria.APoZ().score(relu_network(), ["units"], np.zeros((0, 1))), "empty"),
        (
            lambda: criteria.APoZ().score(relu_network(), ["units"], np.zeros((4, 3))),
            "wants batches of shape",
        ),
        (lambda: criteria.APoZ().score(relu_network(), ["units"], np.full((4, 1), np.nan)), "NaN"),
        (lambda: criteria.APoZ().score(relu_network(), ["units"], 7), "Expected arrays"),
        (
            lambda: criteria.APoZ().score(relu_network(), ["units"], (np.zeros((4, 1)), np.zeros(3))),
            "different numbers",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@given(st.integers(0, 10**6))
def test_hrank_equals_numpys_rank_of_every_map(seed):
    rng = np.random.default_rng(seed)
    ranks = rng.integers(0, 6, (3, 4))
    maps = np.stack(
        [[rng.normal(size=(6, r)) @ rng.normal(size=(r, 5)) for r in row] for row in ranks]
    ).astype("float32")
    i = keras.Input((6, 5, 4))
    model = keras.Model(i, layers.DepthwiseConv2D(1, use_bias=False, name="same")(i))
    model.get_layer("same").set_weights([np.ones((1, 1, 4, 1))])
    scores = criteria.HRank().score(model, ["same"], maps.transpose(0, 2, 3, 1))["same"]
    np.testing.assert_allclose(scores, np.linalg.matrix_rank(maps).mean(axis=0))


def test_hrank_of_maps_of_one_and_of_three_axes():
    x = np.random.default_rng(0).normal(size=(4, 5, 6, 7, 2)).astype("float32")
    i = keras.Input((5, 6, 7, 2))
    cubes = keras.Model(i, layers.Conv3D(3, 1, name="conv")(i))
    assert criteria.HRank().score(cubes, ["conv"], x)["conv"].tolist() == [7, 7, 7]  # of 30 x 7
    i = keras.Input((5, 2))
    rows = keras.Model(i, layers.Conv1D(3, 1, name="conv")(i))
    assert criteria.HRank().score(rows, ["conv"], x[:, :, 0, 0])["conv"].tolist() == [1, 1, 1]
    scores = criteria.HRank().score(relu_network(), ["units"], np.array([[-1.0], [2.0], [3.0], [-4.0]]))
    assert scores["units"].tolist() == [0, 1, 0.5]


def test_mean_activation_is_the_mean_over_images_and_positions():
    i = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, name="conv")(i)))
    model = keras.Model(i, layers.GlobalMaxPooling2D()(x))
    scores = criteria.MeanActivation().score(model, ["conv"], images())["conv"]
    maps = keras.ops.convert_to_numpy(keras.Model(i, x)(images()))
    np.testing.assert_allclose(scores, maps.mean((0, 1, 2)), rtol=1e-5)
