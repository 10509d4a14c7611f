"""Masks hold however `fit` trains: precisions, compilers, optimizers, backups, several devices."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import pytest
import thorough
from masks import (
    StopAfter,
    array,
    arrays,
    assert_equal,
    counting,
    data,
    fit,
    network,
    optimizer_state,
    run_python,
    subclassed,
)

from tfcompress import schedules
from tfcompress.callbacks import UpdateMasks
from tfcompress.layers import (
    DynamicNetworkSurgery,
    MagnitudePruning,
    MaskRule,
    constrain,
    masked_weights,
    release,
    strip,
    wrap,
)


@dataclass(frozen=True)
class Mode:
    optimizer: Callable[[], keras.optimizers.Optimizer] = lambda: keras.optimizers.SGD(0.05)
    policy: str = "float32"
    options: dict = field(default_factory=dict)


def adamw(**settings) -> Callable:
    return lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, **settings)


MODES = {
    "eager": Mode(options={"run_eagerly": True}),
    "jit_compile": Mode(options={"jit_compile": True}),
    "steps_per_execution": Mode(options={"steps_per_execution": 3}),
    "mixed_float16": Mode(policy="mixed_float16"),
    "mixed_bfloat16": Mode(policy="mixed_bfloat16"),
    "momentum": Mode(lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.1)),
    "adamw": Mode(adamw()),
    "accumulating": Mode(adamw(gradient_accumulation_steps=2)),
    "averaged": Mode(adamw(use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)),
    "averaged_at_the_end": Mode(adamw(use_ema=True, ema_momentum=0.5)),
    "everything": Mode(
        adamw(gradient_accumulation_steps=3, use_ema=True, ema_overwrite_frequency=2),
        "mixed_bfloat16",
        {"jit_compile": True, "steps_per_execution": 3},
    ),
}
# Of the others, "everything" has most at once.
FIRST = ("eager", "jit_compile", "mixed_float16", "adamw", "accumulating", "averaged", "everything")
KINDS = ("wrapped", "constrained")
STATIC = MagnitudePruning(0.75)
RISING = MagnitudePruning(schedules.Polynomial(0.25, 0.75, end_step=2, frequency=1))


@pytest.fixture(params=thorough.beside(MODES, FIRST))
def mode(request):
    """One after another, under its policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(MODES[request.param].policy)
    yield MODES[request.param]
    keras.config.set_dtype_policy(before)


def masked_model(kind: str, rule: MaskRule, mode: Mode, **options) -> keras.Model:
    """The same weights, masked by wrappers in a functional model or by constraints in a subclassed one."""
    make = network if kind == "wrapped" else subclassed
    model = make(mode.optimizer(), head_dtype="float32", **mode.options, **options)
    if kind == "wrapped":
        return wrap(model, rule)
    constrain(model, rule)
    return model


def finished(model: keras.Model, kind: str) -> keras.Model:
    """The model without what masked it."""
    if kind == "wrapped":
        return strip(model)
    release(model)
    return model


class Watch(keras.callbacks.Callback):
    """Whether constrained weights are zero where masked, after every batch."""

    def __init__(self):
        super().__init__()
        self.held = []

    def on_train_batch_end(self, batch, logs=None):
        self.held += [(masked.value[~masked.kept] == 0).all() for masked in masked_weights(self.model)]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_end_as_sparse_as_the_schedule_says(mode, kind):
    model, watch, x = masked_model(kind, RISING, mode), Watch(), data()[0]
    before = [masked.value for masked in masked_weights(model)]
    history = fit(model, UpdateMasks(), watch, epochs=3).history
    assert np.isfinite(history["loss"]).all() and history["sparsity"][-1] == 0.75
    for value, masked in zip(before, masked_weights(model), strict=True):
        assert (~masked.kept).sum() == 0.75 * masked.size
        np.testing.assert_array_equal(masked.value == 0, ~masked.kept)
        trained = (masked.value != value)[masked.kept]
        assert trained.mean() > 0.5, "the weights were not trained"  # all, unless a ReLU is dead
    assert kind == "wrapped" or all(watch.held)
    outputs, expected = array(model(x)), counting(model)
    plain = finished(model, kind)
    np.testing.assert_array_equal(array(plain(x)), outputs)
    assert_equal(expected, [array(weight) for weight in plain.trainable_variables])


def test_wrapped_weights_are_trained_like_constrained_ones(mode):
    models = [masked_model(kind, STATIC, mode) for kind in KINDS]
    initial = [array(weight) for weight in models[0].trainable_variables]
    near = 5e-2 if mode.policy == "mixed_bfloat16" else 1e-2  # its numbers have three digits
    for model in models:
        fit(model, UpdateMasks(), epochs=2)
    for start, wrapped, constrained in zip(initial, *map(counting, models), strict=True):
        np.testing.assert_array_equal(wrapped == 0, constrained == 0)
        moved = np.abs(wrapped - start)[wrapped != 0].max()
        assert moved > 1e-3 and np.abs(wrapped - constrained).max() < near * moved


def test_surgery_trains_also_what_is_masked(mode):
    model, x = masked_model("wrapped", DynamicNetworkSurgery(sparsity=0.6), mode), data()[0]
    before = [masked.value for masked in masked_weights(model)]
    fit(model, UpdateMasks(), epochs=2)
    for value, masked in zip(before, masked_weights(model), strict=True):
        assert 0.4 < (~masked.kept).mean() < 0.8
        ratio = masked.value[~masked.kept] / value[~masked.kept]
        assert (np.abs(ratio - np.median(ratio)) > 1e-4).mean() > 0.9, "they did but decay in proportion"
    plain = strip(model)
    np.testing.assert_array_equal(array(plain(x)), array(model(x)))
    assert_equal(counting(model), [array(weight) for weight in plain.trainable_variables])


# --- backups --------------------------------------------------------------------------------------------

RULES = {
    "magnitude": MagnitudePruning(schedules.Polynomial(0.25, 0.75, end_step=9, frequency=4)),
    "magnitude_ended": MagnitudePruning(schedules.Polynomial(0.25, 0.75, end_step=4, frequency=2)),
    "surgery": DynamicNetworkSurgery(sparsity=0.6, gamma=0.1),
}


@pytest.mark.parametrize(
    ("kind", "rule", "mode", "backup"),
    [
        ("wrapped", "magnitude", "momentum", "first"),
        ("wrapped", "magnitude", "mixed_float16", "last"),
        ("wrapped", "magnitude_ended", "accumulating", "first"),
        ("wrapped", "surgery", "momentum", "first"),
        ("wrapped", "surgery", "averaged", "last"),
        ("constrained", "magnitude", "momentum", "first"),
        ("constrained", "magnitude", "averaged", "last"),
        ("constrained", "magnitude_ended", "adamw", "first"),
        ("constrained", "magnitude_ended", "adamw", "last"),
    ],
    indirect=["mode"],
)
def test_training_that_was_killed_and_resumed_ends_like_one_that_was_not(tmp_path, kind, rule, mode, backup):
    def trained(*callbacks):
        # Keras does not save the state of dropout with the weights.
        model = masked_model(kind, RULES[rule], mode, dropout=0)
        both = [keras.callbacks.BackupAndRestore(str(tmp_path / "backup")), UpdateMasks()]
        both = both if backup == "first" else both[::-1]
        with pytest.raises(KeyboardInterrupt) if callbacks else contextlib.nullcontext():
            fit(model, *both, *callbacks, epochs=4)
        return model

    whole = trained()
    killed = trained(StopAfter(2 if rule == "magnitude_ended" else 1))
    resumed = trained()
    assert int(array(killed.optimizer.iterations)) < int(array(whole.optimizer.iterations))
    assert_equal(arrays(whole), arrays(resumed))
    assert_equal(optimizer_state(whole), optimizer_state(resumed))
    assert_equal(*([masked.kept for masked in masked_weights(model)] for model in (whole, resumed)))


# --- several devices ------------------------------------------------------------------------------------

ON_TWO_DEVICES = """
import tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import numpy as np
from masks import array, counting, data, fit, network, subclassed
from tfcompress import schedules
from tfcompress.callbacks import UpdateMasks
from tfcompress.layers import *

RISING = MagnitudePruning(schedules.Polynomial(0.25, 0.75, end_step=4, frequency=2))
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2

def replicas(variable):
    first, second = variable.value.values
    return first.numpy(), second.numpy()

def model_of(kind, rule):
    with strategy.scope():
        if kind == "wrapped":
            return wrap(network(), rule)
        model = subclassed()
        constrain(model, rule)
        return model

SURGERY = DynamicNetworkSurgery(sparsity=0.6)
for kind, rule in [("wrapped", RISING), ("wrapped", SURGERY), ("constrained", RISING)]:
    model = model_of(kind, rule)
    before = [masked.value for masked in masked_weights(model)]
    history = fit(model, UpdateMasks(), epochs=2).history
    for value, masked in zip(before, masked_weights(model), strict=True):
        for variable in (masked.weight, masked.mask, *masked.memory.values()):
            np.testing.assert_array_equal(*replicas(variable))
        assert (masked.value != value).mean() > 0.9, "the weights were not trained"
        if rule is RISING:
            assert (~masked.kept).sum() == 0.75 * masked.size
            np.testing.assert_array_equal(masked.value == 0, ~masked.kept)
        else:
            assert 0.4 < (~masked.kept).mean() < 0.8
    if kind == "wrapped":
        x = data()[0]
        np.testing.assert_array_equal(array(strip(model)(x)), array(model(x)))
    print(kind, type(rule).__name__, round(history["sparsity"][-1], 2))
"""


def test_masks_are_the_same_on_two_devices_that_mirror_each_other(tmp_path):
    pytest.importorskip("tensorflow")
    lines = run_python(ON_TWO_DEVICES, tmp_path).splitlines()
    assert lines[0] == "wrapped MagnitudePruning 0.75" and lines[2] == "constrained MagnitudePruning 0.75"
    assert lines[1].startswith("wrapped DynamicNetworkSurgery 0.")
