"""Masks are updated at the steps that rules name, what would update none is refused, sparsity is logged."""

import importlib.util
import warnings
from dataclasses import dataclass, field

import keras
import numpy as np
import pytest
from masks import array, arrays, assert_equal, assign_random_masks, data, fit, network, weights_of

from tfcompress import schedules
from tfcompress.callbacks import UpdateMasks
from tfcompress.layers import (
    DynamicNetworkSurgery,
    MagnitudePruning,
    MaskedLayer,
    MaskRule,
    constrain,
    masked_weights,
    wrap,
)

KERNELS = {"first": 144, "second": 576, "head": 384}  # entries


@dataclass(frozen=True)
class At(MaskRule):
    """Hides nothing, at given steps, and writes down at which it was asked to."""

    due: tuple[int, ...]
    asked: list[int] = field(default_factory=list, init=False, compare=False)

    def next_update(self, step):
        return min((due for due in self.due if due >= step), default=None)

    def update(self, masked, step):
        self.asked.append(step)
        return [weight.kept for weight in masked]


def fit_unknown_length(model: keras.Model, size: int, **options) -> keras.callbacks.History:
    """As `fit`, with a dataset that does not know how many batches it has."""
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices(data(size)).batch(16).filter(lambda x, y: True)
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        return model.fit(dataset, verbose=0, shuffle=False, callbacks=[UpdateMasks()], **options)


# --- steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "options", "due", "asked"),
    [
        ({}, {}, (0, 2, 5), [0, 2, 5]),
        ({}, {"run_eagerly": True}, (1, 4), [1, 4]),
        ({}, {"steps_per_execution": 3}, (0, 2, 4), [2, 4]),
        ({"gradient_accumulation_steps": 3}, {}, (0, 1), [0, 1]),
        ({"gradient_accumulation_steps": 3}, {"steps_per_execution": 3}, (0, 1), [0, 1]),
    ],
    ids=["every_batch", "eager", "last_due_of_an_execution", "accumulating", "accumulating_executions"],
)
@pytest.mark.parametrize("calls", [1, 2])
def test_rule_is_asked_at_its_steps_whether_training_is_one_fit_or_two(optimizer, options, due, asked, calls):
    rule = At(due)
    model = wrap(network(keras.optimizers.SGD(0.05, **optimizer), **options), rule)
    for _ in range(calls):
        fit(model, UpdateMasks(), epochs=2 // calls)
    assert rule.asked == asked


def test_step_is_that_of_the_optimizer_inside_a_scaled_loss():
    rule = At((0, 2, 5))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=2.0)
    fit(wrap(network(optimizer), rule), UpdateMasks(), epochs=2)
    assert rule.asked == [0, 2, 5]


def test_data_of_unknown_length_is_trained_on_with_masks():
    rule = At((0, 2, 5))
    fit_unknown_length(wrap(network(), rule), 48, epochs=2)
    assert rule.asked == [0, 2, 5]


def test_each_rule_is_given_the_weights_under_it():
    model = wrap(network(), MagnitudePruning(0.75), include="head")
    model = wrap(model, MagnitudePruning(0.5), include="first")
    model = wrap(model, lambda layer: MaskedLayer(layer))
    fit(model, UpdateMasks())
    assert [(weights_of(model, name) == 0).sum() for name in KERNELS] == [72, 0, 288]


def test_masks_without_a_rule_stay_as_they_are():
    model = wrap(network(), lambda layer: MaskedLayer(layer))
    assign_random_masks(model)
    before = [masked.kept for masked in masked_weights(model)]
    history = fit(model, UpdateMasks()).history
    assert_equal(before, [masked.kept for masked in masked_weights(model)])
    assert history["sparsity"] == [sum((~mask).sum() for mask in before) / 1104]
    assert_equal(before, [masked.value != 0 for masked in masked_weights(model)])


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_sparsity_of_the_last_due_step_is_reached(steps_per_execution):
    schedule = schedules.Polynomial(0.0, 0.75, end_step=5, frequency=1, power=1)  # 0, .15, .3, .45, .6, .75
    model = wrap(network(steps_per_execution=steps_per_execution), MagnitudePruning(schedule))
    history = fit(model, UpdateMasks(), epochs=2).history
    # 144, 576 and 384 entries: 43, 173 and 115 are hidden at 0.3
    np.testing.assert_allclose(history["sparsity"], [331 / 1104, 0.75])


# --- at the end -----------------------------------------------------------------------------------------


def test_what_is_masked_is_zero_in_the_weights_after_training():
    model = wrap(network(), MagnitudePruning(0.75))
    fit(model, UpdateMasks())
    for masked in masked_weights(model):
        assert (masked.value[~masked.kept] == 0).all() and (masked.value[masked.kept] != 0).all()
        assert (~masked.kept).mean() == 0.75


def test_weights_that_surgery_masks_keep_their_latent_values():
    model = wrap(network(), DynamicNetworkSurgery(sparsity=0.5))
    before = [masked.value for masked in masked_weights(model)]
    fit(model, UpdateMasks())
    for value, masked in zip(before, masked_weights(model), strict=True):
        assert 0.3 < (~masked.kept).mean() < 0.7
        assert (masked.value[~masked.kept] != 0).all() and (masked.value != value).all()


# --- schedules that would never fire --------------------------------------------------------------------

LATE = MagnitudePruning(schedules.Constant(sparsity=0.5, begin_step=3))
OVER = MagnitudePruning(schedules.Polynomial(0.1, 0.5, end_step=2, frequency=1))


@pytest.mark.parametrize(
    ("rule", "optimizer", "trained", "options", "why"),
    [
        (LATE, {}, 0, {}, "step 0 and fit.. plans 3, and the next update is due at step 3. .* begin earlier"),
        (LATE, {}, 0, {"epochs": 4, "initial_epoch": 3}, "plans 3, and the next update is due at step 3"),
        (LATE, {"gradient_accumulation_steps": 2}, 0, {"epochs": 2}, "plans 3, and the next update is due"),
        (OVER, {}, 1, {}, "at step 3 and fit.. plans 3, and no update is due any more. .* end later"),
        (DynamicNetworkSurgery(stop=3), {}, 1, {}, "at step 3 and .* no update is due any more"),
    ],
    ids=["begins_late", "few_epochs_left", "several_batches_a_step", "ended", "surgery_ended"],
)
def test_schedule_that_would_never_fire_is_refused_before_training(rule, optimizer, trained, options, why):
    model = network(keras.optimizers.SGD(0.05, **optimizer))
    fit(model, epochs=trained)
    model = wrap(model, rule)
    before, step = arrays(model), int(array(model.optimizer.iterations))
    with pytest.raises(ValueError, match=f"would update no mask: the training is .*{why}"):
        fit(model, UpdateMasks(), **options)
    assert_equal(before, arrays(model))
    assert int(array(model.optimizer.iterations)) == step


@pytest.mark.parametrize(
    ("begin_step", "optimizer", "options"),
    [
        (2, {}, {}),
        (5, {}, {"epochs": 2}),
        (2, {"gradient_accumulation_steps": 2}, {"epochs": 2}),
    ],
    ids=["last_step", "last_step_of_the_last_epoch", "last_batch_of_three_steps"],
)
def test_schedule_that_fires_in_the_last_step_is_let_through(begin_step, optimizer, options):
    rule = MagnitudePruning(schedules.Constant(sparsity=0.5, begin_step=begin_step))
    model = wrap(network(keras.optimizers.SGD(0.05, **optimizer)), rule)
    assert fit(model, UpdateMasks(), **options).history["sparsity"][-1] == 0.5


def test_schedule_that_begins_late_is_let_through_where_the_length_of_the_data_is_not_known():
    assert fit_unknown_length(wrap(network(), LATE), 64).history["sparsity"] == [0.5]


def test_masks_may_be_trained_on_with_when_their_schedule_has_ended():
    model = wrap(network(), OVER)
    fit(model, UpdateMasks())
    masks = [masked.kept for masked in masked_weights(model)]
    assert fit(model, UpdateMasks()).history["sparsity"] == [0.5]
    assert_equal(masks, [masked.kept for masked in masked_weights(model)])


def test_model_without_masks_is_refused():
    model = network()
    before = arrays(model)
    with pytest.raises(ValueError, match=r"Nothing in '.*' is masked.*tfcompress\.wrap\(model, rule\)"):
        fit(model, UpdateMasks())
    assert_equal(before, arrays(model))


def test_callback_does_no_harm_in_predict_and_evaluate():
    model = wrap(network(), MagnitudePruning(0.5))
    before = arrays(model)
    plain = keras.Model(model.inputs, model.outputs)
    plain.predict(data()[0], verbose=0, callbacks=[UpdateMasks()])
    model.evaluate(*data(), verbose=0, callbacks=[UpdateMasks()])
    assert_equal(before, arrays(model))


# --- logs -----------------------------------------------------------------------------------------------

RISING = MagnitudePruning(schedules.Polynomial(0.25, 0.75, end_step=3, frequency=3), scope="global")


@pytest.mark.parametrize("kind", ["wrapped", "constrained"])
def test_history_tells_the_share_that_is_masked(kind):
    model = wrap(network(), RISING) if kind == "wrapped" else network()
    if kind == "constrained":
        constrain(model, RISING)
    assert fit(model, UpdateMasks(), epochs=2).history["sparsity"] == [0.25, 0.75]


def test_history_tells_the_share_of_each_weight_if_asked():
    model = wrap(network(), RISING)
    history = fit(model, UpdateMasks(per_layer=True), epochs=2).history
    paths = {name: f"sparsity/{name}/kernel" for name in KERNELS}
    assert {key for key in history if key.startswith("sparsity")} == {"sparsity", *paths.values()}
    for name, size in KERNELS.items():
        masked = next(m for m in masked_weights(model) if m.path == f"{name}/kernel")
        assert history[paths[name]][-1] == (masked.value == 0).sum() / size
    shares = [history[paths[name]][0] * size for name, size in KERNELS.items()]
    assert sum(shares) == 0.25 * 1104 and len({history[path][0] for path in paths.values()}) == 3


def test_history_tells_nothing_of_layers_unless_asked():
    history = fit(wrap(network(), RISING), UpdateMasks(), epochs=2).history
    assert set(history) == {"loss", "sparsity"}


def test_tensorboard_tells_the_share_that_is_masked(tmp_path, monkeypatch):
    tf = pytest.importorskip("tensorflow")
    summary = pytest.importorskip("tensorflow.summary")
    if importlib.util.find_spec("tensorboard") is None:  # then TensorFlow lacks this, a case of `write`
        monkeypatch.setattr(summary, "scalar", lambda tag, data, step: summary.write(tag, data, step))
    board = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
    fit(wrap(network(), RISING), UpdateMasks(per_layer=True), board, epochs=2)
    (file,) = (tmp_path / "train").iterdir()
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    assert found["epoch_sparsity"] == [0.25, 0.75]
    assert {f"epoch_sparsity/{name}/kernel" for name in KERNELS} <= set(found)
