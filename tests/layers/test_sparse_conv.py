"""A sparse convolution does what the dense layer does that has zeros."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from backends import NEEDS_TENSORFLOW
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from masks import array, run_python
from sparse_convs import (
    LINUX,
    NEEDS_LIBRARY,
    WITHOUT_WARNING,
    images,
    library_at,
    pruned,
)

from tfcompress import densify
from tfcompress.layers import MaskedLayer, SparseConv2D

pytestmark = [NEEDS_TENSORFLOW, WITHOUT_WARNING]


@dataclass(frozen=True)
class Case:
    """A pruned Conv2D or, without a window, a Dense."""

    shape: tuple[int, ...]
    filters: int
    window: dict
    options: dict
    sparsity: float
    seed: int

    def dense(self) -> keras.layers.Layer:
        kind = layers.Conv2D if self.window else layers.Dense
        layer = kind(self.filters, **self.window, **self.options)
        return pruned(layer, self.shape, self.sparsity, self.seed)


@st.composite
def cases(draw) -> Case:
    size = st.integers(1, 3)
    groups, pair = draw(size), st.tuples(size, size)
    options = {
        "activation": draw(st.sampled_from([None, "relu", "relu6", "tanh", "softmax"])),
        "use_bias": draw(st.booleans()),
    }
    rest = options, draw(st.sampled_from([0.3, 0.8, 1.0])), draw(st.integers(0, 99))
    if draw(st.integers(0, 4)) == 0:
        return Case(tuple(draw(st.lists(size, min_size=2, max_size=4))), draw(size), {}, *rest)
    window = {
        "kernel_size": draw(pair),
        "padding": draw(st.sampled_from(["same", "valid"])),
        "groups": groups,
        draw(st.sampled_from(["strides", "dilation_rate"])): draw(pair),
    }
    shape = (draw(size), draw(st.integers(7, 12)), draw(st.integers(7, 20)), groups * draw(size))
    return Case(shape, groups * draw(size), window, *rest)


def gradients(layer, x) -> list[np.ndarray]:
    """The output; and gradients of a sum by the input, the kernel or what is left of it, and the bias."""
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        made = layer(x)
        loss = tf.reduce_sum(tf.cast(made, "float32") * images(made.shape, 2))
    return [array(made), *map(array, tape.gradient(loss, [x, *layer.trainable_variables]))]


@settings(max_examples=15)
@given(cases())
def test_sparse_layer_equals_dense_layer_in_outputs_and_gradients(case):
    dense = case.dense()
    sparse, x = SparseConv2D.from_conv(dense), images(case.shape)
    assert sparse.compute_output_shape(case.shape) == sparse(x).shape
    expected, made = gradients(dense, x), gradients(sparse, x)
    expected[2] = expected[2].ravel()[array(sparse.indices)]
    for a, b in zip(expected, made, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * max(1, np.abs(a).max(initial=0)))


@settings(max_examples=8)
@given(cases())
def test_way_to_sparse_and_back_changes_nothing(case):
    dense = case.dense()
    back = SparseConv2D.from_conv(dense).to_conv()
    assert type(back) is type(dense) and back.get_config().keys() == dense.get_config().keys()
    for weight, value in zip(back.get_weights(), dense.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, value)


def test_activation_that_is_a_layer_is_applied():
    dense = pruned(layers.Conv2D(4, 3, activation=layers.LeakyReLU(0.1)), (None, 8, 8, 3))
    x = images((2, 8, 8, 3))
    np.testing.assert_allclose(SparseConv2D.from_conv(dense)(x), dense(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("policy", "dtype"), [("mixed_float16", "float16"), ("mixed_bfloat16", "bfloat16")])
def test_layer_computes_in_float32_and_returns_what_the_policy_says(policy, dtype):
    single = pruned(layers.Conv2D(4, 3, activation="relu"), (None, 8, 8, 3))
    dense = pruned(layers.Conv2D(4, 3, activation="relu", dtype=policy), (None, 8, 8, 3))
    sparse, x = SparseConv2D.from_conv(dense), keras.ops.cast(images((2, 8, 8, 3)), dtype)
    assert sparse.values.dtype == dense.kernel.dtype == "float32"
    made, exact = sparse(x), keras.ops.cast(single(keras.ops.cast(x, "float32")), dtype)
    assert keras.backend.standardize_dtype(made.dtype) == dtype
    np.testing.assert_allclose(*(array(keras.ops.cast(y, "float32")) for y in (made, exact)), rtol=0.01)


def test_trainable_flags_are_kept():
    dense = pruned(layers.Conv2D(4, 3), (None, 8, 8, 3))
    dense.bias.trainable = False
    assert [weight.name for weight in SparseConv2D.from_conv(dense).trainable_weights] == ["values"]
    dense.trainable = False
    sparse = SparseConv2D.from_conv(dense)
    assert not sparse.trainable_weights and not sparse.to_conv().trainable


def network() -> keras.Model:
    """Convolutions with zeros, and a Dense."""
    x = i = keras.Input((8, 8, 3))
    for sizes, options in [((8, 3), {"activation": "relu", "name": "first"}), ((4, 3), {"name": "second"})]:
        conv = pruned(layers.Conv2D(*sizes, **options), x.shape, 0.7)
        x = SparseConv2D.from_conv(conv)(x)
    x = layers.Flatten()(x)
    return keras.Model(i, SparseConv2D.from_conv(pruned(layers.Dense(2, name="head"), x.shape))(x))


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_training_lowers_the_loss_and_moves_only_what_is_not_zero(run_eagerly):
    model = network()
    places = [array(layer.indices) for layer in model.layers if isinstance(layer, SparseConv2D)]
    before = [array(weight) for weight in model.trainable_weights]
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=run_eagerly)
    x, y = images((10, 8, 8, 3)), images((10, 2), 2)  # the last batch is a smaller one
    losses = model.fit(x, y, batch_size=4, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    after = [array(layer.indices) for layer in model.layers if isinstance(layer, SparseConv2D)]
    for a, b in zip(places, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all((a != array(b)).any() for a, b in zip(before, model.trainable_weights, strict=True))
    np.testing.assert_allclose(model(x), densify(model)(x), rtol=1e-4, atol=1e-5)


def test_training_is_that_of_the_dense_model_whose_zeros_are_kept():
    x, y, trained = images((6, 8, 8, 3)), images((6, 6, 6, 4), 2), []
    dense = pruned(layers.Conv2D(4, 3), (None, 8, 8, 3))
    for layer in (SparseConv2D.from_conv(dense), dense):
        model = keras.Sequential([keras.Input((8, 8, 3)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.train_on_batch(x, y)
        trained.append(layer)
    back, kernel = trained[0].to_conv().kernel, array(dense.kernel)
    np.testing.assert_allclose(array(back), np.where(array(back) != 0, kernel, 0), rtol=1e-4, atol=1e-6)


def test_keras_leaves_xla_off_and_says_so_where_it_was_insisted_on():
    model = network()
    model.compile("sgd", "mse")
    assert not model.jit_compile
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile("sgd", "mse", jit_compile=True)
    model.train_on_batch(images((2, 8, 8, 3)), images((2, 2), 2))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_model_works_in_a_function_that_is_compiled(jit_compile):
    import tensorflow as tf

    model, x = network(), images((2, 8, 8, 3))
    np.testing.assert_allclose(tf.function(model, jit_compile=jit_compile)(x), model(x), rtol=1e-4, atol=1e-5)


def test_weights_that_are_set_are_used():
    model, x = network(), images((2, 8, 8, 3))
    model.predict(x, verbose=0)
    for weight in model.trainable_weights:
        weight.assign(array(weight) * 2)
    np.testing.assert_allclose(model.predict(x, verbose=0), densify(model)(x), rtol=1e-4, atol=1e-5)


def test_maps_of_any_size_are_taken():
    dense = pruned(layers.Conv2D(4, 3, strides=2, padding="same"), (None, None, None, 3))
    x = keras.Input((None, None, 3))
    model = keras.Model(x, SparseConv2D.from_conv(dense)(x))
    for size in (5, 8, 5):
        x = images((1, size, size + 2, 3))
        np.testing.assert_allclose(model.predict(x, verbose=0), dense(x), rtol=1e-4, atol=1e-5)


# Saving


@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
def test_layer_survives_saving(file, tmp_path):
    before, x = network(), images((2, 8, 8, 3))
    if file == "model.keras":
        before.save(tmp_path / file)
        after = keras.saving.load_model(tmp_path / file)
    else:
        before.save_weights(tmp_path / file)
        after = keras.models.clone_model(before)  # with other places
        after.load_weights(tmp_path / file)
    np.testing.assert_array_equal(array(after(x)), array(before(x)))
    assert after.get_layer("first").get_config() == before.get_layer("first").get_config()


RELOADED = """
import pathlib
import numpy as np
import tensorflow as tf
import tfcompress

tfcompress.ops.load_library()
model, tasks = tf.saved_model.load("model"), pathlib.Path("/proc/self/task")
tf.nn.conv2d(tf.ones((8, 32, 32, 3)), tf.ones((3, 3, 3, 8)), 1, "SAME")  # starts TensorFlow's own threads
before = len(list(tasks.iterdir()))
x = tf.constant(np.load("x.npy"))
with tf.GradientTape() as tape:
    tape.watch(x)
    made = model.serve(x)
np.savez("made.npz", made=made, gradient=tape.gradient(made, x))
print(len(list(tasks.iterdir())) - before)
"""


@NEEDS_LIBRARY
@LINUX
def test_saved_model_runs_in_a_fresh_process_with_the_threads_of_that(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    model, x = network(), images((8, 8, 8, 3))
    model.export(tmp_path / "model", verbose=False)
    np.save(tmp_path / "x.npy", x)
    assert int(run_python(RELOADED, tmp_path)) == 5 - 1
    made = np.load(tmp_path / "made.npz")
    expected = gradients_of_sum(model, x)
    for name, value in zip(("made", "gradient"), expected, strict=True):
        np.testing.assert_allclose(made[name], value, rtol=1e-4, atol=1e-5)


def gradients_of_sum(model, x) -> list[np.ndarray]:
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        made = model(x)
    return [array(made), array(tape.gradient(made, x))]


def test_saved_model_of_the_dense_convolutions_needs_no_library(tmp_path):
    import tensorflow as tf

    model, x = network(), images((2, 8, 8, 3))
    expected = array(model(x))
    with library_at(None):
        model.export(tmp_path / "model", verbose=False)
    assert b"Tfcompress" not in (tmp_path / "model" / "saved_model.pb").read_bytes()
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.serve(x), expected, rtol=1e-4, atol=1e-5)


# New layers


@settings(max_examples=8)
@given(st.integers(0, 36))
def test_new_layer_has_its_places_evenly_spaced(entries):
    layer = SparseConv2D(4, 3, entries=entries, groups=2)
    layer.build((None, 8, 8, 2))
    gaps = np.diff(array(layer.indices))
    assert layer.values.shape == layer.indices.shape == (entries,)
    assert not gaps.size or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_initializer_sees_the_full_kernel():
    layer = SparseConv2D(50, (), entries=100)
    layer.build((None, 100))
    limit = np.sqrt(6 / (100 + 50))
    assert 0.9 * limit < np.abs(array(layer.values)).max() <= limit


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be one number or two, or \\(\\) for a Dense"),
        ({"kernel_size": 0}, "kernel_size must be whole, 1 or more, got \\(0, 0\\)"),
        ({"filters": 1.5}, "filters must be whole, 1 or more, got 1.5"),
        ({"groups": 0}, "groups must be whole"),
        ({"groups": 3}, "groups=3 must divide filters=4"),
        ({"entries": -1}, "entries must be whole, 0 or more, got -1"),
        ({"strides": (1, 2, 3)}, "strides must be 2 whole numbers"),
        ({"strides": 2, "dilation_rate": 2}, "do not go with dilation_rate"),
        ({"padding": "causal"}, "Unknown padding 'causal'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SparseConv2D(**{"filters": 4, "kernel_size": 3, "entries": 5, **settings})


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((None, 8, 8, None), {}, "must divide the channels of its input"),
        ((None, 8, 8, 3), {"groups": 2}, "has 2 groups, which must divide the channels"),
        ((None, 8, 8, 1), {"entries": 99}, "was to have 99 entries, .* has room for 36"),
        ((None, 8, 2, 1), {}, "span 3 pixels do not fit into a map of 2"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shape, settings, message):
    with pytest.raises(ValueError, match=message):
        SparseConv2D(4, 3, **{"entries": 5, **settings}).build(shape)


def with_nan() -> keras.layers.Layer:
    layer = pruned(layers.Dense(3), (None, 4))
    layer.bias.assign([0.0, np.nan, 0.0])
    return layer


def with_lora() -> keras.layers.Layer:
    layer = pruned(layers.Dense(3), (None, 4))
    layer.enable_lora(2)
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "conv", "not a Conv2D or Dense, but str"),
        (lambda: layers.DepthwiseConv2D(3), "not a Conv2D or Dense, but DepthwiseConv2D"),
        (lambda: MaskedLayer(layers.Conv2D(3, 3)), "not a Conv2D or Dense, but MaskedLayer"),
        (lambda: layers.Conv2D(3, 3), "not built"),
        (lambda: pruned(layers.Conv2D(3, 3, data_format="channels_first"), (1, 2, 8, 8)), "channels_first"),
        (lambda: pruned(layers.Dense(3, dtype="float64"), (None, 4)), "float64"),
        (with_nan, "infinite or not a number"),
        (with_lora, "has LoRA"),
    ],
)
def test_layers_that_cannot_become_sparse_are_refused(make, message):
    with pytest.raises(ValueError, match=f"cannot become a SparseConv2D: .*{message}"):
        SparseConv2D.from_conv(make())


def test_weights_that_stop_being_finite_are_an_error():
    import tensorflow as tf

    model = network()
    model.get_layer("first").values.assign(np.full(model.get_layer("first").entries, np.nan))
    with pytest.raises(tf.errors.InvalidArgumentError, match="infinite or not a number"):
        model.predict(images((2, 8, 8, 3)), verbose=0)


def test_layer_that_is_not_built_has_no_way_back():
    with pytest.raises(ValueError, match="not built, so it has no weights"):
        SparseConv2D(4, 3, entries=5).to_conv()


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="Keras runs on jax. Set the environment variable KERAS_BACKEND"):
        SparseConv2D(4, 3, entries=5)


def test_model_without_sparse_layers_has_nothing_to_densify():
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="has no SparseConv2D, so there is nothing to densify"):
        densify(keras.Model(x, layers.Dense(2)(x)))
