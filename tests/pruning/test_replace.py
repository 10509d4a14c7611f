"""Designs that stand in for convolutions: equal at full rank, nearest below, fitted, distilled from."""

import keras
import numpy as np
import pytest
from backends import NEEDS_TENSORFLOW
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from masks import array
from surgery import check_exact, inputs_for, outputs_of, randomize, relative_error

import tfcompress
from tfcompress import distillation, export, reconstruct, replace
from tfcompress.pruning.low_rank import Factors

CONVOLUTIONS = {  # -> layer of 12 filters, shape of the input
    "conv1d": (lambda **k: layers.Conv1D(12, 3, strides=2, padding="same", **k), (9, 8)),
    "causal": (lambda **k: layers.Conv1D(12, 3, padding="causal", dilation_rate=2, **k), (9, 8)),
    "conv2d": (lambda **k: layers.Conv2D(12, 3, padding="same", **k), (8, 7, 8)),
    "valid": (lambda **k: layers.Conv2D(12, (2, 3), **k), (8, 7, 8)),
    "strided": (lambda **k: layers.Conv2D(12, 5, strides=2, padding="same", **k), (8, 9, 8)),
    "dilated": (lambda **k: layers.Conv2D(12, 3, dilation_rate=2, padding="same", **k), (8, 9, 8)),
    "uneven": (lambda **k: layers.Conv2D(12, 3, strides=(1, 2), padding="same", **k), (8, 9, 8)),
    "grouped": (lambda **k: layers.Conv2D(12, 3, groups=2, padding="same", **k), (8, 9, 8)),
}


def one_layer(kind: str, seed: int = 0, **arguments) -> keras.Model:
    make, shape = CONVOLUTIONS[kind]
    x = keras.Input(shape)
    return randomize(keras.Model(x, make(name="conv", **arguments)(x)), seed)


def low_rank(model: keras.Model, groups: int, rank: int, seed: int = 0) -> keras.Model:
    """The model with a kernel that a convolution of so many groups and filters for each has exactly."""
    conv, rng = model.get_layer("conv"), np.random.default_rng(seed)
    factors = Factors.of(rng.normal(size=conv.kernel.shape), groups, conv.groups)
    first, last = factors.kernels(rank)
    conv.kernel.assign(product(first, last, conv.kernel.shape, groups, conv.groups))
    return model


def product(first, last, shape, groups, own):
    """The kernel of two convolutions behind each other, loop by loop."""
    kernel, rank = np.zeros(shape), first.shape[-1] // groups
    channels = shape[-2] * own
    for filter_ in range(shape[-1]):
        group = filter_ // (shape[-1] // own)
        for channel in range(group * shape[-2], (group + 1) * shape[-2]):
            part = channel // (channels // groups)
            for number in range(rank):
                middle = part * rank + number
                weight = last.reshape(-1, shape[-1])[middle - group * (groups // own) * rank, filter_]
                taps = first[..., channel % (channels // groups), middle]
                kernel[..., channel - group * shape[-2], filter_] += weight * taps
    return kernel


def same_outputs(model, small, tolerance=1e-4):
    inputs = inputs_for(model)
    assert relative_error(outputs_of(model, inputs), outputs_of(small, inputs)) <= tolerance


@given(
    window=st.sampled_from([(3,), (2, 3)]),
    own=st.sampled_from([1, 2]),
    each=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_factors_are_the_nearest_of_their_rank(window, own, each, seed):
    kernel = np.random.default_rng(seed).normal(size=(*window, 4, 6))
    groups = own * each
    factors = Factors.of(kernel, groups, own)
    losses = []
    for rank in range(1, factors.rank + 1):
        first, last = factors.kernels(rank)
        assert first.shape == (*window, 4 // each, groups * rank)
        error = np.sum((product(first, last, kernel.shape, groups, own) - kernel) ** 2) / np.sum(kernel**2)
        np.testing.assert_allclose(factors.lost(rank), error, atol=1e-12)
        losses.append(error)
    assert losses == sorted(losses, reverse=True) and losses[-1] < 1e-12
    for share in (0.3, 0.9):
        rank = factors.rank_for(share)
        assert 1 - losses[rank - 1] >= share and (rank == 1 or 1 - losses[rank - 2] < share)


def test_no_other_matrix_of_that_rank_is_nearer():
    """Against alternating least squares from random beginnings, which knows nothing of singular values."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 1, 8))
    matrix, found = kernel.reshape(9, 8), Factors.of(kernel, 1).lost(2)
    for _ in range(3):
        right = rng.normal(size=(2, 8))
        for _ in range(200):
            left = np.linalg.lstsq(right.T, matrix.T, rcond=None)[0].T
            right = np.linalg.lstsq(left, matrix, rcond=None)[0]
        assert np.sum((left @ right - matrix) ** 2) / np.sum(matrix**2) >= found - 1e-9


@pytest.mark.parametrize("by", ["separable", "grouped"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_kernels_of_low_rank_are_replaced_exactly(kind, by):
    model = one_layer(kind, activation="tanh", use_bias=kind != "valid")
    groups, arguments = (8, {"rank": 2}) if by == "separable" else (4, {"groups": 4, "rank": 2})
    small = replace(low_rank(model, groups, 2), by, **arguments)
    if by == "separable" and kind in ("causal", "uneven"):
        assert small.redesigned.untouched["conv"].endswith("take 'grouped'")
        return
    assert small.redesigned.lost["conv"] < 1e-9 and small.count_params() < model.count_params()
    same_outputs(model, small)
    first = small.layers[1]
    assert [layer.name for layer in small.layers[1:]] == [first.name, "conv"]
    assert isinstance(first, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)) == (by == "separable")


def test_channels_first():
    x = keras.Input((8, 9, 10))
    conv = layers.Conv2D(12, 3, padding="same", data_format="channels_first", name="conv")
    model = low_rank(keras.Model(x, conv(x)), 8, 1)
    same_outputs(model, replace(model))
    fire = replace(model, "fire")
    assert fire.output_shape == model.output_shape


def network(sequential: bool = False) -> keras.Model:
    """A stem, a shared convolution, a nested one, one of another kind, and a head."""
    keras.utils.set_random_seed(1)
    i = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(i)
    shared = layers.Conv2D(16, 3, padding="same", use_bias=False, name="shared")
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(shared(x)))
    x = layers.Add()([x, shared(x)])
    j = keras.Input((12, 12, 16))
    inside = layers.Conv2D(
        24, 3, strides=2, padding="same", activation="relu", name="inside", kernel_regularizer="l2"
    )
    x = keras.Model(j, inside(j), name="body")(x)
    x = layers.Conv2D(16, 1, name="point")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomize(keras.Model(i, layers.Dense(5, name="head")(x)))


def test_shared_and_nested_convolutions_and_why_others_stay():
    model = network()
    small = replace(model, exclude="stem", rank=2)
    assert set(small.redesigned.layers) == {"shared", "body/inside"}
    assert small.redesigned.untouched == {
        "stem": "excluded",
        "point": "it looks at one position",
        "head": "no convolution over one or two axes, but Dense",
    }
    assert small.redesigned.outputs["body/inside"][0] == "body/inside"
    assert len(small.losses) == 2  # the regularizer of `inside` holds for both of its kernels
    before, after = small.redesigned.layers["shared"]
    assert (before, after) == (9 * 16 * 16, 2 * 9 * 16 + 2 * 16 * 16)
    assert small.count_params() < model.count_params()
    whole = replace(model, rank=9)
    assert not whole.redesigned.layers and len(whole.weights) == len(model.weights)
    assert whole.redesigned.untouched["shared"] == "its kernel would get 3600 entries instead of 2304"
    found = replace(model).redesigned
    assert f"{found.lost['shared']:.0%}" in str(found)


def test_what_is_not_replaced_is_as_it_was():
    model = network()
    small = replace(model, "grouped", include="body/inside", groups=2)
    for name in ("stem", "shared", "norm", "point", "head"):
        for one, other in zip(
            model.get_layer(name).get_weights(), small.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    assert small.redesigned.untouched["stem"] == "excluded"


def test_a_sequential_model_stays_one_unless_there_are_branches():
    def made():
        return keras.Sequential(
            [keras.Input((8, 8, 16)), layers.Conv2D(16, 3, padding="same", name="a"), layers.ReLU(name="b")]
        )

    assert isinstance(replace(made()), keras.Sequential)
    assert [layer.name for layer in replace(made()).layers] == ["a_depthwise", "a", "b"]
    assert not isinstance(replace(made(), "fire"), keras.Sequential)


def test_names_that_are_taken_are_numbered():
    x = keras.Input((8, 8, 16))
    y = layers.Conv2D(16, 3, padding="same", name="a")(layers.ReLU(name="a_depthwise")(x))
    small = replace(keras.Model(x, y))
    assert [layer.name for layer in small.layers[1:]] == ["a_depthwise", "a_depthwise_1", "a"]


@pytest.mark.parametrize("kind", [kind for kind in CONVOLUTIONS if kind not in ("valid", "grouped")])
def test_a_fire_module_begins_with_the_kernel_it_replaces(kind):
    """Where its ReLU cuts nothing off, and the kernel has few ranks over channels, it equals it."""
    model = one_layer(kind)
    conv, rng = model.get_layer("conv"), np.random.default_rng(0)
    window, (channels, filters) = conv.kernel.shape[:-2], conv.kernel.shape[-2:]
    squeeze = np.abs(rng.normal(size=(channels, 1)))
    kernel = rng.normal(size=(*window, 1, filters)) * squeeze
    centre = tuple(size - 1 if kind == "causal" else (size - 1) // 2 for size in window)
    kept = kernel[centre][:, :6].copy()
    kernel[..., :6] = 0
    kernel[(*centre, slice(None), slice(6))] = kept
    conv.kernel.assign(kernel)
    small = replace(model, "fire")
    stretch = conv.strides[0] > 1 or conv.strides[-1] > 1
    inputs = [np.abs(array) for array in inputs_for(model)]
    expected, got = outputs_of(model, inputs)[0], outputs_of(small, inputs)[0]
    assert relative_error([expected[..., 6:]], [got[..., 6:]]) <= 1e-4
    if not stretch:  # strides of an even size begin beside the middle tap
        assert relative_error([expected[..., :6]], [got[..., :6]]) <= 1e-4
    size = "expand3" if set(window) == {3} else "expand5"
    assert [layer.name for layer in small.layers[1:]] == [
        "conv_squeeze",
        "conv_expand1",
        f"conv_{size}",
        "conv",
    ]
    assert small.get_layer("conv_squeeze").filters == round(12 / 8)
    assert small.redesigned.untouched == {} and np.isnan(small.redesigned.lost["conv"])
    assert "nan" not in str(small.redesigned)


@pytest.mark.parametrize("by", ["separable", "grouped", "fire"])
def test_new_models_are_pruned_and_saved(by, tmp_path):
    small = replace(network(), by, exclude="shared")
    assert check_exact(small).count_params() < small.count_params()
    small.save(tmp_path / "model.keras")
    same_outputs(small, keras.saving.load_model(tmp_path / "model.keras"), 1e-6)


@NEEDS_TENSORFLOW
@pytest.mark.parametrize("by", ["separable", "grouped", "fire"])
def test_new_models_are_exported(by, tmp_path):
    small = replace(network(), by, exclude="shared")
    assert export.tflite(small, tmp_path / "model.tflite").max_error < 1e-4


@pytest.mark.parametrize("by", ["separable", "grouped", "fire"])
def test_least_squares_bring_it_nearer(by):
    model = network()
    small = replace(model, by)
    images = np.random.default_rng(0).normal(size=(64, 12, 12, 3)).astype("float32")
    fitted = reconstruct(small, model, images)
    names = {"body/inside"} if by != "fire" else {"body/inside_expand1", "body/inside_expand3"}
    assert names <= set(fitted.reconstruction.errors)
    for before, after in fitted.reconstruction.errors.values():
        assert after <= before * (1 + 1e-6) + 1e-12
    assert fitted.redesigned == small.redesigned
    expected = model.predict(images, verbose=0)
    errors = [np.sum((m.predict(images, verbose=0) - expected) ** 2) for m in (small, fitted)]
    assert errors[1] < errors[0] / 2


def test_the_original_is_distilled_from():
    model = network()
    small = replace(model, rank=2)
    assert not small.compiled
    losses = [distillation.SoftTargets(2.0), distillation.Hints("point")]
    distiller = distillation.Distiller(model, small, losses, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.Adam(1e-3))
    images = np.random.default_rng(0).normal(size=(32, 12, 12, 3)).astype("float32")
    history = distiller.fit(images, epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def test_it_is_compiled_with_the_slots_of_what_stays():
    model = network()
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    images = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype("float32")
    model.fit(images, np.zeros((8, 5)), verbose=0)
    small = replace(model, include="body/inside")
    assert int(small.optimizer.iterations) == 1
    slots = {v.path: array(v) for v in small.optimizer.variables if "momentum" in v.path}
    carried = [path for path, value in slots.items() if np.any(value)]
    assert any("stem" in path for path in carried) and any("inside_bias" in path for path in carried)
    assert not any("depthwise" in path for path in carried)
    small.fit(images, np.zeros((8, 5)), verbose=0)


def test_masked_and_wrapped_layers_stay():
    model = tfcompress.wrap(network(), tfcompress.layers.MagnitudePruning(0.5), include="stem")
    small = replace(model)
    assert small.redesigned.untouched["stem/stem"] == "inside a wrapper"


@settings(max_examples=5)
@given(rank=st.floats(0.1, 0.95), groups=st.sampled_from([1, 2, 4, 8]))
def test_a_share_of_squares_is_kept(rank, groups):
    model = network()
    small = replace(model, "grouped", groups=groups, rank=rank)
    for lost in small.redesigned.lost.values():
        assert lost <= 1 - rank + 1e-9
    same = replace(model, "grouped", groups=3)
    assert "do not divide" in same.redesigned.untouched["shared"]


@pytest.mark.parametrize(
    "by, arguments, message",
    [
        ("seperable", {}, "Did you mean 'separable'"),
        ("separable", {"rank": 0}, "rank must be"),
        ("separable", {"rank": 1.5}, "rank must be"),
        ("separable", {"rank": True}, "rank must be"),
        ("separable", {"groups": 2}, "takes"),
        ("grouped", {"groups": 0}, "groups must be"),
        ("grouped", {"groups": 2.0}, "groups must be"),
        ("fire", {"squeezed": 1}, "squeezed must be a number in"),
        ("fire", {"expanded": "half"}, "expanded must be a number in"),
        ("fire", {"include": "heads"}, "Did you mean 'head'"),
    ],
)
def test_bad_arguments(by, arguments, message):
    with pytest.raises(ValueError, match=message):
        replace(network(), by, **arguments)
