"""Group lasso while a model trains: steps that follow the learning rate, strengths that find their target,
zeros that stay, and the smaller model at the end."""

import itertools

import keras
import numpy as np
import pytest
import thorough
from keras import layers
from keras.optimizers import SGD, Adam, AdamW
from masks import StopAfter, array, assert_equal
from surgery import outputs_of, relative_error

from tfcompress import analysis, attach, compact, remove_zeroed
from tfcompress.callbacks import FollowLearningRate, FreezeZeros, ReachSparsity
from tfcompress.constraints import Chain, Proximal, Threshold
from tfcompress.regularizers import GroupLasso, Sum, lassos

# --- FollowLearningRate ---------------------------------------------------------------------------------

STRENGTH = 0.5


def shrinking(optimizer, constraint=None, **compile_options) -> keras.Model:
    """Its loss has no gradient, so that nothing but the proximal steps moves its filters, of norm 5."""
    proximal = constraint or Proximal(GroupLasso("filters", STRENGTH))
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(3, use_bias=False, kernel_constraint=proximal, name="dense")]
    )
    model.compile(optimizer, "mse", **compile_options)
    model.set_weights([np.array([[3.0, -4.0, 0.0], [4.0, 3.0, 5.0]])])
    return model


def shrunk_by(model: keras.Model, batches: int, *more, **options) -> float:
    """By how much the norm of every filter went down."""
    data = np.zeros((batches, 2)), np.zeros((batches, 3))
    options = {"batch_size": 1, "verbose": 0, **options}
    model.fit(*data, callbacks=[FollowLearningRate(), *more], **options)
    norms = np.linalg.norm(array(model.weights[0]), axis=0)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)
    return 5 - norms[0]


def near(expected: float):
    return pytest.approx(expected, rel=1e-4)


def test_steps_are_as_long_as_the_learning_rate():
    assert shrunk_by(shrinking(SGD(0.1)), 4) == near(4 * 0.1 * STRENGTH)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_follow_a_schedule(jit_compile):
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.4, 0.1, 0.01])
    model = shrinking(SGD(rates), jit_compile=jit_compile)
    assert shrunk_by(model, 6) == near((2 * 0.4 + 2 * 0.1 + 2 * 0.01) * STRENGTH)


def test_steps_follow_a_callback_that_sets_the_rate():
    halved = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate if epoch == 0 else rate / 2)
    assert shrunk_by(shrinking(SGD(0.4)), 2, halved, epochs=3) == near(2 * (0.4 + 0.2 + 0.1) * STRENGTH)


def test_small_steps_of_accumulated_gradients_add_up_to_whole_ones():
    model = shrinking(SGD(0.4, gradient_accumulation_steps=4))
    assert shrunk_by(model, 8) == near(2 * 0.4 * STRENGTH)


def test_steps_follow_the_optimizer_inside_one_that_scales_the_loss():
    scaled = keras.optimizers.LossScaleOptimizer(SGD(0.1, gradient_accumulation_steps=2))
    assert shrunk_by(shrinking(scaled), 4) == near(2 * 0.1 * STRENGTH)


def test_skipped_step_shrinks_nothing():
    """A gradient that is not finite makes the optimizer that scales the loss skip a step."""
    model = shrinking(keras.optimizers.LossScaleOptimizer(SGD(0.1)))
    x = np.array([[0, 0], [np.inf, 0], [0, 0]], "float32")
    model.fit(x, np.zeros((3, 3)), batch_size=1, shuffle=False, callbacks=[FollowLearningRate()], verbose=0)
    norms = np.linalg.norm(array(model.weights[0]), axis=0)
    np.testing.assert_allclose(norms, 5 - 2 * 0.1 * STRENGTH, rtol=1e-5)


def test_steps_follow_the_optimizer_of_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = shrinking("sgd")
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert shrunk_by(model, 3) == near(3 * 0.01 * STRENGTH)


def test_steps_follow_the_optimizer_of_the_last_compile():
    model = shrinking(SGD(0.1))
    first = shrunk_by(model, 1)
    model.compile(SGD(0.4), "mse")
    assert shrunk_by(model, 1) - first == near(0.4 * STRENGTH)


def test_step_inside_a_chain_follows_and_a_step_of_its_own_does_not():
    lasso = GroupLasso("filters", STRENGTH)
    both = Chain([Proximal(lasso), Threshold(1e-6), Proximal(lasso, step=0.02)])
    assert shrunk_by(shrinking(SGD(0.1), both), 3) == near(3 * (0.1 + 0.02) * STRENGTH)


def test_model_without_a_step_to_follow_is_refused():
    model = shrinking(SGD(0.1), Proximal(GroupLasso(), step=0.1))
    with pytest.raises(ValueError, match=r"'sequential.*' has a constraints.Proximal\(step=None\)"):
        shrunk_by(model, 1)


# --- FreezeZeros ----------------------------------------------------------------------------------------

OPTIMIZERS = {
    "momentum": lambda: SGD(0.05, momentum=0.9),
    "nesterov_accumulated": lambda: SGD(0.05, momentum=0.9, nesterov=True, gradient_accumulation_steps=2),
    "adamw": lambda: AdamW(0.01, weight_decay=0.1),
    "ema": lambda: Adam(0.01, use_ema=True, ema_momentum=0.5),
    "ema_overwriting": lambda: SGD(0.05, momentum=0.9, use_ema=True, ema_overwrite_frequency=3),
}


def images(size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 6, 6, 4)).astype("float32"), rng.normal(size=(size, 2)).astype("float32")


def convolutions(optimizer="sgd") -> keras.Model:
    x = i = keras.Input((6, 6, 4))
    x = layers.Conv2D(6, 3, activation="tanh", name="plain")(x)
    x = layers.Conv2D(6, 3, groups=2, activation="tanh", name="grouped")(x)
    model = keras.Model(i, layers.Dense(2, name="head")(layers.Flatten()(x)))
    model.compile(optimizer, "mse")
    return model


def fit(model: keras.Model, *callbacks, epochs: int = 2, **options) -> keras.callbacks.History:
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
    return model.fit(*images(), epochs=epochs, callbacks=list(callbacks), **options)


def fit_again(model: keras.Model, *callbacks) -> keras.callbacks.History:
    if model.optimizer.use_ema and keras.backend.backend() == "jax":
        pytest.skip("Plain Keras 3.15 fails there: weights and their averages share a buffer by now.")
    return fit(model, *callbacks)


def zeroed(model: keras.Model) -> dict[str, np.ndarray]:
    """Makes rows, columns, and single weights zero; returns where whole rows or columns are."""
    groups = {}
    for name, rows, columns in (("plain", [1], [(0, 2, 3)]), ("grouped", [4], [(1, 1, 0)])):
        kernel = array(model.get_layer(name).kernel).copy()
        mask = np.zeros(kernel.shape, bool)
        mask[..., rows] = True
        for column in columns:
            mask[(*column, slice(None) if name == "plain" else slice(0, 3))] = True  # of the first group
        kernel[mask] = 0
        kernel[2, 0, 1, 0] = 0  # alone
        model.get_layer(name).kernel.assign(kernel)
        groups[name] = mask
    return groups


class Kernels(keras.callbacks.Callback):
    """Notes the kernels after every batch."""

    def on_train_begin(self, logs=None):
        self.seen = {"plain": [], "grouped": []}

    def on_train_batch_end(self, batch, logs=None):
        for name, kernels in self.seen.items():
            kernels.append(array(self.model.get_layer(name).kernel))


@pytest.mark.parametrize("mode", ["groups", "weights"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_exactly_zero_and_all_else_moves(name, mode):
    model = convolutions(OPTIMIZERS[name]())
    fit(model)  # so that momentum and averages are there
    groups, watched = zeroed(model), Kernels()
    before = {layer: array(model.get_layer(layer).kernel) for layer in groups}
    fit_again(model, FreezeZeros(mode), watched)
    for layer, mask in groups.items():
        held = mask if mode == "groups" else before[layer] == 0
        assert mask.sum() < (before[layer] == 0).sum(), "a zero that is no group"
        for kernel in watched.seen[layer]:
            assert not kernel[held].view("uint32").any()
        after = array(model.get_layer(layer).kernel)
        assert not after[held].any() and (after[~held] != before[layer][~held]).all()
        assert model.get_layer(layer).kernel.constraint is None, "released"
    assert (array(model.get_layer("head").kernel) != 0).all()


def test_moving_averages_of_zeros_are_zero():
    model = convolutions(OPTIMIZERS["ema"]())
    fit(model)
    groups = zeroed(model)
    fit_again(model, FreezeZeros("groups"))
    averages = [v for v in model.optimizer.variables if "average" in v.path and "plain_kernel" in v.path]
    assert len(averages) == 1 and not array(averages[0])[groups["plain"]].any()


def test_weights_up_to_the_threshold_are_made_zero():
    model = convolutions()
    kernel = array(model.get_layer("plain").kernel)
    fit(model, FreezeZeros("weights", threshold=0.05, include="plain"))
    small = np.abs(kernel) <= 0.05
    assert small.any() and ((array(model.get_layer("plain").kernel) == 0) == small).all()


@pytest.mark.parametrize("patterns", [{"include": "plain"}, {"exclude": ["grouped", "head"]}])
def test_only_the_wanted_layers_are_held(patterns):
    model = convolutions()
    groups = zeroed(model)
    fit(model, FreezeZeros("groups", **patterns))
    assert not array(model.get_layer("plain").kernel)[groups["plain"]].any()
    assert array(model.get_layer("grouped").kernel)[groups["grouped"]].all()


def test_constraint_that_was_there_holds_meanwhile_and_after():
    model = convolutions()
    limit = keras.constraints.MaxNorm(0.3, axis=(0, 1, 2))
    model.get_layer("plain").kernel.constraint = limit
    groups = zeroed(model)
    fit(model, FreezeZeros("groups"))
    kernel = array(model.get_layer("plain").kernel)
    assert not kernel[groups["plain"]].any()
    assert np.linalg.norm(kernel.reshape(-1, 6), axis=0).max() <= 0.3 * 1.0001
    assert model.get_layer("plain").kernel.constraint is limit


def test_zeros_are_those_that_a_resumed_training_comes_back_with(tmp_path):
    def model():
        keras.utils.set_random_seed(1)
        return convolutions(SGD(0.05, momentum=0.9))

    def callbacks():
        return keras.callbacks.BackupAndRestore(tmp_path), FreezeZeros("groups")

    killed, resumed = model(), model()
    groups = zeroed(killed)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, *callbacks(), StopAfter(0))
    fit(resumed, *callbacks())  # whose own kernels begin without zeros
    assert not array(resumed.get_layer("plain").kernel)[groups["plain"]].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "group"}, "Did you mean 'groups'"),
        ({"threshold": -0.1}, "threshold must be >= 0, got -0.1"),
        ({"threshold": float("nan")}, "threshold must be >= 0, got nan"),
        ({}, "No row or column of a kernel of 'functional.*' is at most 0.0 in magnitude"),
        ({"mode": "weights"}, "No weight of 'functional.*' is at most 0.0 in magnitude"),
        ({"include": "plane"}, "Did you mean 'plain'"),
    ],
)
def test_nothing_to_hold_and_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fit(convolutions(), FreezeZeros(**settings))


# --- ReachSparsity --------------------------------------------------------------------------------------

EPOCHS, PLANNED = 24, 18


def teacher() -> tuple[np.ndarray, np.ndarray]:
    """Two outputs that depend on three means over images."""
    x = np.random.default_rng(0).normal(size=(64, 6, 6, 4)).astype("float32")
    means = 6 * x.mean(axis=(1, 2))
    return x, np.tanh(np.stack([means[:, 0] + means[:, 1], means[:, 2]], axis=1))


def learn(model: keras.Model, *callbacks, epochs: int = EPOCHS, **options) -> dict[str, list[float]]:
    """Eight steps an epoch; returns the history."""
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
    return model.fit(*teacher(), epochs=epochs, callbacks=list(callbacks), **options).history


def dense_network(optimizer) -> keras.Model:
    i = keras.Input((6, 6, 4))
    x = layers.Dense(16, activation="tanh", name="wide")(layers.Flatten()(i))
    model = keras.Model(i, layers.Dense(2, name="head")(x))
    model.compile(optimizer, "mse")
    return model


def residual_network(optimizer) -> keras.Model:
    x = i = keras.Input((6, 6, 4))
    x = layers.Conv2D(8, 1, name="stem")(x)
    for name in ("one", "two"):
        y = layers.Conv2D(8, 3, padding="same", activation="relu", name=name)(x)
        x = layers.Add()([x, layers.Conv2D(8, 3, padding="same", name=f"{name}_outer")(y)])
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization(name="norm")(x))
    model = keras.Model(i, layers.Dense(2, name="head")(x))
    model.compile(optimizer, "mse")
    return model


def proximal(model: keras.Model, groups: str = "filters", strength: float = 1e-3) -> keras.Model:
    return attach(model, Proximal(GroupLasso(groups, strength)), exclude="head")


def thresholded(model: keras.Model, limit: float) -> keras.Model:
    penalized = attach(model, GroupLasso("filters", 1e-3), exclude="head")
    return attach(penalized, Threshold(limit), exclude="head")


METHODS = {
    "proximal_sgd": lambda build: (proximal(build(SGD(0.1))), FollowLearningRate()),
    "threshold_sgd": lambda build: (thresholded(build(SGD(0.1)), limit=1e-2),),
    "threshold_adam": lambda build: (thresholded(build(Adam(0.003)), limit=5e-3),),
}


def penalized(model: keras.Model) -> list[tuple[keras.Variable, GroupLasso]]:
    return [
        (weight, lasso)
        for weight in model.trainable_variables
        for lasso in lassos(weight.regularizer) + lassos(weight.constraint)
    ]


def norms_of(groups: list[tuple[keras.Variable, GroupLasso]]) -> np.ndarray:
    return np.concatenate([array(lasso.norms(weight)) for weight, lasso in groups])


class Norms(keras.callbacks.Callback):
    """Notes the norms before other callbacks see the end of an epoch; the first entry is the start."""

    def on_train_begin(self, logs=None):
        self.groups = penalized(self.model)
        self.seen = [norms_of(self.groups)]

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(norms_of(self.groups))


@pytest.mark.parametrize(
    ("method", "build"),
    thorough.beside(
        itertools.product(METHODS, (dense_network, residual_network)),
        [*((method, dense_network) for method in METHODS), ("proximal_sgd", residual_network)],
    ),
)
def test_target_is_reached_in_time_and_hardly_overshot(method, build):
    model, *follow = METHODS[method](build)
    norms = Norms()
    history = learn(model, norms, ReachSparsity(0.6, epochs=PLANNED), *follow)
    share = history["group_sparsity"]
    dead = norms_of(penalized(model)) == 0
    assert share[-1] == pytest.approx(dead.mean()) and 0.6 <= dead.mean() <= 0.75
    assert share[PLANNED - 1] >= 0.6 and max(share[: PLANNED // 2]) < 0.3
    # The strength did it: what was cut off at the end was nearly zero.
    held = norms.seen[PLANNED + 1] == 0
    assert norms.seen[PLANNED][held].max() < 0.2 * np.median(norms.seen[0])
    assert (norms.seen[-1][held] == 0).all(), "what is zero stays zero"
    assert history["strength"][0] == pytest.approx(1e-3) and set(history["strength"][PLANNED:]) == {0}


def test_rest_of_the_training_is_fine_tuning():
    model, follow = METHODS["proximal_sgd"](dense_network)
    kernels = {}

    class Notes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernels[epoch] = array(self.model.get_layer("wide").kernel)

    history = learn(model, ReachSparsity(0.6, epochs=PLANNED), Notes(), follow)
    reached, after = kernels[PLANNED - 1], kernels[EPOCHS - 1]
    assert ((reached == 0) == (after == 0)).all() and (reached[reached != 0] != after[reached != 0]).all()
    assert history["loss"][-1] < history["loss"][PLANNED - 1] / 2
    assert model.get_layer("wide").kernel.constraint.penalty.strength == 0


def test_without_release_the_strength_stays_as_it_was_when_the_target_was_reached():
    model, follow = METHODS["proximal_sgd"](dense_network)
    history = learn(model, ReachSparsity(0.3, epochs=6, release=False), follow, epochs=12)
    share, strength = history["group_sparsity"], history["strength"]
    reached = next(epoch for epoch in range(12) if share[epoch] >= 0.3)
    assert 4 <= reached <= 8 and min(share[reached:]) >= 0.3
    assert set(strength[reached + 1 :]) == {strength[-1]} and strength[-1] > 0.01


def test_epochs_are_two_thirds_of_the_training_unless_said():
    model, follow = METHODS["proximal_sgd"](dense_network)
    share = learn(model, ReachSparsity(0.5), follow, epochs=9)["group_sparsity"]
    assert share[4] < 0.5 <= share[5]


@pytest.mark.parametrize("epochs", [1, 5, 7])
def test_last_look_is_at_the_end_of_the_epochs_however_they_divide(epochs):
    model, follow = METHODS["proximal_sgd"](dense_network)
    assert learn(model, ReachSparsity(0.5, epochs=epochs), follow, epochs=epochs)["group_sparsity"][-1] >= 0.5


def test_weights_can_be_what_counts():
    """A filter of the stem has 4 weights, of the others 72: of the groups, few weights would do."""
    model, follow = METHODS["proximal_sgd"](residual_network)
    share = learn(model, ReachSparsity(0.5, of="weights", epochs=6), follow, epochs=8)["group_sparsity"]
    kernels = [array(weight) for weight, _ in penalized(model)]
    zeros = sum((kernel == 0).sum() for kernel in kernels) / sum(kernel.size for kernel in kernels)
    assert share[-1] == pytest.approx(zeros) and 0.5 <= zeros <= 0.6


def test_kernels_keep_the_ratio_of_their_strengths():
    model = proximal(residual_network(SGD(0.1)))
    lasso = model.get_layer("stem").kernel.constraint.penalty
    lasso.strength = 5e-3
    strengths = []

    class Notes(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            strengths.append([lasso.strength for _, lasso in penalized(self.model)])

    learn(model, ReachSparsity(0.5, epochs=6), Notes(), FollowLearningRate(), epochs=4 + 2)
    assert len({strength[0] for strength in strengths}) > 4, "it adapts"
    for strength in strengths:
        np.testing.assert_allclose(strength, strength[1] * np.array([5, 1, 1, 1, 1]), rtol=1e-6)


def test_only_penalties_of_the_wanted_kind_are_adapted():
    both = Sum([GroupLasso("filters", 1e-3), GroupLasso("channels", 1e-4)])
    model = attach(dense_network(SGD(0.1)), Proximal(both), exclude="head")
    share = learn(model, ReachSparsity(0.5, groups="filters", epochs=4), FollowLearningRate(), epochs=5)
    (kernel, filters), (_, channels) = penalized(model)
    assert (filters.strength, channels.strength) == (0, 1e-4)
    assert share["group_sparsity"][-1] == filters.zeroed(kernel).mean() >= 0.5


def test_data_of_unknown_length_is_looked_at_once_an_epoch():
    model, follow = METHODS["proximal_sgd"](dense_network)
    x, y = teacher()
    batches = itertools.cycle([(x[start : start + 8], y[start : start + 8]) for start in range(0, 64, 8)])
    data = (batch for batch in batches)  # a generator
    callbacks = [ReachSparsity(0.5, epochs=5), follow]
    history = model.fit(
        data, epochs=6, steps_per_epoch=8, shuffle=False, callbacks=callbacks, verbose=0
    ).history
    assert history["group_sparsity"][4] >= 0.5 and len(set(history["strength"][:5])) == 5


@pytest.mark.parametrize(
    ("method", "killed_after", "first"),
    [
        ("proximal_sgd", 1, "sparsity"),
        ("proximal_sgd", 5, "sparsity"),
        ("proximal_sgd", 5, "backup"),
        ("threshold_adam", 6, "backup"),
    ],
)
def test_training_killed_and_resumed_ends_with_the_weights_of_one_that_was_not(
    method, killed_after, first, tmp_path
):
    """The sparsity is reached at the end of epoch 5; `first` is which callback comes first in the list."""

    def train(*more, folder):
        keras.utils.set_random_seed(0)
        model, *follow = METHODS[method](dense_network)
        pair = [
            ReachSparsity(0.6, epochs=6, backup=tmp_path / folder / "strength.json"),
            keras.callbacks.BackupAndRestore(tmp_path / folder / "backup"),
        ]
        history = learn(model, *(pair if first == "sparsity" else pair[::-1]), *follow, *more, epochs=8)
        return model, history

    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    whole, history = train(folder="whole")
    assert history["group_sparsity"][4] < 0.6 <= history["group_sparsity"][5]
    with pytest.raises(KeyboardInterrupt):
        train(StopAfter(killed_after), folder="killed")
    resumed, rest = train(folder="killed")
    assert_equal([array(v) for v in whole.variables], [array(v) for v in resumed.variables])
    assert rest["strength"] == history["strength"][killed_after + 1 :]


def test_group_that_dies_while_fine_tuning_is_held_too():
    """A training that is resumed could not tell it from the others."""
    model, follow = METHODS["proximal_sgd"](dense_network)

    class Dies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            kernel = array(self.model.get_layer("wide").kernel)
            if epoch == 6:  # at the end of its first half
                self.alive = np.flatnonzero(kernel.any(axis=0))[0]
                self.model.get_layer("wide").kernel.assign(kernel * (np.arange(16) != self.alive))

    class Again(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 6:
                kernel = array(self.model.get_layer("wide").kernel)
                self.model.get_layer("wide").kernel.assign(kernel * (np.arange(16) != dies.alive))

    dies = Dies()
    learn(model, dies, Again(), ReachSparsity(0.5, epochs=4), follow, epochs=9)
    assert not array(model.get_layer("wide").kernel)[:, dies.alive].any()


@pytest.mark.parametrize(("floor", "left"), [(0, 0), (0.25, 2), (0.3, 3)])
def test_every_kernel_keeps_its_floor(floor, left):
    """Nothing depends on the idle layer, so that all of it would be the first to go."""
    i = layers.Input((6, 6, 4))
    wide = layers.Dense(16, activation="tanh", name="wide")(layers.Flatten()(i))
    idle = layers.Rescaling(0.0)(layers.Dense(8, name="idle")(layers.Flatten()(i)))
    model = keras.Model(i, layers.Dense(2, name="head")(layers.Concatenate()([wide, idle])))
    model.compile(SGD(0.1), "mse")
    model = attach(model, Proximal(GroupLasso("filters", 1e-3)))
    history = learn(model, FollowLearningRate(), ReachSparsity(0.5, floor=floor))
    assert history["group_sparsity"][-1] >= 0.5
    assert array(model.get_layer("idle").kernel).any(axis=0).sum() == left


def test_sparsity_beyond_the_floor_is_refused():
    model, follow = METHODS["proximal_sgd"](dense_network)
    with pytest.raises(ValueError, match=r"With floor=0.25 at most 0.750 of the groups can be zero"):
        learn(model, ReachSparsity(0.8, floor=0.25), follow)


def test_resumed_training_that_does_not_know_its_strength_says_so():
    model, follow = METHODS["proximal_sgd"](dense_network)
    learn(model, follow, epochs=1)
    with pytest.warns(UserWarning, match="Training goes on at epoch 1, but what strength"):
        learn(model, ReachSparsity(0.5, epochs=2), follow, epochs=2, initial_epoch=1)


def test_training_too_short_for_its_target_says_so():
    model, follow = METHODS["proximal_sgd"](dense_network)
    with pytest.warns(UserWarning, match=r"ReachSparsity\(sparsity=0.5\) got to 0.000 only"):
        learn(model, ReachSparsity(0.5, epochs=10), follow, epochs=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 0.0}, r"sparsity must be a number in \(0, 1\), got 0.0"),
        ({"sparsity": 1}, r"sparsity must be a number in \(0, 1\), got 1"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, or None, got 0"),
        ({"looks": 0}, "looks must be a whole number of at least 1, got 0"),
        ({"sparsity": "half"}, r"sparsity must be a number in \(0, 1\), got 'half'"),
        ({"floor": 1}, r"floor must be a number in \[0, 1\), got 1"),
        ({"threshold": -1e-4}, "threshold must be a number of at least 0, got -0.0001"),
        ({"change": 1.0}, "change must be a number above 1, got 1.0"),
        ({"bounds": (0, 1)}, r"bounds must be two positive numbers in order, got \(0, 1\)"),
        ({"bounds": (1, 0.1)}, "bounds must be two positive numbers in order"),
        ({"groups": "filter"}, "Did you mean 'filters'"),
        ({"of": "layers"}, "Unknown of= 'layers'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ReachSparsity(**{"sparsity": 0.5, **settings})


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (dense_network, {}, "adapts the strength of group lasso, and 'functional.*' has none"),
        (lambda o: proximal(dense_network(o)), {"groups": "shapes"}, "has none"),
        (lambda o: proximal(dense_network(o), strength=0.0), {}, "a strength of 0, which no factor changes"),
    ],
)
def test_model_without_a_strength_to_adapt_is_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        learn(model(SGD(0.1)), ReachSparsity(0.5, **settings))


# --- from training to a smaller model -------------------------------------------------------------------


def equal_outputs(model: keras.Model, small: keras.Model) -> bool:
    x = [teacher()[0]]
    return relative_error(outputs_of(model, x), outputs_of(small, x)) <= 1e-5


def test_filters_that_training_zeroed_are_removed():
    model, follow = METHODS["proximal_sgd"](dense_network)
    learn(model, ReachSparsity(0.6, epochs=6), follow, epochs=8)
    small = remove_zeroed(model)
    dead = int((norms_of(penalized(model)) == 0).sum())
    assert dead >= 10 and small.get_layer("wide").units == 16 - dead and equal_outputs(model, small)
    assert small.count_params() == (144 + 1 + 2) * (16 - dead) + 2
    assert np.isfinite(learn(small, FollowLearningRate(), epochs=1)["loss"]).all()


def test_columns_that_training_zeroed_are_left_out():
    model = proximal(convolutions(SGD(0.1)), "shapes")
    learn(model, ReachSparsity(0.7, epochs=6), FollowLearningRate(), epochs=7)
    small = compact(remove_zeroed(model), threshold=0.3)
    assert small.compacted.layers and equal_outputs(model, small)
    assert analysis.macs(small) < 0.6 * analysis.macs(model)


def test_branch_that_training_zeroed_is_cut():
    model = attach(residual_network(SGD(0.1)), Proximal(GroupLasso("depth", 1e-3)))
    assert set(model.attached.kernels) == {"one", "one_outer", "two", "two_outer"}
    learn(model, ReachSparsity(0.25, epochs=5), FollowLearningRate(), epochs=6)
    small = remove_zeroed(model)
    assert len(small.branches) >= 1 and equal_outputs(model, small)
    assert len(small.layers) < len(model.layers) and small.count_params() < model.count_params() - 1000
