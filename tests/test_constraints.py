"""Proximal steps and thresholds: closed forms, minimisers, and their way through training and saving."""

import hypothesis.extra.numpy as arrays
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from masks import array
from surgery import inputs_for, outputs_of, relative_error

from tfcompress import attach, callbacks
from tfcompress.constraints import Chain, Proximal, Threshold
from tfcompress.regularizers import GROUPS, GroupLasso, Sum, lassos

SCALINGS = (None, "sqrt")
KERNELS = arrays.array_shapes(min_dims=2, max_dims=4, max_side=4).flatmap(
    lambda shape: arrays.arrays("float32", shape, elements=st.floats(-4, 4, width=16))
)


def lasso_of(groups: str, *args, **settings) -> GroupLasso:
    """Blocks are of one weight."""
    return GroupLasso(groups, *args, block=(1, 1) if groups == "blocks" else None, **settings)


def norms_of(kernel: np.ndarray, groups: str) -> np.ndarray:
    """||w_g|| of every group of a kernel (taps..., channels, outputs), one per weight."""
    spanned = {
        "filters": tuple(range(kernel.ndim - 1)),
        "channels": (*range(kernel.ndim - 2), kernel.ndim - 1),
        "shapes": (kernel.ndim - 1,),
        "depth": tuple(range(kernel.ndim)),
        "blocks": (),
    }[groups]
    squares = np.sum(np.square(kernel, dtype="float64"), axis=spanned, keepdims=True)
    return np.broadcast_to(np.sqrt(squares), kernel.shape)


def size_of(kernel: np.ndarray, groups: str) -> int:
    """How many weights a group has."""
    *_, channels, outputs = kernel.shape
    return {
        "filters": kernel.size // outputs,
        "channels": kernel.size // channels,
        "shapes": outputs,
        "depth": kernel.size,
        "blocks": 1,
    }[groups]


# --- the proximal step ----------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("scaling", SCALINGS)
@given(kernel=KERNELS, step=st.floats(0.01, 2), strength=st.floats(0, 2))
def test_step_shrinks_each_norm_by_what_it_says_and_zeroes_exactly_those_below(
    groups, scaling, kernel, step, strength
):
    proximal = Proximal(lasso_of(groups, strength, size_scaling=scaling), step)
    norms, got = norms_of(kernel, groups), array(proximal(kernel))
    limit = step * strength * (np.sqrt(size_of(kernel, groups)) if scaling else 1)
    shrunk = kernel * np.maximum(0, 1 - limit / np.where(norms > 0, norms, 1))
    np.testing.assert_allclose(got, shrunk, rtol=1e-4, atol=1e-5)
    clear = abs(norms - limit) > 1e-4  # on the edge rounding decides
    assert ((norms_of(got, groups) > 0) == (norms > limit))[clear].all()


def test_group_whose_norm_is_the_limit_is_zero():
    kernel = np.array([[3.0, 3.001], [4.0, 4.0]], "float32")
    got = array(Proximal(GroupLasso("filters", 2.5), step=2.0)(kernel))
    assert (got[:, 0] == 0).all() and (got[:, 1] > 0).all()


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("scaling", SCALINGS)
@given(kernel=KERNELS, seed=st.integers(0, 99))
def test_step_leads_to_the_minimum_of_distance_plus_penalty(groups, scaling, kernel, seed):
    lasso = lasso_of(groups, 0.7, size_scaling=scaling)

    def objective(other):
        return 0.5 * np.sum(np.square(other - kernel, dtype="float64")) + 0.5 * float(lasso(other))

    best = array(Proximal(lasso, step=0.5)(kernel))
    rng = np.random.default_rng(seed)
    spread = rng.choice([1e-2, 0.1, 1.0], size=20)
    candidates = [best + rng.normal(0, s, kernel.shape).astype("float32") for s in spread]
    candidates += [kernel, np.zeros_like(kernel), 1.05 * best, 0.95 * best]
    least = objective(best)
    assert all(least <= objective(other) + 1e-5 * max(1, least) for other in candidates)


@pytest.mark.parametrize("groups", GROUPS)
@given(kernel=KERNELS)
def test_life_of_a_group_is_the_step_that_it_does_not_survive(groups, kernel):
    lasso = lasso_of(groups, 0.3, size_scaling="sqrt")
    norms = array(lasso.norms(kernel))
    for group, life in enumerate(lasso.lives(kernel, strength=0.3)):
        if norms[group] > 1e-3:
            before, after = (lasso.norms(lasso.proximal(kernel, step * life))[group] for step in (0.99, 1.01))
            assert before > 0 and after == 0


def test_steps_for_rows_and_columns_are_taken_one_after_the_other():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype("float32")
    rows, columns = GroupLasso("filters", 0.5), GroupLasso("shapes", 0.3)
    got = Proximal(Sum([rows, columns]), step=0.5)(kernel)
    expected = Proximal(columns, 0.5)(Proximal(rows, 0.5)(kernel))
    np.testing.assert_array_equal(array(got), array(expected))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_constraints_keep_the_dtype(dtype):
    kernel = keras.ops.cast(np.eye(3), dtype)
    for constraint in (Proximal(GroupLasso("filters", 0.5), 1.0), Threshold(0.1)):
        made = constraint(kernel)
        assert keras.backend.standardize_dtype(made.dtype) == dtype
        assert np.count_nonzero(array(made)) == 3


# --- thresholds and chains ------------------------------------------------------------------------------


@given(kernel=KERNELS, limit=st.sampled_from([1e-4, 0.5, 1.0]))
def test_threshold_zeroes_what_is_below_and_nothing_else(kernel, limit):
    expected = np.where(np.abs(kernel) < np.float32(limit), 0, kernel)
    np.testing.assert_array_equal(array(Threshold(limit)(kernel)), expected)


def test_weight_at_the_limit_stays():
    edge = np.array([0.5, -0.5, np.nextafter(np.float32(0.5), np.float32(0))], "float32")
    assert array(Threshold(0.5)(edge)).tolist() == [0.5, -0.5, 0.0]
    assert Threshold().limit == 1e-4


def test_members_of_a_chain_act_in_order():
    kernel = np.array([[-0.5, 0.5, 2.0]], "float32")
    double = keras.constraints.get(lambda kernel: 2 * kernel)
    assert array(Chain([Threshold(0.8), double])(kernel)).tolist() == [[0, 0, 4]]
    assert array(Chain([double, Threshold(0.8)])(kernel)).tolist() == [[-1, 1, 4]]
    inner = Chain([double, keras.constraints.NonNeg()])
    assert Chain([Threshold(0.8), inner]).members[1:] == inner.members


# --- in a model -----------------------------------------------------------------------------------------


def regression(constraint, **options) -> keras.Model:
    dense = layers.Dense(6, use_bias=False, kernel_constraint=constraint, name="dense", **options)
    model = keras.Sequential([keras.Input((4,)), dense])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


@pytest.mark.parametrize("jit_compile", [False, True])
def test_step_of_training_is_gradient_then_proximal_step(jit_compile):
    model = regression(Proximal(GroupLasso("filters", 2.0), step=0.1))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    x, y, before = rng.normal(size=(8, 4)), rng.normal(size=(8, 6)), array(model.weights[0])
    model.train_on_batch(x, y)
    moved = before - 0.1 * 2 / y.size * x.T @ (x @ before - y)
    norms = np.linalg.norm(moved, axis=0)
    np.testing.assert_allclose(
        array(model.weights[0]), moved * np.maximum(0, 1 - 0.2 / norms), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    "constraint",
    [
        Proximal(GroupLasso("shapes", 0.02, size_scaling="sqrt"), step=0.3),
        Proximal(Sum([GroupLasso("filters", 0.02), GroupLasso("shapes", 0.01)])),
        Threshold(0.2),
        Chain([Proximal(GroupLasso("filters", 0.02), step=0.3), Threshold(0.2), keras.constraints.NonNeg()]),
    ],
    ids=["proximal", "sum", "threshold", "chain"],
)
def test_constraints_and_penalties_survive_saving(constraint, tmp_path):
    model = regression(constraint, kernel_regularizer=GroupLasso("filters", 0.1))
    for lasso in [*lassos(constraint), *lassos(model.layers[0].kernel_regularizer)]:
        lasso.strength *= 3
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    found = again.layers[0].kernel.constraint
    assert type(found) is type(constraint) and found.get_config() == constraint.get_config()
    assert [lasso.strength for lasso in lassos(found)] == [lasso.strength for lasso in lassos(constraint)]
    inputs = inputs_for(model)
    assert relative_error(outputs_of(model, inputs), outputs_of(again, inputs)) == 0
    np.testing.assert_allclose(float(sum(again.losses)), float(sum(model.losses)), rtol=1e-6)
    follow = [callbacks.FollowLearningRate()] if getattr(constraint, "step", 1) is None else []
    for trained in (model, again):
        trained.fit(np.ones((8, 4)), np.ones((8, 6)), callbacks=follow, verbose=0)
    np.testing.assert_array_equal(array(model.weights[0]), array(again.weights[0]))


def test_attached_steps_have_the_layout_of_each_kernel_and_act_last():
    x = i = keras.Input((8, 8, 4))
    x = layers.Conv2D(6, 3, groups=2, kernel_constraint="non_neg", name="grouped")(x)
    x = layers.Conv2DTranspose(5, 3, name="transposed")(x)
    model = keras.Model(i, layers.DepthwiseConv2D(3, name="depthwise")(x))
    chain = Chain([Proximal(GroupLasso("shapes", 0.3), step=0.5), Threshold(0.1)])
    new = attach(model, chain, include=["grouped", "transposed"])
    assert new.attached.kernels == {"grouped": ("kernel",), "transposed": ("kernel",)}
    grouped, transposed = (new.get_layer(name).kernel.constraint for name in new.attached.kernels)
    assert [type(member) for member in grouped.members] == [keras.constraints.NonNeg, Proximal, Threshold]
    assert lassos(grouped)[0].conv_groups == 2
    # Of a transposed kernel (height, width, outputs, channels) the shapes run over the last axis but one.
    kernel = np.random.default_rng(0).normal(size=(3, 3, 5, 6)).astype("float32")
    norms = np.linalg.norm(kernel, axis=2, keepdims=True)
    shrunk = kernel * np.maximum(0, 1 - 0.15 / norms)
    expected = np.where(np.abs(shrunk) < 0.1, 0, shrunk)
    np.testing.assert_allclose(array(transposed(kernel)), expected, rtol=1e-4, atol=1e-6)
    lassos(grouped)[0].strength = 0.7
    assert lassos(transposed)[0].strength == lassos(chain)[0].strength == 0.3


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Proximal(keras.regularizers.L2(0.1)), "L2 has no proximal step. Expected a regularizers.Gr"),
        (lambda: Proximal(Sum([GroupLasso(), keras.regularizers.L1(0.1)])), "L1 has no proximal step"),
        (lambda: Proximal("filters"), "str has no proximal step"),
        (lambda: Proximal(GroupLasso(), step=0.0), "step must be a number above 0, or None, got 0.0"),
        (lambda: Proximal(GroupLasso(), step=-1), "got -1"),
        (lambda: Proximal(GroupLasso(), step=float("nan")), "got nan"),
        (lambda: Proximal(GroupLasso(), step="fast"), "got 'fast'"),
        (lambda: Threshold(0), "limit must be a number above 0, got 0"),
        (lambda: Threshold(-1e-4), "got -0.0001"),
        (lambda: Threshold(float("inf")), "got inf"),
        (lambda: Threshold("small"), "got 'small'"),
        (lambda: Chain([]), "Expected a list of constraints"),
        (lambda: Chain(["non_neg"]), "Expected a list of constraints, got .*'non_neg'"),
        (lambda: Proximal(GroupLasso("filters", -0.1)), "strength must be a number of at least 0, got -0.1"),
        (lambda: Proximal(GroupLasso("rows")), "groups 'rows'"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_step_that_nobody_tells_the_learning_rate_says_what_to_do():
    model = regression(Proximal(GroupLasso("filters", 0.1)))
    with pytest.raises(ValueError, match=r"callbacks=\[tfcompress.callbacks.FollowLearningRate\(\)\]"):
        model.fit(np.ones((8, 4)), np.ones((8, 6)), verbose=0)
