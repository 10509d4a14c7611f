"""Compacted models have equal outputs and only the multiplications that count."""

import keras
import numpy as np
import pytest
import random_graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from masks import array
from small_models import MODELS
from surgery import found, inputs_for, outputs_of, randomize, relative_error

from tfcompress import analysis, channels, compact, remove_zeroed
from tfcompress.layers import CompactConv

DATA = np.ones((4, 8, 8, 10)), np.zeros((4, 3))


def thinned(model: keras.Model, seed: int = 0) -> keras.Model:
    """Random values, and most rows and columns of every kernel zero; now and then all of it."""
    randomize(model, seed)
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        if weight.name == "kernel" and len(weight.shape) > 1:
            columns, rows = rng.random((*weight.shape[:-1], 1)), rng.random(weight.shape[-1])
            weight.assign(array(weight) * (columns < 0.4) * (rows < rng.choice([0.7, 1.0])))
    return model


def check(model: keras.Model, **options) -> keras.Model:
    """The model with its columns left out; it was not changed, and has the same outputs."""
    before = [array(weight) for weight in model.weights]
    small = compact(model, **options)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)
    inputs = inputs_for(model)
    assert relative_error(outputs_of(model, inputs), outputs_of(small, inputs)) <= 1e-5
    return small


def one_layer(layer: keras.Layer, *shape) -> keras.Model:
    x = keras.Input(shape)
    return keras.Model(x, layer(x))


KINDS = {  # -> layer, shape of the input
    "dense": (lambda: layers.Dense(6, activation="relu"), (5,)),
    "dense_along_time": (lambda: layers.Dense(6, use_bias=False), (4, 5)),
    "conv1d": (lambda: layers.Conv1D(6, 3, strides=2, padding="same"), (9, 4)),
    "causal": (lambda: layers.Conv1D(6, 3, padding="causal", dilation_rate=2), (9, 4)),
    "conv2d": (lambda: layers.Conv2D(6, (3, 2), padding="same", activation="tanh"), (8, 7, 4)),
    "strided": (lambda: layers.Conv2D(6, 3, strides=(2, 3), padding="same"), (8, 9, 4)),
    "dilated": (lambda: layers.Conv2D(6, 3, dilation_rate=(1, 2)), (8, 9, 4)),
    "grouped": (lambda: layers.Conv2D(6, 3, groups=2, strides=2), (8, 9, 4)),
    "depthwise": (lambda: layers.Conv2D(8, 3, groups=4, padding="same"), (8, 9, 4)),
    "grouped_conv1d": (lambda: layers.Conv1D(6, 3, groups=2, padding="causal"), (9, 4)),
    "conv3d": (lambda: layers.Conv3D(6, 2, strides=(1, 2, 1), padding="same"), (4, 5, 4, 3)),
    "channels_first": (lambda: layers.Conv2D(6, 3, strides=2, data_format="channels_first"), (4, 9, 11)),
    "open_size": (lambda: layers.Conv2D(6, 3, padding="same"), (None, None, 4)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_compacted_layer_equals_the_full_one_and_multiplies_only_what_is_left(kind, seed):
    make, shape = KINDS[kind]
    model = thinned(one_layer(make(), *shape), seed)
    small = check(model, threshold=0)
    layer, made = model.layers[-1], small.layers[-1]
    assert type(made) is CompactConv and made.name == layer.name
    kernel = array(layer.kernel)
    left = sum(
        part.any(-1).sum() * part.any(tuple(range(part.ndim - 1))).sum()  # columns x rows
        for part in np.split(kernel, getattr(layer, "groups", 1), axis=-1)
    )
    assert small.compacted.layers == {layer.name: (kernel.size, left)}
    assert made.kernel.shape == (left,)
    size = {} if None not in shape else {"input_shape": (12, 12, 4)}
    assert analysis.macs(small, **size) == analysis.macs(model, **size) * left // kernel.size


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_zoo_equals_its_compacted_copy(name):
    model = thinned(MODELS[name]())
    small = check(model, threshold=0)
    # What cannot be replaced says why.
    reasons = ("but", "inside a wrapper", "which is open")
    assert all(any(words in reason for words in reasons) for reason in small.compacted.untouched.values())
    if small.compacted.layers:
        assert small.count_params() < model.count_params()


@given(st.integers(0, 10**6))
@settings(max_examples=6)
def test_random_graphs_equal_their_compacted_copies(seed):
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    check(thinned(random_graphs.build(seed), seed), threshold=0)


def network(trained: bool = False) -> keras.Model:
    """In `half` and `nested/inner` half of the columns are zero, in `tenth` nine of ten."""
    inner = keras.Sequential([keras.Input((8, 8, 10)), layers.Conv2D(10, 1, name="inner")], name="nested")
    x = i = keras.Input((8, 8, 10))
    x = layers.Conv2D(10, 1, name="half")(x)
    x = layers.BatchNormalization(name="norm")(inner(x))
    x = layers.Flatten()(layers.Conv2D(10, 1, name="tenth")(x))
    model = keras.Model(i, layers.Dense(3, name="head")(x))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    if trained:
        model.fit(*DATA, verbose=0)
    for layer, left in {"half": 5, "nested/inner": 5, "tenth": 1}.items():
        kernel = found(model, layer).kernel
        kernel.assign(array(kernel) * (np.arange(10) < left)[:, np.newaxis])
    return model


@pytest.mark.parametrize(
    ("options", "replaced"),
    [
        ({}, ["tenth"]),
        ({"threshold": 0.5}, ["half", "nested/inner", "tenth"]),
        ({"threshold": 0.51}, ["tenth"]),
        ({"threshold": 0.91}, []),
        ({"threshold": 0.5, "include": "nested/inner"}, ["nested/inner"]),
        ({"threshold": 0.5, "exclude": ["tenth", "half"]}, ["nested/inner"]),
        ({"threshold": 0}, ["half", "nested/inner", "tenth", "head"]),
    ],
)
def test_layers_are_replaced_where_the_threshold_is_reached(options, replaced):
    small = check(network(), **options)
    every = {"half", "nested/inner", "tenth", "head"}
    assert set(small.compacted.layers) == set(replaced)
    assert set(small.compacted.untouched) == every - set(replaced)
    assert {path for path in every if isinstance(found(small, path), CompactConv)} == set(replaced)


def test_result_says_what_was_replaced_and_what_stays_why():
    small = compact(network(), include=["half", "tenth"])
    assert small.compacted.layers == {"tenth": (100, 10)}
    assert small.compacted.untouched == {
        "half": "it would save 50% of its multiplications",
        "nested/inner": "excluded",
        "head": "excluded",
    }
    table = str(small.compacted)
    assert "tenth" in table and "100" in table and "it would save 50%" in table


def test_training_goes_on_where_it_was():
    model = network(trained=True)
    small = compact(model)
    assert isinstance(small.optimizer, keras.optimizers.Adam) and int(small.optimizer.iterations) == 1
    for slot, carried in zip(model.optimizer.variables, small.optimizer.variables, strict=True):
        new = "tenth_kernel" in slot.path
        np.testing.assert_array_equal(array(carried), np.zeros(10) if new else array(slot))
        assert array(slot).any() or "learning_rate" in slot.path, "the comparison would be blind"
    before = array(small.get_layer("tenth").kernel)
    assert "mae" in small.fit(*DATA, verbose=0).history
    assert (array(small.get_layer("tenth").kernel) != before).all()


def test_frozen_layers_stay_frozen():
    model = network()
    model.get_layer("tenth").trainable = False
    model.compile("sgd", "mse")
    small = compact(model, 0.5)
    assert not small.get_layer("tenth").trainable and small.get_layer("half").trainable


def test_penalty_on_a_kernel_goes_with_its_zeros():
    model = one_layer(layers.Dense(4, kernel_regularizer="l2", kernel_constraint="non_neg"), 5)
    assert compact(thinned(model), 0).losses == []


def test_shared_layer_is_replaced_at_all_its_calls():
    i, j = keras.Input((8, 8, 4)), keras.Input((11, 7, 4))
    shared = layers.Conv2D(6, 3, strides=2, padding="same", name="shared")
    pooled = [layers.GlobalMaxPooling2D()(shared(x)) for x in (i, j)]
    small = check(thinned(keras.Model([i, j], layers.Concatenate()(pooled))), threshold=0)
    assert [type(layer) for layer in small.layers].count(CompactConv) == 1
    assert list(small.compacted.layers) == ["shared"]


def test_layers_that_cannot_be_replaced_say_why():
    x = i = keras.Input((6, 8, 8, 4))
    x = layers.TimeDistributed(layers.Conv2D(4, 3, name="conv"), name="steps")(x)
    x = layers.TimeDistributed(layers.DepthwiseConv2D(3, name="depthwise"), name="more")(x)
    x = layers.Conv3DTranspose(4, 2, name="transposed")(x)
    x = layers.GlobalAveragePooling3D()(x)
    model = thinned(keras.Model(i, x))
    assert check(model, threshold=0).compacted.untouched == {
        "steps/conv": "inside a wrapper",
        "more/depthwise": "inside a wrapper",
        "transposed": "not a convolution or Dense that could be compacted, but Conv3DTranspose",
    }
    strided = thinned(one_layer(layers.Conv2D(6, 3, strides=2, name="strided"), None, None, 4))
    assert "the size, which is open" in compact(strided, 0).compacted.untouched["strided"]


class Doubled(layers.Dense):
    """A user's own layer, which `CompactConv` does not know."""

    def call(self, inputs):
        return 2 * super().call(inputs)


@pytest.mark.parametrize("change", [Doubled, "lora", "quantized"])
def test_dense_layers_that_are_not_what_they_seem_stay(change):
    layer = Doubled(4, name="layer") if change is Doubled else layers.Dense(4, name="layer")
    model = thinned(one_layer(layer, 5))
    if change == "lora":
        layer.enable_lora(2)
    if change == "quantized":
        layer.quantize("int8")
    small = check(model, threshold=0)
    reason = "but Doubled" if change is Doubled else "quantized, or has LoRA"
    assert not small.compacted.layers and reason in small.compacted.untouched["layer"]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_compacted_layer_has_the_policy_of_the_full_one(policy):
    model = thinned(one_layer(layers.Conv2D(6, 3, dtype=policy), 8, 8, 4))
    small = compact(model, 0)
    assert small.layers[-1].dtype_policy.name == policy
    inputs = inputs_for(model)
    tolerance = {"mixed_bfloat16": 2e-2, "mixed_float16": 2e-3, "float64": 1e-12}[policy]
    assert relative_error(outputs_of(model, inputs), outputs_of(small, inputs)) <= tolerance


def test_sequential_model_comes_back_as_one_and_survives_saving(tmp_path):
    small = check(thinned(MODELS["sequential"]()), threshold=0)
    assert type(small) is keras.Sequential
    small.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = inputs_for(small)
    assert relative_error(outputs_of(small, inputs), outputs_of(loaded, inputs)) == 0


def test_channels_around_a_compacted_layer_stay():
    model = network()
    read = "'tenth' is compacted; remove channels before compact()"
    assert channels.trace(compact(model))["nested/inner"].locked == read
    again = remove_zeroed(compact(model))
    inputs = inputs_for(model)
    assert relative_error(outputs_of(model, inputs), outputs_of(again, inputs)) <= 1e-5
    assert found(again, "nested/inner").filters == 10
    assert found(remove_zeroed(model), "nested/inner").filters == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.1}, r"threshold must be in \[0, 1\].*got 1.1"),
        ({"threshold": -0.1}, "got -0.1"),
        ({"include": "tenht"}, "Did you mean 'tenth'"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        compact(network(), **options)


def test_unbuilt_models_are_refused():
    with pytest.raises(ValueError, match="is not built"):
        compact(keras.Sequential([layers.Dense(2)]))
