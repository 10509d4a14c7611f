"""Only layers that zeros make faster get sparse; they are held in time, or get their dense weights back."""

import contextlib
import dataclasses
import functools
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from hypothesis import given
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
    subclassed,
)

from tfcompress import _native, schedules
from tfcompress.callbacks import GuidedSparsity, UpdateMasks, park_window
from tfcompress.callbacks.record import DROPPED, HELD, PRESSED, Progress, Record
from tfcompress.callbacks.training import sync
from tfcompress.callbacks.windows import windows_of
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
from tfcompress.ops import ConvShape, Window, predict, useful_window

NEEDS_CORE = pytest.mark.skipif(
    _native.path("core") is None, reason="the native core was not built (it needs a C++ compiler)"
)
CONV5 = ConvShape(13, 13, channels=384, filters=256, kernel_size=(3, 3), groups=2)  # of AlexNet
XEON = {"flops_per_second": 2150e9, "bytes_per_second": 122e9, "alpha": 3.0}
ATOM = {"flops_per_second": 62e9, "bytes_per_second": 15e9, "alpha": 1.2}


@dataclass(frozen=True)
class Follow(MaskRule):
    """Masks the first entries of each kernel of these names, at each step the share said for it."""

    shares: tuple[tuple[str, tuple[float, ...]], ...]
    due: tuple[int, ...] | None = None

    def next_update(self, step):
        return step if self.due is None else min((due for due in self.due if due >= step), default=None)

    def update(self, masked, step):
        return [self._mask(weight, step) for weight in masked]

    def _mask(self, weight, step):
        shares = dict(self.shares)[weight.path.split("/")[-2]]
        count = round(shares[min(step, len(shares) - 1)] * weight.size)
        return (np.arange(weight.size) >= count).reshape(weight.weight.shape)


def follow(due=None, **shares: float | tuple) -> Follow:
    pairs = ((name, share if isinstance(share, tuple) else (share,)) for name, share in shares.items())
    return Follow(tuple(pairs), due)


def of_kind(kind: str, rule: MaskRule, optimizer=None, **options) -> keras.Model:
    """The same weights under masks, of wrappers in a functional model or constraints in a subclassed one."""
    if kind == "wrapped":
        return wrap(network(optimizer, **options), rule)
    model = subclassed(optimizer, **options)
    constrain(model, rule)
    return model


def found(model: keras.Model, name: str):
    """What is masked of a layer."""
    return next(masked for masked in masked_weights(model) if masked.path.split("/")[-2] == name)


def sparsity(model: keras.Model, name: str) -> float:
    return float((~found(model, name).kept).mean())


def bits(model: keras.Model, name: str) -> list[bytes]:
    """All trained weights of a layer."""
    return [array(w).tobytes() for w in model.trainable_variables if w.path.split("/")[-2] == name]


# --- windows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("machine", "least"), [(XEON, 0.020), (ATOM, 0.011)], ids=["xeon", "atom"])
def test_formula_of_park_gives_the_bounds_of_the_paper(machine, least):
    window = park_window(CONV5, **machine)
    assert round(1 - window.upper, 3) == least
    assert 1 - window.lower == pytest.approx(1 / machine["alpha"])


SHAPES = st.builds(
    ConvShape,
    height=st.integers(6, 56),
    width=st.integers(6, 56),
    channels=st.sampled_from([16, 48, 64, 256]),
    filters=st.sampled_from([16, 32, 96, 256]),
    kernel_size=st.sampled_from([(1, 1), (3, 3), (1, 5)]),
    strides=st.sampled_from([(1, 1), (2, 2)]),
    padding=st.sampled_from(["same", "valid"]),
    groups=st.sampled_from([1, 2]),
)


@given(SHAPES, st.floats(1, 6), st.floats(1e9, 1e13), st.floats(1e9, 1e12))
def test_speed_up_of_the_formula_grows_in_the_window_and_hardly_beyond_it(shape, alpha, flops, bandwidth):
    machine = {"flops_per_second": flops, "bytes_per_second": bandwidth, "alpha": alpha}
    window = park_window(shape, **machine)
    layer = layers.Conv2D(1, shape.kernel_size, shape.strides, shape.padding)
    pixels = np.prod(layer.compute_output_shape((1, shape.height, shape.width, 1)))
    read_and_written = 4 * (shape.height * shape.width * shape.channels + pixels * shape.filters)
    dense = 2 * pixels * shape.weights / flops

    def speed_up(left):
        memory = (read_and_written + 2 * left * 4 * shape.weights) / bandwidth
        return dense / max(alpha * left * dense, memory)

    if window is None:
        assert all(speed_up(left) <= 1 + 1e-9 for left in (1 / alpha, 1))
        return
    most, least = 1 - window.lower, 1 - window.upper
    assert speed_up(most) == pytest.approx(1)
    assert speed_up(least) == pytest.approx(most / least, rel=1e-5)  # in proportion to the zeros
    # Beyond it only fewer weights are read, next to all that is read and written anyway.
    rest = 1 + 2 * least * 4 * shape.weights / read_and_written
    assert speed_up(least) * (1 - 1e-9) <= speed_up(0) <= speed_up(least) * rest * (1 + 1e-5)


@NEEDS_CORE
@pytest.mark.parametrize(
    "shape",
    [
        CONV5,
        ConvShape(27, 27, channels=96, filters=256, kernel_size=(5, 5), groups=2),
        ConvShape(56, 56, channels=64, filters=64, kernel_size=(3, 3)),
        ConvShape(56, 56, channels=128, filters=128, kernel_size=(3, 3), strides=(2, 2)),
        ConvShape(14, 14, channels=1024, filters=256, kernel_size=(1, 1)),
    ],
    ids=["alexnet_conv5", "alexnet_conv2", "resnet_3x3", "resnet_3x3_stride_2", "resnet_1x1"],
)
def test_predicted_speed_up_grows_in_the_window_and_little_beyond_it(shape):
    window = useful_window(shape)
    if window is None:
        pytest.skip("on this machine no sparsity makes it faster")

    def speed_up(share):
        cost = predict(shape, weights=round((1 - share) * shape.weights))
        return cost.dense_ms / cost.sparse_ms

    inside = [speed_up(share) for share in np.linspace(window.lower, window.upper, 5)]
    # With few zeros all blocks of 16 filters are there, and they are computed as if nothing were zero.
    assert inside[0] == pytest.approx(1, abs=0.1) and np.all(np.diff(inside) >= 0) and inside[-1] > 2
    # Half of the weights that are left at the upper end make up a quarter of the time.
    assert inside[-1] < speed_up((1 + window.upper) / 2) < 1.5 * inside[-1]


def test_every_map_that_a_layer_is_called_on_is_asked_about():
    asked = []

    def window(shape):
        asked.append(shape)
        return Window(0.5, 0.9) if shape.height < 9 else Window(0.6, 0.95)

    body = keras.Sequential([keras.Input((9, 8, 6)), layers.Conv2D(3, 1, name="inner")], name="body")
    shared = layers.Conv2D(4, (3, 2), strides=(1, 2), padding="same", groups=2, name="shared")
    i, j = keras.Input((9, 8, 6)), keras.Input((5, 4, 6))
    grown = [layers.Flatten()(shared(x)) for x in (i, j)]
    outputs = [layers.Dense(5, name="tokens")(i), layers.Dense(2, name="head")(grown[1]), grown[0], body(i)]
    outputs.append(layers.Conv2DTranspose(2, 2, name="transposed")(i))
    model = wrap(keras.Model([i, j], outputs), MagnitudePruning(0.5))
    model.compile("sgd", "mse")
    callback = GuidedSparsity(window)
    callback.set_params({"epochs": 1})
    callback.set_model(model)
    callback.on_train_begin()
    assert callback.layer_windows == {
        "tokens": Window(0.6, 0.95),
        "shared": Window(0.6, 0.9),  # the sparsities that pay on both maps
        "head": Window(0.5, 0.9),
        "body/inner": Window(0.6, 0.95),
        "transposed": None,
    }
    conv = ConvShape(9, 8, 6, 4, (3, 2), (1, 2), (1, 1), "same", 2)
    dense = ConvShape(9, 8, 6, 5, (1, 1), (1, 1), (1, 1), "valid", 1)
    assert set(asked) == {
        conv,
        dataclasses.replace(conv, height=5, width=4),
        dense,
        dataclasses.replace(dense, filters=3),
        dataclasses.replace(dense, height=1, width=1, channels=40, filters=2),
    }


@pytest.mark.parametrize(
    ("windows", "common"),
    [
        ((Window(0.5, 0.9), Window(0.6, 0.8)), Window(0.6, 0.8)),
        ((Window(0.5, 0.6), Window(0.7, 0.9)), None),
        ((Window(0.5, 0.9), None), None),
        ((None, None), None),
    ],
)
def test_window_of_a_shared_layer_is_what_all_its_maps_have_in_common(windows, common):
    shared = layers.Conv2D(2, 1, name="shared")
    i, j = keras.Input((4, 4, 2)), keras.Input((5, 5, 2))
    model = keras.Model([i, j], [shared(i), shared(j)])
    by_height = dict(zip((4, 5), windows, strict=True))
    got = windows_of(model, {"shared": shared}, lambda shape: by_height[shape.height], None)
    assert got == {"shared": common}


@NEEDS_CORE
def test_cost_model_is_asked_unless_told_otherwise():
    x = i = keras.Input((None, None, 64))
    x = layers.Conv2D(64, 3, padding="same", name="wide")(x)
    model = wrap(keras.Model(i, layers.Conv2D(2, 1, name="narrow")(x)), MagnitudePruning(0.5))
    model.compile("sgd", "mse")
    callback = GuidedSparsity(input_shape=(14, 14, 64))
    model.fit(np.zeros((1, 14, 14, 64)), np.zeros((1, 14, 14, 2)), callbacks=[callback], verbose=0)
    expected = useful_window(ConvShape(14, 14, 64, 64, (3, 3)))
    assert expected is not None and callback.layer_windows["wide"] == expected
    with pytest.raises(ValueError, match="size of input .* is open"):
        model.fit(
            np.zeros((1, 14, 14, 64)), np.zeros((1, 14, 14, 2)), callbacks=[GuidedSparsity()], verbose=0
        )


# --- pressed, held, dropped -----------------------------------------------------------------------------

KINDS = ("wrapped", "constrained")


@pytest.mark.parametrize("kind", KINDS)
def test_hopeless_layer_stays_dense_and_is_trained(kind):
    model = of_kind(kind, MagnitudePruning(0.8))
    before = {name: bits(model, name) for name in ("first", "second", "head")}
    callback = GuidedSparsity({"second": (0.5, 0.7), "head": None})
    fit(model, callback)
    assert callback.states == {"first": "hopeless", "second": "held", "head": "hopeless"}
    assert [sparsity(model, name) for name in before] == [0, pytest.approx(0.8, abs=1e-3), 0]
    assert all(bits(model, name) != value for name, value in before.items())
    assert np.count_nonzero(found(model, "first").value) == 144


@pytest.mark.parametrize("kind", KINDS)
def test_layer_is_held_once_its_sparsity_has_reached_the_upper_end(kind):
    rising = (0.25, 0.5, 0.75, 0.875)
    model = of_kind(kind, follow(first=rising, second=rising, head=rising))
    callback = GuidedSparsity({"first": (0.1, 0.5), "second": (0.1, 0.6), "head": (0.1, 0.9)})
    history = fit(model, callback, epochs=2).history
    assert [sparsity(model, name) for name in ("first", "second", "head")] == [0.5, 0.75, 0.875]
    assert callback.states == {"first": HELD, "second": HELD, "head": PRESSED}
    assert [history[state] for state in (PRESSED, HELD, DROPPED)] == [[1, 1], [2, 2], [0, 0]]
    assert history["sparsity"][-1] == (0.5 * 144 + 0.75 * 576 + 0.875 * 384) / 1104
    for masked in masked_weights(model):
        np.testing.assert_array_equal(masked.value == 0, ~masked.kept)


def test_held_masks_of_surgery_stay_while_others_are_cut_and_spliced():
    model = wrap(network(), DynamicNetworkSurgery(sparsity=0.6, gamma=0))
    masks = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: masks.append({m.path: m.kept for m in masked_weights(model)})
    )
    callback = GuidedSparsity({"second": (0.1, 0.55), "head": (0.1, 0.99)}, patience=9)
    fit(model, callback, watch, epochs=4)
    assert callback.states == {"first": "hopeless", "second": HELD, "head": PRESSED}
    assert_equal(*([epoch["second/kernel"]] for epoch in (masks[0], masks[-1])))
    assert (masks[0]["head/kernel"] != masks[-1]["head/kernel"]).any()


MODES = {
    "momentum": (lambda: keras.optimizers.SGD(0.05, momentum=0.9), "float32", {}),
    "averaged": (
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.5),
        "float32",
        {},
    ),
    "mixed_float16": (lambda: keras.optimizers.Adam(0.01), "mixed_float16", {}),
    "accumulating": (
        lambda: keras.optimizers.AdamW(
            0.01, gradient_accumulation_steps=3, use_ema=True, ema_overwrite_frequency=2
        ),
        "mixed_bfloat16",
        {"steps_per_execution": 3},
    ),
}
STALLED = {"first": 0.75, "second": 0.3, "head": 0.75}
WINDOWS = {"first": (0.5, 0.7), "second": (0.5, 0.9), "head": (0.5, 0.9)}


@pytest.fixture
def mode(request):
    """Under its policy."""
    before = keras.config.dtype_policy()
    make, policy, options = MODES[request.param]
    keras.config.set_dtype_policy(policy)
    yield make, options
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("momentum", "wrapped"),
        ("momentum", "constrained"),
        ("averaged", "wrapped"),
        ("mixed_float16", "constrained"),
        ("accumulating", "wrapped"),
    ],
    indirect=["mode"],
)
def test_dropped_layer_ends_bit_identical_to_its_dense_weights(mode, kind):
    make, options = mode
    model = of_kind(kind, follow(**STALLED), make(), **options)
    dense = {name: bits(model, name) for name in STALLED}
    callback, seen = GuidedSparsity(WINDOWS, patience=1), []

    def look(batch, logs):
        sync(model)
        seen.append(bits(model, "second") == dense["second"])

    watch = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    history = fit(model, callback, watch, epochs=4).history
    assert callback.states == {"first": HELD, "second": DROPPED, "head": PRESSED}
    assert history[DROPPED] == [0, 1, 1, 1] and np.isfinite(history["loss"]).all()
    assert len(dense["second"]) == 2, "a kernel and a bias"
    assert bits(model, "second") == dense["second"] and sparsity(model, "second") == 0
    assert all(bits(model, name) != dense[name] for name in ("first", "head"))
    half = len(seen) // 2  # it is dropped after the second epoch
    assert not any(seen[:half]) and all(seen[half:])
    if kind == "constrained":
        release(model)
    plain = strip(model) if kind == "wrapped" else model
    assert bits(plain, "second") == dense["second"]
    fit(plain)
    assert bits(plain, "second") != dense["second"], "it is held after the training"


def test_dropped_layer_has_its_dense_weights_also_where_others_are_put_back_at_the_end():
    model, first = wrap(network(), follow(**STALLED)), []
    dense = bits(model, "second")
    put_back = keras.callbacks.LambdaCallback(  # as EarlyStopping(restore_best_weights=True) does
        on_epoch_end=lambda epoch, logs: first.append(model.get_weights()),
        on_train_end=lambda logs: model.set_weights(first[0]),
    )
    callback = GuidedSparsity(WINDOWS, patience=1)
    fit(model, put_back, callback, epochs=3)
    assert callback.states["second"] == DROPPED and bits(model, "second") == dense
    assert sparsity(model, "second") == 0


STEPS = st.lists(st.floats(0.001, 0.03), min_size=1, max_size=30)


@given(STEPS, st.integers(1, 4))
def test_layer_that_still_gets_sparser_is_not_dropped(steps, patience):
    progress = Progress()
    tolerance = 0.99 * patience * min(steps)  # more than one step may be, but not `patience` of them
    for sparsity in np.cumsum(steps):
        progress = progress.seen(float(sparsity), Window(0.95, 0.99), patience, tolerance)
        assert progress.state == PRESSED


@given(st.lists(st.floats(0, 1), max_size=20), st.floats(0, 0.9), st.integers(1, 5), st.floats(0, 0.05))
def test_layer_is_dropped_as_soon_as_it_was_below_the_window_and_the_same_often_enough(
    before, final, patience, tolerance
):
    window, progress = Window(0.5, 0.9), Progress()
    for sparsity in [*before, *[final] * (patience + 1)]:
        if progress.state == PRESSED:
            progress = progress.seen(sparsity, window, patience, tolerance)
    if progress.state == DROPPED:
        assert progress.unchanged == patience and progress.sparsity < window.lower + tolerance
    else:
        assert final >= window.lower and progress.unchanged >= patience


@pytest.mark.parametrize(
    ("rule", "dropped_after"),
    [
        (follow(head=0.3), 3),  # the first epoch brings it to 0.3, and two see it there
        (follow(head=(0.1,) * 3 + (0.2,) * 3 + (0.3,)), 5),
        (follow(head=0.3, due=(0,)), 3),  # no update is to come any more
        (follow(head=0.3, due=(0, 9, 12, 99)), 5),  # two epochs without an update say nothing
        (follow(head=0.3, due=(12, 15, 99)), None),  # it begins late
        (MagnitudePruning(schedules.Polynomial(0.0, 0.4, end_step=20, frequency=1, power=1)), None),
    ],
    ids=["at_once", "in_steps", "once", "seldom", "late", "slowly"],
)
def test_layer_is_dropped_when_its_sparsity_has_stabilised(rule, dropped_after):
    model = wrap(network(), rule, include="head")
    history = fit(model, GuidedSparsity({"head": (0.5, 0.9)}, patience=2), epochs=7).history
    expected = [dropped_after is not None and epoch >= dropped_after for epoch in range(1, 8)]
    assert history[DROPPED] == expected


def test_stable_layer_inside_its_window_stays_pressed():
    model = wrap(network(), follow(head=0.6), include="head")
    callback = GuidedSparsity({"head": (0.5, 0.9)}, patience=1)
    fit(model, callback, epochs=5)
    assert callback.states == {"head": PRESSED} and sparsity(model, "head") == pytest.approx(0.6, abs=2e-3)


def test_one_ranking_over_layers_is_over_those_that_are_pressed():
    model = wrap(network(), MagnitudePruning(0.5, scope="global"))
    fit(model, GuidedSparsity({"second": (0.1, 0.9), "head": (0.1, 0.9)}))
    hidden = {name: (~found(model, name).kept).sum() for name in ("first", "second", "head")}
    assert hidden["first"] == 0 and hidden["second"] + hidden["head"] == (576 + 384) / 2


def test_masks_of_several_kernels_and_of_biases_are_restored_together():
    x = i = keras.Input((6, 4))
    x = layers.LSTM(5, name="recurrent")(x)
    model = keras.Model(i, layers.Dense(3, name="head")(x))
    model = wrap(model, DynamicNetworkSurgery(sparsity=0.4, mask_bias=True, gamma=0))
    model.compile("sgd", "mse")
    weights = model.get_layer("recurrent").layer.trainable_weights
    dense = [array(weight) for weight in weights]
    callback = GuidedSparsity({"recurrent": (0.8, 0.9)}, patience=1, tolerance=0.2)
    model.fit(np.ones((8, 6, 4)), np.ones((8, 3)), epochs=3, callbacks=[callback], verbose=0)
    assert callback.states == {"recurrent": DROPPED, "head": "hopeless"} and len(weights) == 3
    assert_equal(dense, [array(weight) for weight in weights])
    assert all(masked.kept.all() for masked in masked_weights(model))


# --- interruptions --------------------------------------------------------------------------------------

RISING = follow(first=0.75, second=0.3, head=(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))


@pytest.mark.parametrize(
    ("kind", "stopped", "order"),
    [
        ("wrapped", 0, "backup_first"),
        ("wrapped", 2, "backup_last"),
        ("constrained", 0, "backup_last"),
        ("constrained", 2, "backup_first"),
    ],
)
def test_training_that_was_killed_and_resumed_ends_like_one_that_was_not(tmp_path, kind, stopped, order):
    def trained(folder, *callbacks, other=0):
        model = of_kind(kind, RISING, dropout=0)  # Keras does not save the state of dropout with the weights
        for weight in model.trainable_variables:  # others, until BackupAndRestore puts the old ones in
            weight.assign(array(weight) + other)
        guided = GuidedSparsity(WINDOWS, patience=1, backup=tmp_path / folder / "guided")
        both = [keras.callbacks.BackupAndRestore(tmp_path / folder / "backup"), guided]
        with pytest.raises(KeyboardInterrupt) if callbacks else contextlib.nullcontext():
            fit(model, *(both if order == "backup_first" else both[::-1]), *callbacks, epochs=5)
        return model, guided

    whole, expected = trained("whole")
    trained("killed", StopAfter(stopped))
    resumed, guided = trained("killed", other=1)
    assert guided.states == expected.states == {"first": HELD, "second": DROPPED, "head": PRESSED}
    assert bits(resumed, "second") == bits(of_kind(kind, RISING), "second")
    assert_equal(arrays(whole), arrays(resumed))
    assert_equal(optimizer_state(whole), optimizer_state(resumed))
    assert_equal(*([masked.kept for masked in masked_weights(model)] for model in (whole, resumed)))


def test_resuming_without_a_backup_begins_anew_and_says_so(tmp_path):
    def trained(*callbacks):
        model = wrap(network(dropout=0), RISING)
        dense, guided = bits(model, "second"), GuidedSparsity(WINDOWS, patience=1)
        fit(model, keras.callbacks.BackupAndRestore(tmp_path / "backup"), guided, *callbacks, epochs=5)
        return dense, bits(model, "second"), guided.states

    with pytest.raises(KeyboardInterrupt):
        trained(StopAfter(1))
    with pytest.warns(UserWarning, match="goes on at epoch 2, but what GuidedSparsity knew .*backup="):
        dense, ended, states = trained()
    assert states["second"] == DROPPED and ended == dense


def test_second_fit_goes_on_where_the_first_ended():
    model, callback = wrap(network(dropout=0), RISING), GuidedSparsity(WINDOWS, patience=1)
    dense = bits(model, "second")
    fit(model, callback, epochs=1)
    assert callback.states["second"] == PRESSED and sparsity(model, "second") > 0
    history = [fit(model, callback).history[DROPPED] for _ in range(2)]
    assert history == [[1], [1]] and bits(model, "second") == dense
    model.compile("sgd", LOSS)  # counts steps anew
    fit(model, callback)
    assert callback.states["second"] == PRESSED


def test_training_goes_on_in_a_model_that_was_saved_and_loaded(tmp_path):
    rule = MagnitudePruning(schedules.Constant(sparsity=0.3, frequency=1))
    model = wrap(network(dropout=0), rule, include="second")
    dense = bits(model, "second")
    make = functools.partial(GuidedSparsity, {"second": (0.5, 0.9)}, patience=1, backup=tmp_path / "guided")
    fit(model, make())
    model.save(tmp_path / "model.keras")
    assert bits(model, "second") != dense
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    callback = make()
    fit(loaded, callback)
    assert callback.states == {"second": DROPPED} and bits(loaded, "second") == dense


def test_new_training_with_the_backup_of_another_begins_anew(tmp_path):
    for seed in (1, 2):
        model = wrap(network(dropout=0), RISING)
        model.set_weights([weight * seed for weight in model.get_weights()[:-3]] + model.get_weights()[-3:])
        dense, callback = (
            bits(model, "second"),
            GuidedSparsity(WINDOWS, patience=1, backup=tmp_path / "guided"),
        )
        fit(model, callback, epochs=2)
        assert callback.states["second"] == DROPPED and bits(model, "second") == dense


def test_fit_after_one_that_ended_in_an_error_lets_go_what_was_held():
    model = wrap(network(), RISING)
    with pytest.raises(KeyboardInterrupt):
        fit(model, GuidedSparsity(WINDOWS, patience=1), StopAfter(2), epochs=4)
    before = bits(model, "second")
    callback = GuidedSparsity({"first": (0.1, 0.9)})
    fit(model, callback)
    assert callback.states == {"first": PRESSED, "second": "hopeless", "head": "hopeless"}
    assert bits(model, "second") != before


def test_record_is_read_as_it_was_written(tmp_path):
    rng = np.random.default_rng(0)
    types = "float32", "float64", "float16"
    dense = {"body/conv": [rng.normal(size=(3, 2, 4)).astype(kind) for kind in types], "head": []}
    windows = {"body/conv": Window(0.1, 1 / 3), "head": Window(0.0, 1.0), "stem": None}
    steps = {3: {"body/conv": Progress(), "head": Progress(HELD, 2 / 3, 2)}}
    record = Record(windows, dense, steps)
    record.write_dense(tmp_path / "new")
    record.write_steps(tmp_path / "new")
    again = Record.read(tmp_path / "new")
    assert (again.windows, again.steps, list(again.dense)) == (windows, steps, list(dense))
    for path, values in dense.items():
        assert_equal(values, again.dense[path])
        assert [value.dtype for value in values] == [value.dtype for value in again.dense[path]]


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"windows": 0.5}, "dict from layer names .* got 0.5"),
        ({"windows": {"head": (0.9, 0.5)}}, "0 <= lower < upper <= 1.* Got .0.9, 0.5."),
        ({"windows": {"head": (-0.1, 0.5)}}, "pair of sparsities"),
        ({"windows": {"head": (0.1, float("nan"))}}, "pair of sparsities"),
        ({"windows": {"head": 0.5}}, "pair of sparsities.* Got 0.5"),
        ({"windows": {"head": "ab"}}, "pair of sparsities"),
        ({"patience": 0}, "patience must be a whole number of at least 1, got 0"),
        ({"patience": 1.5}, "patience must be a whole number"),
        ({"tolerance": -0.1}, "tolerance must be a number in"),
        ({"tolerance": None}, "tolerance must be a number in"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GuidedSparsity(**arguments)


@pytest.mark.parametrize("name", ["flops_per_second", "bytes_per_second", "alpha", "beta"])
def test_machine_whose_numbers_are_not_positive_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a number above 0, got 0"):
        park_window(CONV5, **{**XEON, name: 0})


@pytest.mark.parametrize(
    ("make", "windows", "message"),
    [
        (network, {"head": (0.5, 0.9)}, "Nothing in '.*' is masked"),
        (lambda: of_kind("wrapped", RISING), {"haed": (0.5, 0.9)}, "Did you mean 'head'"),
        (
            lambda: of_kind("wrapped", RISING),
            {"head": None},
            r"No layer .*\(first, second, head\).*UpdateMasks",
        ),
        (lambda: of_kind("wrapped", RISING), lambda shape: None, "No layer .* has a window"),
        (lambda: of_kind("wrapped", RISING), lambda shape: 0.5, "pair of sparsities.* Got 0.5"),
        (
            lambda: of_kind("constrained", RISING),
            None,
            "subclassed model .* Say yourself .*'conv': .0.6, 0.9",
        ),
    ],
    ids=["no_masks", "unknown_name", "none_named", "none_found", "no_window", "subclassed"],
)
def test_models_that_cannot_be_guided_are_refused_before_training(make, windows, message):
    model = make()
    before = arrays(model)
    with pytest.raises(ValueError, match=message):
        fit(model, GuidedSparsity(windows))
    assert_equal(before, arrays(model))


def test_missing_native_core_is_named_with_a_way_out(monkeypatch):
    def missing(shape):
        raise RuntimeError("The native core was not built.")

    monkeypatch.setattr("tfcompress.callbacks.windows.useful_window", missing)
    with pytest.raises(ValueError, match="core was not built. Or say yourself"):
        fit(wrap(network(), RISING), GuidedSparsity())


def test_backup_of_another_model_is_refused(tmp_path):
    make = functools.partial(GuidedSparsity, {"head": (0.5, 0.9)}, backup=tmp_path)
    fit(wrap(network(), RISING), make())
    model = wrap(network(), MagnitudePruning(0.5), include="head")
    fit(model, UpdateMasks())
    with pytest.raises(ValueError, match=r"is of other layers than .*\(head\). Give each training a folder"):
        fit(model, make())


def test_callback_does_no_harm_in_predict_and_evaluate():
    model = wrap(network(), RISING)
    before = arrays(model)
    plain = keras.Model(model.inputs, model.outputs)
    plain.predict(data()[0], verbose=0, callbacks=[GuidedSparsity(WINDOWS)])
    model.evaluate(*data(), verbose=0, callbacks=[GuidedSparsity(WINDOWS)])
    assert_equal(before, arrays(model))
