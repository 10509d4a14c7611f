"""Weights that share values train as one, whatever `fit` does, and become stock layers again."""

import contextlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from masks import (
    LOSS,
    StopAfter,
    array,
    arrays,
    assert_equal,
    data,
    fit,
    network,
    optimizer_state,
    run_python,
)
from surgery import outputs_of, randomize

from tfcompress import share, strip, wrap
from tfcompress.callbacks import UpdateMasks
from tfcompress.coding import kmeans
from tfcompress.layers import MagnitudePruning, SharedLayer

MODES = {
    "eager": {"run_eagerly": True},
    "jit_compile": {"jit_compile": True},
    "steps_per_execution": {"steps_per_execution": 3},
    "adamw": {"optimizer": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1)},
    "averaged": {"optimizer": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)},
    "accumulating": {"optimizer": lambda: keras.optimizers.SGD(0.01, gradient_accumulation_steps=2)},
}
LAYERS = {
    "dense": (lambda: layers.Dense(6), (5,)),
    "conv1d": (lambda: layers.Conv1D(6, 3, padding="causal"), (7, 4)),
    "grouped": (lambda: layers.Conv2D(6, 3, groups=2), (6, 6, 4)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3), (6, 6, 4)),
    "separable": (lambda: layers.SeparableConv2D(5, 3), (6, 6, 4)),
    "transpose": (lambda: layers.Conv2DTranspose(3, 3), (5, 5, 4)),
    "lstm": (lambda: layers.LSTM(4, return_sequences=True), (5, 3)),
    "bidirectional": (lambda: layers.Bidirectional(layers.GRU(3)), (5, 3)),
    "time_distributed": (lambda: layers.TimeDistributed(layers.Conv2D(3, 2)), (2, 4, 4, 3)),
    "attention": (lambda: layers.MultiHeadAttention(2, 3), (5, 4)),
}


def kernels(model) -> dict[str, np.ndarray]:
    return {weight.path: array(weight) for weight in model.weights if weight.path.endswith("kernel")}


def wrappers(model) -> list[SharedLayer]:
    return [layer for layer in model.layers if isinstance(layer, SharedLayer)]


def different(kernel: np.ndarray) -> int:
    """How many values there are beside zero."""
    return len(np.unique(kernel[kernel != 0]))


def sparse(seed=0, **options) -> keras.Model:
    """A network half of whose weights are zero."""
    model, rng = network(dropout=0, **options), np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith("kernel"):
            weight.assign(array(weight) * (rng.random(weight.shape) < 0.5))
    return model


@pytest.mark.parametrize("name", LAYERS)
def test_any_kernel_is_replaced_by_the_nearest_of_few_values(name):
    make, shape = LAYERS[name]
    x = keras.Input(shape)
    layer = make()
    model = randomize(keras.Model(x, layer(x, x) if name == "attention" else layer(x)))
    shared = share(model, 3)
    (wrapper,) = wrappers(shared)
    before, after = kernels(model), kernels(strip(shared))
    assert len(before) == len(after) > 0 or name in ("separable", "depthwise")
    for table in wrapper.shared:
        weights = array(table.weight)
        expected = kmeans.cluster(weights[weights != 0], 7)
        np.testing.assert_array_equal(table.value, expected[kmeans.nearest(weights, expected)])
    inputs = [np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")]
    np.testing.assert_allclose(outputs_of(shared, inputs)[0], outputs_of(strip(shared), inputs)[0], rtol=1e-6)


@settings(max_examples=5)
@given(bits=st.integers(1, 10), method=st.sampled_from(["linear", "density", "random", "exact"]))
def test_there_are_no_more_values_than_bits_tell_and_zeros_stay(bits, method):
    model = sparse()
    small = strip(share(model, bits, method=method))
    for path, kernel in kernels(model).items():
        made = kernels(small)[path]
        assert different(made) <= 2**bits - 1
        np.testing.assert_array_equal(made == 0, kernel == 0)
        if different(kernel) <= 2**bits - 1:
            np.testing.assert_array_equal(made, kernel)


def test_bits_are_those_of_the_paper_or_said_layer_by_layer():
    model = sparse()
    assert [wrapper.bits for wrapper in wrappers(share(model))] == [8, 8, 5]
    some = share(model, {"first": 4, "head": 2})
    assert [(wrapper.name, wrapper.bits) for wrapper in wrappers(some)] == [("first", 4), ("head", 2)]
    assert "second" in some.left_alone and "first" not in some.left_alone
    assert [wrapper.name for wrapper in wrappers(share(model, 3, exclude="head"))] == ["first", "second"]


@pytest.mark.parametrize("name", LAYERS)
def test_all_convolutions_have_the_bits_of_convolutions(name):
    make, shape = LAYERS[name]
    x = keras.Input(shape)
    layer = make()
    model = keras.Model(x, layer(x, x) if name == "attention" else layer(x))
    convolution = name not in {"dense", "lstm", "bidirectional", "attention"}
    assert wrappers(share(model))[0].bits == (8 if convolution else 5)


def test_a_step_moves_each_value_by_the_sum_of_the_derivatives_of_those_that_share_it():
    model = sparse()
    x, y = data()
    rate = 1e-3
    shared = share(model, 2)
    plain = strip(shared)
    for each in (shared, plain):
        each.compile(keras.optimizers.SGD(rate), model.loss)
    before = {path: kernel.copy() for path, kernel in kernels(plain).items()}
    plain.get_layer("second").kernel.regularizer = None  # that rests under shared values
    tables = {
        table.path: (array(table.codebook), array(table.codes))
        for w in wrappers(shared)
        for table in w.shared
    }
    for each in (shared, plain):
        each.fit(x, y, batch_size=len(x), verbose=0)
    assert len(tables) == 3
    for wrapper in wrappers(shared):
        for table in wrapper.shared:
            values, codes = tables[table.path]
            name = wrapper.name
            slope = (before[f"{name}/kernel"] - kernels(plain)[f"{name}/kernel"]) / rate
            sums = np.array([slope[codes == code].sum() for code in range(1, len(values) + 1)])
            np.testing.assert_allclose(array(table.codebook), values - rate * sums, rtol=1e-3, atol=1e-6)
            np.testing.assert_array_equal(array(table.codes), codes)


@pytest.mark.parametrize("mode", MODES)
def test_training_keeps_zeros_and_the_number_of_values(mode):
    options = dict(MODES[mode])
    optimizer = options.pop("optimizer", lambda: keras.optimizers.Adam(0.01))
    model = sparse()
    shared = share(model, 3)
    shared.compile(optimizer(), model.loss, **options)
    resting = {table.path: array(table.weight) for w in wrappers(shared) for table in w.shared}
    begun = [table.value for w in wrappers(shared) for table in w.shared]
    losses = fit(shared, epochs=4).history["loss"]
    assert losses[-1] < losses[0]
    small = strip(shared)
    for start, (path, kernel) in zip(begun, kernels(small).items(), strict=True):
        assert different(kernel) <= 7 and np.abs(kernel - start).max() > 1e-3
        np.testing.assert_array_equal(kernel == 0, kernels(model)[path] == 0)
    for wrapper in wrappers(shared):
        for table in wrapper.shared:
            np.testing.assert_array_equal(array(table.weight), resting[table.path])
    x = data()[0]
    np.testing.assert_allclose(array(small(x)), array(shared(x)), rtol=1e-5, atol=1e-6)
    assert len(small.trainable_variables) == len(model.trainable_variables)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = sparse(head_dtype="float32")
        shared = share(model, 3)
        shared.compile(keras.optimizers.Adam(0.01), model.loss)
        losses = fit(shared, epochs=4).history["loss"]
    finally:
        keras.config.set_dtype_policy(before)
    assert losses[-1] < losses[0]
    assert all(table.codebook.dtype == "float32" for w in wrappers(shared) for table in w.shared)


@pytest.mark.parametrize("mode", ["eager", "adamw", "averaged", "accumulating"])
def test_training_that_was_killed_and_resumed_ends_like_one_that_was_not(mode, tmp_path):
    def trained(*callbacks):
        options = dict(MODES[mode])
        optimizer = options.pop("optimizer", lambda: keras.optimizers.Adam(0.01))
        shared = share(sparse(), 3)
        shared.compile(optimizer(), LOSS, **options)
        with pytest.raises(KeyboardInterrupt) if callbacks else contextlib.nullcontext():
            fit(shared, keras.callbacks.BackupAndRestore(str(tmp_path / "backup")), *callbacks, epochs=4)
        return shared

    whole = trained()
    killed, resumed = trained(StopAfter(1)), trained()
    assert int(array(killed.optimizer.iterations)) == int(array(whole.optimizer.iterations)) // 2
    assert_equal(arrays(whole), arrays(resumed))
    assert_equal(optimizer_state(whole), optimizer_state(resumed))


ON_TWO_DEVICES = """
import tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras, numpy as np
from masks import LOSS, array, fit, network
from tfcompress import share

def trained(scope):
    with scope:
        model = network(dropout=0)
        for layer in ("norm", "second"):  # a batch of half the size has another variance
            model.get_layer(layer).trainable = False
        shared = share(model, 3)
        shared.compile(keras.optimizers.SGD(0.01), LOSS)
    fit(shared, epochs=2, batch_size=12)
    return shared

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
one, two = trained(tf.distribute.get_strategy().scope()), trained(strategy.scope())
for name in ("first", "second", "head"):
    (table,), (other,) = one.get_layer(name).shared, two.get_layer(name).shared
    np.testing.assert_array_equal(array(table.codes), array(other.codes))
    np.testing.assert_allclose(array(table.codebook), array(other.codebook), rtol=1e-4, atol=1e-6)
    mirrored = other.codebook.value.values
    np.testing.assert_array_equal(*(value.numpy() for value in mirrored))
print("equal")
"""


def test_values_are_the_same_on_two_devices_as_on_one(tmp_path):
    pytest.importorskip("tensorflow")
    assert run_python(ON_TWO_DEVICES, tmp_path).split() == ["equal"]


def test_masks_become_zeros_that_stay():
    masked = wrap(network(dropout=0), MagnitudePruning(0.75))
    fit(masked, UpdateMasks(), epochs=2)
    shared = share(masked, 4)
    shared.compile(keras.optimizers.Adam(0.01), masked.loss)
    fit(shared, epochs=2)
    for kernel in kernels(strip(shared)).values():
        assert (kernel == 0).mean() >= 0.75 and different(kernel) <= 15


def test_frozen_layers_share_values_and_do_not_train():
    model = sparse()
    model.get_layer("second").trainable = False
    shared = share(model, 3)
    shared.compile(keras.optimizers.Adam(0.01), model.loss)
    value = wrappers(shared)[1].shared[0].value
    fit(shared)
    np.testing.assert_array_equal(wrappers(shared)[1].shared[0].value, value)
    assert not strip(shared).get_layer("second").trainable


def test_it_is_saved_and_loaded(tmp_path):
    shared = share(sparse(), 3)
    shared.compile(keras.optimizers.Adam(0.01), shared.loss)
    fit(shared)
    shared.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(arrays(shared), arrays(loaded))
    assert_equal(optimizer_state(shared), optimizer_state(loaded))
    fit(loaded), fit(shared)
    assert_equal(arrays(shared), arrays(loaded))


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras, before it raises
def test_values_of_other_layers_are_not_loaded(tmp_path):
    share(sparse(), 3, exclude="first").save_weights(tmp_path / "some.weights.h5")
    with pytest.raises(ValueError, match="shared values of shapes .* wrapped in another way"):
        share(sparse(), 3, exclude="second").load_weights(tmp_path / "some.weights.h5")


def test_the_model_that_is_given_stays_as_it_is_and_goes_on_training():
    model = sparse()
    fit(model)
    before = arrays(model)
    shared = share(model, 3)
    assert_equal(before, arrays(model))
    assert int(array(shared.optimizer.iterations)) == 3
    assert all(variable.trainable for variable in model.trainable_variables)
    fit(model), fit(shared)


def test_kernels_of_nothing_but_zeros_stay_so():
    model = sparse()
    model.get_layer("first").set_weights([np.zeros((3, 3, 2, 8))])
    assert not kernels(strip(share(model, 3)))["first/kernel"].any()


def test_bad_arguments():
    model = sparse()
    for bits in (0, 13, 2.5, True, {"head": 0}):
        with pytest.raises(ValueError, match="bits must be"):
            share(model, bits)
    with pytest.raises(ValueError, match="Did you mean 'head'"):
        share(model, {"heads": 3})
    with pytest.raises(ValueError, match="Did you mean 'linear'"):
        share(model, 3, method="linea")
    with pytest.raises(ValueError, match="cannot be .*: ReLU has no kernel"):
        share(model, 3, include="relu")
    with pytest.raises(ValueError, match="is shared already"):
        SharedLayer(share(model, 3).get_layer("head"))
    with pytest.raises(ValueError, match="no kernel whose values"):
        SharedLayer(layers.ReLU())(np.ones((1, 2)))
    with pytest.raises(ValueError, match="quantize.*which is shared"):
        share(model, 3).get_layer("head").quantize("int8")
    model.get_layer("head").kernel.assign(np.full(model.get_layer("head").kernel.shape, np.nan))
    with pytest.raises(ValueError, match="NaN or infinite"):
        share(model, 3)
