"""Group lasso: values and gradients by hand, and its way into a model."""

import hypothesis.extra.numpy as arrays
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops
from surgery import inputs_for, outputs_of, relative_error

from tfcompress import regularizers
from tfcompress.pruning import attach
from tfcompress.regularizers import GroupLasso, Sum

KINDS = ("filters", "channels", "shapes", "depth")
SHAPES = arrays.array_shapes(min_dims=2, max_dims=4, max_side=4)
KERNELS = SHAPES.flatmap(
    lambda shape: arrays.arrays(
        "float32", shape, elements=st.floats(-4, 4, width=16).map(lambda x: round(x, 2))
    )
)


def groups_of(kernel: np.ndarray, kind: str) -> list[np.ndarray]:
    """The groups of a kernel (taps..., channels, outputs), one by one."""
    *_, channels, outputs = kernel.shape
    flat = kernel.reshape(-1, channels, outputs)
    return {
        "filters": [flat[:, :, n] for n in range(outputs)],
        "channels": [flat[:, c] for c in range(channels)],
        "shapes": [flat[t, c] for t in range(len(flat)) for c in range(channels)],
        "depth": [flat],
    }[kind]


def gradient(penalty, kernel: np.ndarray) -> np.ndarray:
    """By the backend."""
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(penalty)(jax.numpy.asarray(kernel)))
    import tensorflow as tf

    weights = tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        value = penalty(weights)
    return tape.gradient(value, weights).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaling", [None, "sqrt"])
@given(kernel=KERNELS)
def test_value_is_the_sum_of_the_norms_of_the_groups(kind, scaling, kernel):
    groups = groups_of(kernel, kind)
    scale = np.sqrt(groups[0].size) if scaling else 1
    expected = 0.5 * scale * sum(np.linalg.norm(group) for group in groups)
    got = GroupLasso(kind, 0.5, size_scaling=scaling)(kernel)
    np.testing.assert_allclose(float(got), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@given(kernel=KERNELS)
def test_gradient_of_a_group_is_strength_times_its_direction_and_zero_at_zero(kind, kernel):
    expected = np.zeros_like(kernel)
    for into, group in zip(groups_of(expected, kind), groups_of(kernel, kind), strict=True):
        if group.any():
            into[...] = 0.25 * group / np.linalg.norm(group)
    # groups_of gives views, so `expected` has been filled in
    np.testing.assert_allclose(gradient(GroupLasso(kind, 0.25), kernel), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("magnitude", [1e-15, 1e-6, 1e6, 1e15])
def test_no_epsilon_shows_in_the_gradient_of_small_or_big_groups(magnitude):
    kernel = np.full((1, 4, 1), magnitude, "float32")
    np.testing.assert_allclose(gradient(GroupLasso("filters", 1.0), kernel), 0.5, rtol=1e-6)


@given(kernel=KERNELS, seed=st.integers(0, 99))
def test_permutation_of_filters_and_channels_leaves_the_penalty_unchanged(kernel, seed):
    rng = np.random.default_rng(seed)
    other = rng.permutation(rng.permutation(kernel, axis=-1), axis=-2)
    for kind in KINDS:
        lasso = GroupLasso(kind, 1.0)
        np.testing.assert_allclose(float(lasso(kernel)), float(lasso(other)), rtol=1e-5, atol=1e-6)


def test_columns_of_a_grouped_convolution_are_formed_per_group():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 6)).astype("float32")
    for kind in ("shapes", "channels"):
        whole = GroupLasso(kind, 1.0, conv_groups=3)
        parts = [GroupLasso(kind, 1.0)(part) for part in np.split(kernel, 3, axis=-1)]
        np.testing.assert_allclose(float(whole(kernel)), float(sum(parts)), rtol=1e-6)
    assert GroupLasso("shapes", conv_groups=3).norms(kernel).shape == (3 * 9 * 2,)
    assert GroupLasso("shapes").norms(kernel).shape == (9 * 2,)
    for kind in ("filters", "depth"):
        np.testing.assert_allclose(
            float(GroupLasso(kind, conv_groups=3)(kernel)), float(GroupLasso(kind)(kernel)), rtol=1e-6
        )


def test_layout_says_which_axes_are_grouped():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype("float32")
    swapped = np.swapaxes(kernel, -1, -2)  # as in a transposed convolution
    for kind in KINDS:
        transposed = GroupLasso(kind, 1.0, outputs=-2, channels=-1)
        np.testing.assert_allclose(
            float(transposed(swapped)), float(GroupLasso(kind, 1.0)(kernel)), rtol=1e-6
        )
    depthwise = GroupLasso("filters", 1.0, outputs=(-2, -1), channels=())
    assert depthwise.norms(kernel).shape == (24,)
    np.testing.assert_allclose(
        float(depthwise(kernel)), np.linalg.norm(kernel.reshape(9, 24), axis=0).sum(), 1e-5
    )


@given(kernel=KERNELS, step=st.floats(0.01, 2))
def test_proximal_step_zeroes_a_group_if_and_only_if_its_norm_is_small(kernel, step):
    for kind in KINDS:
        lasso = GroupLasso(kind, 1.5)
        after = ops.convert_to_numpy(lasso.proximal(kernel, step))
        for before, group in zip(groups_of(kernel, kind), groups_of(after, kind), strict=True):
            norm = np.linalg.norm(before)
            if abs(norm - 1.5 * step) > 1e-4:  # on the edge rounding decides
                assert group.any() == (norm > 1.5 * step)
            shrunk = before * max(0, 1 - 1.5 * step / norm) if norm else before
            np.testing.assert_allclose(group, shrunk, rtol=1e-3, atol=1e-5)


def test_masks_and_zeroed_groups_agree():
    kernel = np.zeros((3, 3, 4, 6), "float32")
    kernel[0, 0, 1, :3] = 1e-3
    lasso = GroupLasso("shapes", conv_groups=2)
    assert lasso.zeroed(kernel).sum() == 2 * 36 - 1
    assert lasso.zeroed(kernel, threshold=1e-2).all()
    mask = np.zeros(kernel.shape, bool)
    mask[0, 0, 1, :3] = True
    assert (lasso.mask(kernel) == mask).all()


BLOCKED = st.tuples(*[st.integers(1, 3)] * 5).flatmap(
    lambda sizes: st.tuples(
        arrays.arrays(
            "float32",
            (sizes[0], sizes[1] * sizes[2], sizes[3] * sizes[4]),
            elements=st.floats(-4, 4, width=16).map(lambda x: round(x, 2)),
        ),
        st.just((sizes[4], sizes[2])),
    )
)


def blocks_of(kernel: np.ndarray, block: tuple[int, int]) -> list[np.ndarray]:
    """Views of the blocks of (outputs, inputs) of a kernel (taps, channels, outputs)."""
    rows, columns = block
    taps, channels, outputs = kernel.shape
    return [
        kernel[t, c : c + columns, n : n + rows]
        for t in range(taps)
        for c in range(0, channels, columns)
        for n in range(0, outputs, rows)
    ]


@given(case=BLOCKED, step=st.floats(0.01, 2))
def test_blocks_are_groups(case, step):
    kernel, block = case
    lasso = GroupLasso("blocks", 0.5, block=block)
    norms = [np.linalg.norm(part) for part in blocks_of(kernel, block)]
    np.testing.assert_allclose(float(lasso(kernel)), 0.5 * sum(norms), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.sort(lasso.norms(kernel)), np.sort(norms), rtol=1e-5, atol=1e-6)
    after = ops.convert_to_numpy(lasso.proximal(kernel, step))
    for part, norm in zip(blocks_of(after, block), norms, strict=True):
        if abs(norm - 0.5 * step) > 1e-4:
            assert part.any() == (norm > 0.5 * step)
    mask = lasso.mask(kernel)
    assert all(part.all() == (norm > 0) for part, norm in zip(blocks_of(mask, block), norms, strict=True))


def test_blocks_of_a_grouped_convolution_are_of_one_group():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 12)).astype("float32")
    whole = GroupLasso("blocks", 1.0, conv_groups=3, block=(2, 4))
    parts = [GroupLasso("blocks", 1.0, block=(2, 4))(part) for part in np.split(kernel, 3, axis=-1)]
    np.testing.assert_allclose(float(whole(kernel)), float(sum(parts)), rtol=1e-6)
    with pytest.raises(ValueError, match="Blocks of .8, 4. .outputs, inputs. in 3 conv.* do not divide 12"):
        GroupLasso("blocks", conv_groups=3, block=(8, 4))(kernel)


# ------------------------------------------------------------------ Keras


@pytest.mark.parametrize(
    "penalty",
    [
        GroupLasso("blocks", 0.02, block=(3, 2)),
        GroupLasso("shapes", 0.02, size_scaling="sqrt", outputs=-2, channels=-1),
        Sum([GroupLasso("filters", 0.02), keras.regularizers.L2(0.1)]),
    ],
)
def test_penalties_survive_saving(penalty, tmp_path):
    model = keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(3, 3, kernel_regularizer=penalty)])
    regularizers.lassos(penalty)[0].strength = 0.3
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    found = again.layers[0].kernel_regularizer
    assert found.get_config() == penalty.get_config() and regularizers.lassos(found)[0].strength == 0.3
    np.testing.assert_allclose(float(sum(again.losses)), float(sum(model.losses)), rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere the step is compiled anew")
def test_strength_counts_from_the_next_step_without_compiling_anew():
    lasso = GroupLasso("filters", 0.0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, use_bias=False, kernel_regularizer=lasso)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    nothing = np.zeros((2, 3)), np.zeros((2, 2))
    before = model.get_weights()[0]
    model.train_on_batch(*nothing)
    assert (model.get_weights()[0] == before).all()
    step = model.train_function
    lasso.strength = 0.5
    model.train_on_batch(*nothing)
    assert model.train_function is step
    expected = before - 0.1 * 0.5 * before / np.linalg.norm(before, axis=0)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupLasso("filter"), "Did you mean 'filters'"),
        (lambda: GroupLasso("filters", -1.0), "strength must be a number of at least 0, got -1.0"),
        (lambda: GroupLasso("filters", float("nan")), "got nan"),
        (lambda: GroupLasso("filters", "big"), "got 'big'"),
        (lambda: GroupLasso(size_scaling="size"), "Available: None, sqrt"),
        (lambda: GroupLasso(conv_groups=0), "must be 1 or more"),
        (lambda: GroupLasso(conv_groups=2, outputs=(-2, -1), channels=()), "one axis runs over the outputs"),
        (lambda: GroupLasso("blocks"), "needs block=.outputs, inputs., such as .16, 4., got None"),
        (lambda: GroupLasso("blocks", block=(16, 0)), "got .16, 0."),
        (lambda: GroupLasso("filters", block=(16, 4)), "goes with groups='blocks', not with 'filters'"),
        (lambda: GroupLasso("blocks", block=(2, 4))(np.zeros((3, 2))), "do not divide 3 channels"),
        (
            lambda: GroupLasso("blocks", block=(2, 1), outputs=(-2, -1), channels=())(np.zeros((2, 2))),
            "Blocks need one axis of outputs",
        ),
        (lambda: GroupLasso()(np.zeros(3)), "A kernel of 1 axes"),
        (lambda: GroupLasso(outputs=-2)(np.zeros((3, 3))), "Say which axes"),
        (lambda: GroupLasso(conv_groups=2)(np.zeros((3, 3))), "do not divide 3 outputs"),
        (lambda: GroupLasso("channels", outputs=(-2, -1), channels=())(np.zeros((3, 3))), "groups='filters'"),
        (lambda: setattr(GroupLasso(), "strength", float("inf")), "got inf"),
        (lambda: Sum([]), "Expected a list of regularizers"),
        (lambda: Sum(["l2"]), "Expected a list of regularizers"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ------------------------------------------------------------------ attach


def network() -> keras.Model:
    x = i = keras.Input((8, 8, 4))
    x = layers.Conv2D(
        6, 3, groups=2, padding="same", kernel_regularizer=keras.regularizers.L2(0.1), name="grouped"
    )(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(layers.BatchNormalization(name="norm")(x))
    y = layers.Conv2DTranspose(6, 3, padding="same", name="transposed")(y)
    x = layers.Add(name="add")([x, y])
    x = layers.SeparableConv2D(5, 3, name="separable")(x)
    model = keras.Model(i, layers.Dense(2, name="head")(layers.Flatten()(x)))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def test_attached_penalty_has_the_layout_of_each_kernel_and_is_added_to_what_was_there():
    model = network()
    new = attach(model, GroupLasso("filters", 0.1), exclude="head")
    kernels = {layer.name: layer.get_weights() for layer in model.layers}
    l2 = 0.1 * np.square(kernels["grouped"][0]).sum()
    by_axis = [
        np.linalg.norm(kernels["grouped"][0].reshape(-1, 6), axis=0).sum(),
        np.linalg.norm(kernels["depthwise"][0].reshape(9, 6), axis=0).sum(),
        np.linalg.norm(np.moveaxis(kernels["transposed"][0], 2, 0).reshape(6, -1), axis=1).sum(),
        np.linalg.norm(kernels["separable"][0].reshape(9, 6), axis=0).sum(),
        np.linalg.norm(kernels["separable"][1].reshape(-1, 5), axis=0).sum(),
    ]
    np.testing.assert_allclose(float(sum(new.losses)), l2 + 0.1 * sum(by_axis), rtol=1e-5)
    assert new.attached.kernels["separable"] == ("depthwise_kernel", "pointwise_kernel")
    assert new.attached.untouched == {"norm": "no kernel with a regularizer", "head": "excluded"}
    assert len(model.losses) == 1, "the input was changed"
    inputs = inputs_for(model)
    assert relative_error(outputs_of(model, inputs), outputs_of(new, inputs)) == 0


def test_attached_columns_are_those_of_the_convolution_groups():
    new = attach(network(), GroupLasso("shapes", 0.1), include=["grouped", "transposed"])
    first, second = (
        regularizers.lassos(new.get_layer(n).kernel.regularizer)[0] for n in ("grouped", "transposed")
    )
    assert first.conv_groups == 2 and len(first.norms(new.get_layer("grouped").kernel)) == 2 * 9 * 2
    assert second.outputs == (2,) or second.outputs == (-2,)


def test_training_state_survives_attaching():
    model = network()
    model.fit(np.ones((4, 8, 8, 4)), np.ones((4, 2)), verbose=0)
    new = attach(model, GroupLasso("filters"))
    assert int(new.optimizer.iterations) == 1
    for a, b in zip(model.optimizer.variables, new.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_strengths_of_kernels_are_their_own():
    lasso = GroupLasso("filters", 0.1)
    new = attach(network(), lasso)
    regularizers.lassos(new.get_layer("grouped").kernel.regularizer)[0].strength = 0.7
    others = [n for n in new.attached.kernels if n not in ("grouped", "separable")]
    assert all(
        regularizers.lassos(new.get_layer(n).weights[0].regularizer)[0].strength == 0.1 for n in others
    )
    assert lasso.strength == 0.1


def test_depth_goes_only_where_a_shortcut_leads_around():
    new = attach(network(), GroupLasso("depth", 0.1))
    assert set(new.attached.kernels) == {"depthwise", "transposed"}
    assert "no shortcut" in new.attached.untouched["head"]


def test_layers_inside_nested_models_and_wrappers_are_reached():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="inside")], name="inner")
    i = keras.Input((3, 4))
    x = layers.Bidirectional(layers.LSTM(2, name="lstm"), name="both")(
        layers.TimeDistributed(inner, name="steps")(i)
    )
    new = attach(keras.Model(i, x), GroupLasso("channels", 0.1))
    assert "steps/inner/inside" in new.attached.kernels
    assert new.attached.kernels["both/forward_lstm"] == ("kernel", "recurrent_kernel")
    assert len(new.losses) == 5


def test_filters_that_are_the_outputs_of_the_model_are_left_alone():
    new = attach(network(), regularizers.Sum([GroupLasso("filters"), GroupLasso("shapes")]))
    assert new.attached.untouched["head"] == "its filters are the model's outputs"
    assert "head" in attach(network(), GroupLasso("shapes")).attached.kernels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"addition": GroupLasso(), "include": "groupd"}, "Did you mean 'grouped'"),
        ({"addition": GroupLasso(), "exclude": ".*"}, "None is included"),
        ({"addition": "l2"}, "Expected a keras.regularizers.Regularizer"),
        ({"addition": GroupLasso("depth"), "include": "head"}, "head: no shortcut leads around it"),
        ({"addition": GroupLasso("channels"), "include": "depthwise"}, "depthwise: .*groups='filters'"),
    ],
)
def test_what_cannot_be_attached_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        attach(network(), **arguments)


def test_depth_on_a_net_without_shortcut_is_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")])
    with pytest.raises(ValueError, match="a, b: no shortcut leads around it"):
        attach(model, GroupLasso("depth"))


def test_group_lasso_with_sgd_and_threshold_empties_channels_that_do_not_matter():
    """Two of four inputs carry the answer; what reads the others vanishes."""
    from tfcompress.constraints import Threshold

    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    first = layers.Dense(8, kernel_regularizer=GroupLasso("channels", 0.1), kernel_constraint=Threshold(1e-2))
    model = keras.Sequential([keras.Input((4,)), first, layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.fit(x, x[:, :1] - x[:, 1:2], epochs=400, batch_size=64, verbose=0)
    assert GroupLasso("channels").zeroed(first.kernel).tolist() == [False, False, True, True]
