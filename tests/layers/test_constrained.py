"""Masks by constraints, on models of Python code: put on in place, kept through training, taken off again."""

import keras
import numpy as np
import pytest
from keras import layers
from masks import array, arrays, assert_equal, data, fit, network, subclassed, weights_of

from tfcompress import schedules
from tfcompress.callbacks import UpdateMasks
from tfcompress.layers import (
    DynamicNetworkSurgery,
    MagnitudePruning,
    constrain,
    masked_weights,
    release,
    strip,
    wrap,
)

KERNELS = ("first", "second", "head")
HALF = MagnitudePruning(0.5)


def zeros(model: keras.Model) -> list[int]:
    return [int((weights_of(model, name) == 0).sum()) for name in KERNELS]


class Nested(keras.Model):
    """A model in a model, both with a layer named `head`, layers in a list and one in a wrapper."""

    def __init__(self):
        super().__init__(name="outer")
        self.body = subclassed()
        self.others = [layers.Dense(4, name="dense"), layers.Dense(3, name="head")]
        self.steps = layers.TimeDistributed(layers.Dense(2, name="inner"), name="steps")

    def call(self, x, training=False):
        x = self.body(x)
        for layer in self.others:
            x = layer(x)
        return self.steps(x[:, None, :])


def nested() -> Nested:
    model = Nested()
    model(data()[0][:1])
    return model


# --- which weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [network, subclassed])
def test_kernels_of_any_model_are_masked_in_place(make):
    model, before = make(), [weights_of(make(), name) for name in KERNELS]
    masked = constrain(model, HALF)
    assert [m.path.split("/")[-2] for m in masked] == list(KERNELS)
    assert all(m.rule is HALF and m.kept.all() for m in masked) and masked == masked_weights(model)
    assert_equal(before, [weights_of(model, name) for name in KERNELS])
    fit(model, UpdateMasks())
    assert zeros(model) == [72, 288, 192]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["body/first", "body/second", "body/head", "dense", "head", "inner"]),
        ({"include": "inner"}, ["inner"]),
        ({"include": ["first", "de.*"]}, ["body/first", "dense"]),
        ({"include": "outer/head"}, ["head"]),
        ({"exclude": ["inner", ".*/head", "dense"]}, ["body/first", "body/second"]),
    ],
)
def test_layers_inside_are_chosen_by_name_or_by_path_where_names_repeat(options, expected):
    model = nested()
    body, (dense, head) = model.body.parts, model.others
    names = {
        **{id(layer.kernel): f"body/{layer.name}" for layer in body if layer.name in KERNELS},
        id(dense.kernel): "dense",
        id(head.kernel): "head",
        id(model.steps.layer.kernel): "inner",
    }
    assert sorted(names[id(m.weight)] for m in constrain(model, HALF, **options)) == sorted(expected)


def test_rules_may_be_put_on_one_after_another():
    model = subclassed()
    constrain(model, HALF, include="first")
    masked = constrain(model, MagnitudePruning(0.75), exclude="first")
    assert len(masked) == 3
    fit(model, UpdateMasks())
    assert zeros(model) == [72, 432, 288]


# --- training -------------------------------------------------------------------------------------------


class Seen(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.zeros = []

    def on_train_batch_end(self, batch, logs=None):
        self.zeros.append(zeros(self.model)[0])


def test_model_that_was_trained_before_is_compiled_anew():
    model, seen = subclassed(), Seen()
    fit(model)
    constrain(model, MagnitudePruning(schedules.Constant(sparsity=0.5, frequency=1)))
    fit(model, UpdateMasks(), seen)
    assert seen.zeros == [72, 72, 72]
    release(model)
    fit(model)
    assert zeros(model) == [0, 0, 0]


def test_masks_grow_with_the_schedule_and_what_they_hide_never_comes_back():
    model, seen = subclassed(), Seen()
    constrain(model, MagnitudePruning(schedules.Polynomial(0.25, 0.75, end_step=4, frequency=2, power=1)))
    fit(model, UpdateMasks(), seen, epochs=2)
    assert seen.zeros == [36, 36, 72, 72, 108, 108]  # of 144: a quarter, the half, three quarters


def test_constraint_of_the_user_holds_under_the_mask_and_is_given_back():
    model = network()
    kernel = model.get_layer("second").kernel
    kernel.constraint = norm = keras.constraints.MaxNorm(0.1, axis=[0, 1, 2])
    constrain(model, HALF)
    fit(model, UpdateMasks())
    assert zeros(model) == [72, 288, 192]
    assert np.sqrt(np.square(array(kernel)).sum(axis=(0, 1, 2))).max() <= 0.1 + 1e-6
    release(model)
    assert kernel.constraint is norm and model.get_layer("first").kernel.constraint is None


def test_release_lets_go_what_is_masked():
    model = subclassed()
    constrain(model, HALF)
    fit(model, UpdateMasks())
    kept = [masked.kept for masked in masked_weights(model)]
    release(model)
    assert_equal(kept, [weights_of(model, name) != 0 for name in KERNELS])
    assert masked_weights(model) == [] and all(weight.constraint is None for weight in model.weights)
    fit(model)
    assert zeros(model) == [0, 0, 0]


# --- files ----------------------------------------------------------------------------------------------


def test_weights_file_of_a_constrained_model_fits_a_plain_one(tmp_path):
    model, plain, x = subclassed(), subclassed(), data()[0]
    constrain(model, HALF)
    fit(model, UpdateMasks())
    fit(plain)
    model.save_weights(tmp_path / "model.weights.h5")
    plain.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(array(plain(x)), array(model(x)))
    assert zeros(plain) == [72, 288, 192]


@pytest.mark.parametrize(("from_zeros", "expected"), [(True, [72, 288, 192]), (False, [0, 0, 0])])
def test_masks_are_taken_up_from_zeros_if_asked(from_zeros, expected):
    model = subclassed()
    constrain(model, HALF)
    fit(model, UpdateMasks())
    release(model)
    constrain(model, HALF, from_zeros=from_zeros)
    assert [int((~masked.kept).sum()) for masked in masked_weights(model)] == expected
    fit(model)
    assert zeros(model) == expected


def test_saved_model_of_a_constrained_model_needs_nothing_of_ours(tmp_path):
    model = network()
    constrain(model, HALF)
    fit(model, UpdateMasks())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(data()[0])), array(model(data()[0])))
    assert zeros(loaded) == [72, 288, 192] and masked_weights(loaded) == []


# --- refusals -------------------------------------------------------------------------------------------


def unbuilt() -> keras.Model:
    return keras.Sequential([layers.Dense(2)])


def without_kernels() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])


@pytest.mark.parametrize(
    ("make", "rule", "options", "message"),
    [
        (subclassed, DynamicNetworkSurgery(), {}, "trains them, too: it needs tfcompress.wrap"),
        (subclassed, 0.5, {}, "Expected a rule .* got 0.5"),
        (subclassed, MagnitudePruning, {}, "Expected a rule .* got <class"),
        (subclassed, HALF, {"include": "frist"}, "Did you mean 'first'"),
        (subclassed, HALF, {"include": "relu"}, "Unknown layer or pattern 'relu'"),
        (subclassed, HALF, {"exclude": ".*"}, "no layer with a kernel is left"),
        (
            subclassed,
            MagnitudePruning(0.5, block=(8, 1)),
            {},
            r"Blocks of \(8, 1\) .*divide '.*head/kernel'",
        ),
        (unbuilt, HALF, {}, "has no weights yet. Build it"),
        (without_kernels, HALF, {}, "has no kernels"),
        (lambda: wrap(network(), HALF), HALF, {}, "kernel' is masked already"),
    ],
    ids=[
        "surgery",
        "no_rule",
        "class_of_a_rule",
        "misspelt",
        "no_kernel",
        "all_excluded",
        "shape",
        "unbuilt",
        "without_kernels",
        "wrapped",
    ],
)
def test_what_cannot_be_constrained_is_refused_and_left_as_it_was(make, rule, options, message):
    model = make()
    before = [masked.weight.constraint for masked in masked_weights(model)]
    with pytest.raises(ValueError, match=message):
        constrain(model, rule, **options)
    assert [masked.weight.constraint for masked in masked_weights(model)] == before
    assert all(weight.constraint is None for weight in model.weights)


def test_masking_twice_is_refused_and_the_first_masks_stay():
    model = subclassed()
    masked = constrain(model, HALF, include="second")
    with pytest.raises(ValueError, match="'.*second/kernel' is masked already"):
        constrain(model, MagnitudePruning(0.9))
    assert masked_weights(model) == masked and [m.rule for m in masked] == [HALF]


@pytest.mark.parametrize("times", [0, 1])
def test_there_is_nothing_to_release_without_masks_or_twice(times):
    model = subclassed()
    for _ in range(times):
        constrain(model, HALF)
        release(model)
    before = arrays(model)
    with pytest.raises(ValueError, match="masked by constraints, so there is nothing to release"):
        release(model)
    assert_equal(before, arrays(model))


def test_wrapped_model_is_not_released():
    model = wrap(network(), HALF)
    with pytest.raises(ValueError, match="nothing to release"):
        release(model)
    assert len(masked_weights(model)) == 3


def test_constrained_model_is_neither_wrapped_nor_stripped():
    model = network()
    constrain(model, HALF)
    with pytest.raises(ValueError, match="'head': 'masked already'"):
        wrap(model, HALF)
    with pytest.raises(ValueError, match="nothing to strip"):
        strip(model)


def test_weights_put_back_after_training_stay_and_release_says_so():
    model = subclassed()
    constrain(model, HALF)
    before = [array(weight) for weight in model.trainable_variables]
    fit(model, UpdateMasks())
    for weight, value in zip(model.trainable_variables, before, strict=True):
        weight.assign(value)
    with pytest.warns(UserWarning, match="is not zero where its mask says so"):
        release(model)
    assert_equal(before, [array(weight) for weight in model.trainable_variables])


@pytest.mark.parametrize(("method", "argument"), [("quantize", "int8"), ("enable_lora", 2)])
def test_constrained_layers_are_neither_quantized_nor_adapted_until_they_are_released(method, argument):
    model = subclassed()
    constrain(model, HALF)
    with pytest.raises(ValueError, match=rf"{method}\(\) would replace the kernel"):
        getattr(model.parts[-1], method)(argument)
    fit(model, UpdateMasks())
    release(model)
    assert method not in vars(model.parts[-1])  # the method is that of its class again
