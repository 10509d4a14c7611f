"""Iterative hard thresholding: exact numbers, bitwise zeros, and a fresh start from zero."""

import hypothesis.extra.numpy as arrays
import keras
import numpy as np
import pytest
import thorough
from hypothesis import given
from hypothesis import strategies as st
from masks import StopAfter, array, assert_equal, fit, network, optimizer_state
from masks import arrays as arrays_of

from tfcompress import _cloning
from tfcompress._ranking import largest
from tfcompress.callbacks import IterativeHardThresholding

KERNELS = ("first", "second", "head")
OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "averaged": lambda: keras.optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=2),
    "averaged_at_the_end": lambda: keras.optimizers.Adam(0.01, use_ema=True),
    "accumulating": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
}
FIRST = ("momentum", "averaged", "accumulating")


def kernels_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: array(model.get_layer(name).kernel) for name in KERNELS}


class Watch(keras.callbacks.Callback):
    """The kernels after every batch, and the slots of them at the beginning of every epoch."""

    def __init__(self):
        super().__init__()
        self.kernels, self.slots = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.kernels.append([])
        pairs = _cloning.slots(self.model.optimizer, self.model.trainable_variables)
        self.slots.append([(weight.path, array(slot)) for slot, weight in pairs])

    def on_train_batch_end(self, batch, logs=None):
        self.kernels[-1].append(kernels_of(self.model))


# --- O_k ----------------------------------------------------------------------------------------------


@given(
    values=arrays.arrays("float32", st.integers(1, 12), elements=st.integers(-4, 4).map(float)),
    count=st.integers(0, 14),
)
def test_largest_is_what_sorting_would_give(values, count):
    mask = largest(np.abs(values), count)
    expected = np.zeros(len(values), bool)
    expected[np.argsort(-np.abs(values), kind="stable")[:count]] = True
    np.testing.assert_array_equal(mask, expected)


@given(values=arrays.arrays("float32", (3, 4), elements=st.floats(-4, 4, width=16)), count=st.integers(1, 12))
def test_thresholding_is_idempotent_and_no_other_choice_is_nearer(values, count):
    def threshold(w):
        return np.where(largest(np.abs(w), count), w, 0)

    once = threshold(values)
    np.testing.assert_array_equal(threshold(once), once)
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = np.where(rng.permutation(12).reshape(3, 4) < count, values, 0)
        assert np.square(values - once).sum() <= np.square(values - other).sum() + 1e-5


# --- phases -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options",
    [
        *thorough.beside(((name, {}) for name in OPTIMIZERS), [("averaged", {}), ("accumulating", {})]),
        ("momentum", {"jit_compile": True}),
        ("adamw", {"steps_per_execution": 3}),
    ],
)
def test_frozen_entries_are_zero_bit_for_bit_and_the_number_of_others_is_exact(name, options):
    model, seen = network(OPTIMIZERS[name](), **options), Watch()
    history = fit(model, IterativeHardThresholding(0.75), seen, epochs=4)
    sizes = {key: kernel.size for key, kernel in kernels_of(model).items()}
    for epoch in (1, 3):
        for step in seen.kernels[epoch]:
            for key, kernel in step.items():
                assert np.count_nonzero(kernel) == sizes[key] - round(0.75 * sizes[key])
    supports = [{key: kernel != 0 for key, kernel in step.items()} for step in seen.kernels[3]]
    assert all((support[key] == supports[0][key]).all() for support in supports for key in KERNELS)
    for epoch in (0, 2):  # but a few, behind units that are always off, all of them are trained
        assert all(np.mean(kernel != 0) > 0.9 for kernel in seen.kernels[epoch][-1].values())
    final = kernels_of(model)
    assert all((final[key] != 0).sum() == supports[0][key].sum() for key in KERNELS)
    np.testing.assert_allclose(history.history["sparsity"], [0, 0.75, 0, 0.75], atol=0.05)


@pytest.mark.parametrize("name", thorough.beside(OPTIMIZERS, FIRST))
def test_released_entries_start_from_zero_and_so_does_the_optimizer(name):
    model, seen = network(OPTIMIZERS[name]()), Watch()
    fit(model, IterativeHardThresholding(0.75, sparse_first=True, exclude="head"), seen, epochs=3)
    before = {key: kernel for key, kernel in seen.kernels[0][-1].items() if key != "head"}
    shapes = {model.get_layer(key).kernel.path: kernel for key, kernel in before.items()}
    slots = [(shapes[path], slot) for path, slot in seen.slots[1] if path in shapes]
    assert slots and all((slot[kernel == 0] == 0).all() for kernel, slot in slots)
    # All that moved in the dense epoch came from zero: it is as far as the steps of one epoch go.
    first = seen.kernels[1][0]
    assert all(np.abs(first[key][before[key] == 0]).max() < 0.1 for key in before)
    assert all((seen.kernels[1][-1][key][before[key] == 0] != 0).any() for key in before)


def test_the_largest_stay():
    model, seen = network(), Watch()
    start = kernels_of(model)
    fit(model, IterativeHardThresholding(k={"first": 10, "second|head": 20}, sparse_first=True), seen)
    for key, count in (("first", 10), ("second", 20), ("head", 20)):
        np.testing.assert_array_equal(seen.kernels[0][0][key] != 0, largest(np.abs(start[key]), count))


def test_progressive_rounds_grow_to_the_full_number_of_zeros():
    model, seen = network(), Watch()
    fit(model, IterativeHardThresholding(0.9, progressive=True), seen, epochs=6)
    zeros = [np.mean(seen.kernels[epoch][0]["first"] == 0) for epoch in (1, 3, 5)]
    np.testing.assert_allclose(zeros, [0.3, 0.6, 0.9], atol=0.01)


def test_layers_that_no_pattern_names_stay_dense():
    model = network()
    fit(model, IterativeHardThresholding({"fir.*": 0.5, "second": 0.25}), epochs=2)
    shares = [np.mean(kernel == 0) for kernel in kernels_of(model).values()]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0], atol=0.01)


class TwoLayers(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = [keras.layers.Dense(16, activation="relu", name="wide"), keras.layers.Dense(3)]
        self.compile("adam", "mse")

    def call(self, x):
        for layer in self.inner:
            x = layer(x)
        return x


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="there fit() builds models before callbacks begin"
)
def test_subclassed_model_must_be_built():
    model = TwoLayers()
    with pytest.raises(ValueError, match="has no kernels. If it is not built yet, call it"):
        model.fit(np.ones((4, 8)), np.ones((4, 3)), callbacks=[IterativeHardThresholding(0.5)], epochs=2)


def test_subclassed_model_is_thresholded_alike():
    model, x = TwoLayers(), np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    model(x)
    model.fit(x, x[:, :3], epochs=2, verbose=0, callbacks=[IterativeHardThresholding(0.5, include="wide")])
    assert np.count_nonzero(array(model.inner[0].kernel)) == 64
    assert np.count_nonzero(array(model.inner[1].kernel)) == 48


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_training_that_was_killed_ends_like_one_that_was_not(killed_after, tmp_path):
    def callback():
        return IterativeHardThresholding(0.75, dense_epochs=2, sparse_epochs=2)

    whole = network(OPTIMIZERS["momentum"]())
    whole.get_layer("dropout").rate = 0.0
    fit(whole, callback(), epochs=8)
    for _ in range(2):
        model = network(OPTIMIZERS["momentum"]())
        model.get_layer("dropout").rate = 0.0
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        stop = StopAfter(4 + killed_after - 1)
        try:
            fit(model, callback(), backup, stop, epochs=8)
        except KeyboardInterrupt:
            continue
    model = network(OPTIMIZERS["momentum"]())
    model.get_layer("dropout").rate = 0.0
    fit(model, callback(), keras.callbacks.BackupAndRestore(tmp_path / "backup"), epochs=8)
    assert_equal(arrays_of(whole), arrays_of(model))
    assert_equal(optimizer_state(whole), optimizer_state(model))


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "either sparsity or k"),
        ({"sparsity": 0.5, "k": {"first": 3}}, "either sparsity or k"),
        ({"sparsity": 1.0}, r"number in \[0, 1\)"),
        ({"sparsity": {"first": -0.5}}, r"number in \[0, 1\)"),
        ({"k": 5}, "k is a dict"),
        ({"sparsity": 0.5, "dense_epochs": True}, "dense_epochs must be a whole number"),
        ({"sparsity": 0.5, "dense_epochs": 0}, "dense_epochs must be a whole number"),
        ({"sparsity": 0.5, "sparse_epochs": 1.5}, "sparse_epochs must be a whole number"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        IterativeHardThresholding(**settings)


@pytest.mark.parametrize(
    "settings, epochs, message",
    [
        ({"sparsity": 0.5}, 3, "would end in a dense phase.*train for 4 epochs"),
        ({"sparsity": 0.5, "dense_epochs": 2, "sparse_epochs": 3}, 6, "train for 10 epochs"),
        ({"sparsity": {"frist": 0.5}}, 2, "Did you mean 'first'"),
        ({"sparsity": 0.5, "include": "conv.*"}, 2, "Unknown layer or pattern"),
        ({"k": {"first": 10**6}}, 2, "k for 'first' must be a whole number from 1 to 144"),
        ({"k": {"first": 0}}, 2, "k for 'first' must be a whole number"),
        ({"k": {"first": True}}, 2, "k for 'first' must be a whole number"),
        ({"sparsity": {}}, 2, "No kernel of .* would be thresholded"),
        ({"k": {"first": 5}, "exclude": "first"}, 2, "No kernel of .* would be thresholded"),
    ],
)
def test_training_that_cannot_work_is_refused_before_it_begins(settings, epochs, message):
    model = network()
    before = arrays_of(model)
    with pytest.raises(ValueError, match=message):
        fit(model, IterativeHardThresholding(**settings), epochs=epochs)
    assert_equal(before, arrays_of(model))


class Fails(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise RuntimeError("the user pressed a key")


def test_masks_that_a_failed_training_left_on_are_gone_in_the_next():
    model = network()
    with pytest.raises(RuntimeError, match="pressed a key"):
        fit(model, IterativeHardThresholding(0.75, sparse_first=True), Fails())
    assert model.get_layer("first").kernel.constraint is not None
    fit(model, IterativeHardThresholding({"second": 0.5}, sparse_first=True))
    assert model.get_layer("first").kernel.constraint is None
    assert (array(model.get_layer("first").kernel) != 0).all()


class StopIn(keras.callbacks.Callback):
    """Stops at the end of an epoch, as EarlyStopping does."""

    def __init__(self, epoch: int):
        super().__init__()
        self.last = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == self.last


def test_training_stopped_in_a_dense_phase_ends_sparse_all_the_same_and_says_so():
    model = network()
    with pytest.warns(UserWarning, match="did not end with the weights of a sparse phase"):
        fit(model, IterativeHardThresholding(k={"first": np.int64(10)}), StopIn(2), epochs=4)
    assert np.count_nonzero(array(model.get_layer("first").kernel)) == 10
    assert model.get_layer("first").kernel.constraint is None
