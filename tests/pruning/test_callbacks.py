"""Pruning inside `fit`, and what may interrupt it."""

import keras
import numpy as np
import pytest
import thorough
from keras import layers
from surgery import outputs_of, relative_error

import tfcompress
from tfcompress import callbacks, channels


def network(optimizer=None, **compile_options) -> keras.Model:
    x = i = keras.Input((8, 8, 2))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False, name="first")(x)))
    x = layers.Conv2D(8, 3, activation="relu", name="second")(x)
    x = layers.Dense(6, activation="relu", name="third")(layers.Flatten()(x))
    model = keras.Model(i, layers.Dense(3, name="head")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), loss, **compile_options)
    return model


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(48, 8, 8, 2)).astype("float32"), rng.integers(0, 3, 48)


def pruning(**settings) -> callbacks.LayerwisePruning:
    x, _ = data()
    return callbacks.LayerwisePruning("apoz", **{"sparsity": 0.5, "data": x, **settings})


def fit(model: keras.Model, *extra, epochs: int = 4, **settings):
    x, y = data()
    return model.fit(
        x, y, epochs=epochs, batch_size=16, verbose=0, shuffle=False, callbacks=list(extra), **settings
    )


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adamw": lambda: keras.optimizers.AdamW(0.01),
    "averaged": lambda: keras.optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=2),
    "averaged_at_the_end": lambda: keras.optimizers.Adam(0.01, use_ema=True),
    "accumulating": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
}
FIRST = ("momentum", "averaged", "accumulating")


@pytest.mark.parametrize("name", thorough.beside(OPTIMIZERS, FIRST))
def test_silenced_channels_stay_silent_and_can_be_removed(name):
    model = network(OPTIMIZERS[name]())
    fit(model, pruning())
    small = tfcompress.shrink_silenced(model)
    widths = [
        small.get_layer("first").filters,
        small.get_layer("second").filters,
        small.get_layer("third").units,
    ]
    assert widths == [4, 4, 3]
    x, _ = data()
    assert relative_error(outputs_of(model, [x]), outputs_of(small, [x])) < 1e-5


class Watch(keras.callbacks.Callback):
    """The number of silent channels after every batch."""

    def on_train_begin(self, logs=None):
        self.graph, self.counts = channels.trace(self.model), []

    def on_train_batch_end(self, batch, logs=None):
        self.counts.append(sum(int((~m).sum()) for m in channels.silenced(self.model, self.graph).values()))


@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 3}, {"jit_compile": True}])
def test_one_group_after_another_falls_silent_in_every_batch(options):
    model, watch = network(**options), Watch()
    fit(model, pruning(start_epoch=1), watch)
    per_epoch = len(watch.counts) // 4
    assert watch.counts == [0] * per_epoch + [4] * per_epoch + [8] * per_epoch + [11] * per_epoch


def test_the_others_go_on_learning():
    model = network()
    before = model.get_layer("second").kernel.numpy()
    fit(model, pruning())
    after = model.get_layer("second").kernel.numpy()
    silent = (after == 0).all(axis=(0, 1, 3))
    assert silent.sum() == 4 and (before != after).all()


def test_history_tells_the_sparsity():
    history = fit(network(), pruning()).history
    np.testing.assert_allclose(history["sparsity"], [4 / 22, 8 / 22, 11 / 22, 11 / 22])


class StopAt(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def test_resumed_training_ends_like_an_uninterrupted_one(tmp_path):
    def seeded():
        keras.utils.set_random_seed(5)
        return network(keras.optimizers.AdamW(0.01, use_ema=True))

    whole = seeded()
    fit(whole, pruning())
    backup = tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        fit(seeded(), pruning(), keras.callbacks.BackupAndRestore(str(backup)), StopAt())
    resumed = seeded()
    fit(resumed, pruning(), keras.callbacks.BackupAndRestore(str(backup)))
    for a, b in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-6)
    assert (
        tfcompress.shrink_silenced(resumed).count_params() == tfcompress.shrink_silenced(whole).count_params()
    )


def test_constraints_of_the_user_are_kept_and_given_back():
    model = network()
    kernel = model.get_layer("second").kernel
    kernel.constraint = keras.constraints.MaxNorm(0.1, axis=[0, 1, 2])
    fit(model, pruning())
    assert np.sqrt(np.square(kernel.numpy()).sum(axis=(0, 1, 2))).max() <= 0.1 + 1e-6
    assert isinstance(kernel.constraint, keras.constraints.MaxNorm)
    assert model.get_layer("third").kernel.constraint is None


def interrupted(model: keras.Model, pruner: callbacks.LayerwisePruning) -> keras.Model:
    """After the second of four epochs."""
    with pytest.raises(KeyboardInterrupt):
        fit(model, pruner, StopAt())
    return model


def silent(model: keras.Model) -> dict[str, int]:
    masks = channels.silenced(model, channels.trace(model))
    return {name: int((~mask).sum()) for name, mask in masks.items()}


def test_silenced_channels_are_held_after_an_interruption_too():
    model = interrupted(network(), pruning())
    assert silent(model) == {"first": 4, "second": 4}
    fit(model, epochs=1)
    assert silent(model) == {"first": 4, "second": 4}


@pytest.mark.parametrize("same", [True, False])
def test_pruning_again_after_an_interruption_leaves_no_mask_behind(same):
    model, pruner = network(), pruning()
    kernel = model.get_layer("second").kernel
    kernel.constraint = keras.constraints.MaxNorm(0.1, axis=[0, 1, 2])
    interrupted(model, pruner)
    fit(model, pruner if same else pruning())
    assert isinstance(kernel.constraint, keras.constraints.MaxNorm)
    assert all(weight.constraint is None for weight in model.weights if weight is not kernel)
    assert silent(model) == {"first": 4, "second": 4, "third": 3}


def test_fit_that_begins_behind_groups_that_are_due_is_refused_before_training():
    model = network()
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(ValueError, match=r"begins at epoch 2, but the groups \['first', 'second'\] were due"):
        fit(model, pruning(), initial_epoch=2)
    assert all((a == b.numpy()).all() for a, b in zip(before, model.weights, strict=True))
    fit(model, pruning(start_epoch=2), initial_epoch=2, epochs=5)
    assert silent(model) == {"first": 4, "second": 4, "third": 3}


def test_fit_goes_on_with_the_groups_that_an_earlier_one_left():
    model = network()
    fit(model, pruning(include=["first", "second"]), epochs=2)
    fit(model, pruning(), initial_epoch=2, epochs=3)
    assert silent(model) == {"first": 4, "second": 4, "third": 3}


def test_calibration_data_that_can_be_read_only_once_is_enough_for_all_groups():
    model, (x, _) = network(), data()
    fit(model, pruning(data=(x[start : start + 16] for start in (0, 16, 32))))
    assert silent(model) == {"first": 4, "second": 4, "third": 3}


def test_only_groups_that_the_criterion_scores_take_epochs():
    model = network()
    fit(model, callbacks.LayerwisePruning("bn_scale", sparsity=0.5), epochs=1)
    assert silent(model) == {"first": 4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"\[0, 1\)"),
        ({"sparsity": {}}, "empty dict"),
        ({"selection": tfcompress.Selection(scope="global")}, "no ranking over all layers"),
        ({"every": 0}, "every >= 1"),
        ({"criterion": "apos"}, "Did you mean 'apoz'"),
    ],
)
def test_bad_settings_are_refused_when_made(settings, message):
    with pytest.raises(ValueError, match=message):
        callbacks.LayerwisePruning(**{"criterion": "apoz", "sparsity": 0.5, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 2}, "need 6 epochs, fit.. has 4"),
        ({"start_epoch": 2}, "need 5 epochs"),
        ({"include": "frist"}, "Did you mean 'first'"),
        ({"sparsity": {"head": 0.5}}, "Nothing can be pruned"),
        ({"data": None, "start_epoch": 1}, "pass data"),
        ({"data": np.zeros((4, 5, 5, 2)), "start_epoch": 1}, "wants batches of shape"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(settings, message):
    model = network()
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(ValueError, match=message):
        fit(model, pruning(**settings))
    assert all((a == b.numpy()).all() for a, b in zip(before, model.weights, strict=True))


def test_model_with_no_silent_channels_is_shrunk_to_itself():
    model = network()
    assert tfcompress.shrink_silenced(model).count_params() == model.count_params()


def test_wholly_silent_group_keeps_one_channel():
    model = network()
    graph = channels.trace(model)
    third = model.get_layer("head")
    third.set_weights([np.zeros((6, 3)), np.ones(3)])
    assert int(channels.silenced(model, graph)["third"].sum()) == 1
    small = tfcompress.shrink_silenced(model)
    x, _ = data()
    assert relative_error(outputs_of(model, [x]), outputs_of(small, [x])) < 1e-6
