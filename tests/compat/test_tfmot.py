"""What a script written for tensorflow-model-optimization relies on."""

import pathlib

import keras
import numpy as np
import pytest

from tfcompress import export, schedules
from tfcompress._kernels import Layout
from tfcompress.compat import tfmot
from tfcompress.compat.tfmot.masks import LowMagnitude
from tfcompress.layers import MaskedLayer, MaskedWeight, masked_weights

SCRIPT = pathlib.Path(__file__).with_name("tfmot_script.py")
IMPORTS = {
    "import tensorflow_model_optimization as tfmot": "from tfcompress.compat import tfmot",
    "import tf_keras as keras": "import keras",
}

api = tfmot.sparsity.keras
X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(64, 4)).astype("float32")


def model() -> keras.Model:
    return keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(4, name="last")]
    )


def no_kernels() -> keras.Model:
    return keras.Sequential([keras.Input((8,)), keras.layers.ReLU()])


def trained(pruned: keras.Model, *callbacks, epochs: int = 4) -> keras.callbacks.History:
    pruned.compile("adam", "mse")
    return pruned.fit(
        X, Y, batch_size=16, epochs=epochs, verbose=0, callbacks=[api.UpdatePruningStep(), *callbacks]
    )


def zeros(weight) -> float:
    return float((keras.ops.convert_to_numpy(weight) == 0).mean())


def kernels(pruned: keras.Model) -> list[np.ndarray]:
    return [array for array in pruned.get_weights() if array.dtype != bool and array.ndim == 2]


def test_model_is_pruned_to_its_schedule_and_stripped_to_stock_layers():
    schedule = api.PolynomialDecay(0.25, 0.75, begin_step=0, end_step=12, frequency=2)
    pruned = api.prune_low_magnitude(model(), pruning_schedule=schedule)
    trained(pruned)
    final = api.strip_pruning(pruned)
    assert [type(layer).__name__ for layer in final.layers] == ["Dense", "Dense"]
    assert [zeros(kernel) for kernel in kernels(final)] == [0.75, 0.75]
    np.testing.assert_array_equal(final.predict(X, verbose=0), pruned.predict(X, verbose=0))


def test_script_runs_with_its_import_lines_changed(tmp_path):
    source = SCRIPT.read_text(encoding="utf-8")
    for old, new in IMPORTS.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    names = {}
    exec(compile(source, SCRIPT, "exec"), names)
    _, final = names["run"](tmp_path)
    assert [zeros(weight) for weight in final.weights if len(weight.shape) > 1] == [
        1 - 43 / 216,  # round(216 * 0.2) stay
        0.0,  # the depthwise kernel
        1 - 77 / 384,
    ]
    image = np.ones((2, 12, 12, 3), "float32")
    found = export.run_tflite(tmp_path / "pruned.tflite", image)
    np.testing.assert_allclose(found, final.predict(image, verbose=0), atol=1e-5)


def test_default_is_half_in_the_hundredth_batch():
    pruned = api.prune_low_magnitude(model())
    history = trained(pruned, epochs=26)
    assert history.history["sparsity"] == [0.0] * 24 + [0.5] * 2
    assert [zeros(kernel) for kernel in kernels(api.strip_pruning(pruned))] == [0.5, 0.5]


def test_single_layer_and_list_of_layers_are_wrapped_before_they_are_built():
    at_once = {"begin_step": 1}
    first = api.prune_low_magnitude(
        keras.layers.Dense(16), api.ConstantSparsity(0.25, **at_once), name="first"
    )
    flatten = keras.layers.Flatten()
    second, same, already = api.prune_low_magnitude(
        [keras.layers.Dense(4), flatten, first], api.ConstantSparsity(0.5, **at_once)
    )
    assert already is first and first.name == "first" and same is flatten
    pruned = keras.Sequential([keras.Input((8,)), first, flatten, second])
    trained(pruned, epochs=1)
    assert [zeros(kernel) for kernel in kernels(api.strip_pruning(pruned))] == [0.25, 0.5]


def test_block_size_is_inputs_by_outputs_of_a_dense_kernel():
    pruned = api.prune_low_magnitude(
        model(), api.ConstantSparsity(0.5, 1), block_size=(4, 2), block_pooling_type="MAX"
    )
    trained(pruned, epochs=1)
    mask = kernels(api.strip_pruning(pruned))[0] != 0
    blocks = mask.reshape(2, 4, 8, 2).transpose(0, 2, 1, 3).reshape(16, 8)
    assert (blocks.all(axis=1) | ~blocks.any(axis=1)).all() and blocks.any(axis=1).sum() == 8


def test_m_by_n_masks_m_of_every_n_inputs_from_the_first_batch_on():
    pruned = api.prune_low_magnitude(model(), sparsity_m_by_n=(1, 4))
    trained(pruned, epochs=1)
    for kernel in kernels(api.strip_pruning(pruned)):
        assert ((kernel.reshape(-1, 4, kernel.shape[1]) == 0).sum(axis=1) == 1).all()


def mask_of(kernel: list, sparsity: float = 0.5, **settings) -> list:
    rule = LowMagnitude(api.ConstantSparsity(sparsity, 1), **settings)
    weight = MaskedWeight(keras.Variable(kernel, dtype="float32"), None, Layout(), rule)
    return rule.update([weight], 0)[0].astype(int).tolist()


@pytest.mark.parametrize("entries, kept", [(3, 2), (5, 2), (7, 4), (1, 1)])
def test_half_an_entry_is_rounded_to_even(entries, kept):
    assert np.sum(mask_of([[*range(1, entries + 1)]])) == kept


@pytest.mark.parametrize(
    "pooling, expected",
    [
        ("AVG", [[0, 1], [0, 1], [1, 0]]),  # pooled [[3, 4.5], [4, 1]]
        ("MAX", [[1, 1], [1, 1], [0, 0]]),  # pooled [[6, 5], [4, 1]]
    ],
)
def test_last_block_may_be_partial(pooling, expected):
    kernel = [[0.0, -5.0], [6.0, 4.0], [-4.0, 1.0]]
    assert mask_of(kernel, block_size=(2, 1), block_pooling_type=pooling) == expected


@pytest.mark.parametrize("m_by_n, expected", [((2, 4), [0, 0, 1, 1, 1, 1]), ((3, 4), [0, 0, 0, 1, 0, 1])])
def test_zeros_fill_up_the_last_group_of_m_by_n(m_by_n, expected):
    kernel = [[1.0], [-2.0], [3.0], [4.0], [5.0], [-6.0]]
    assert mask_of(kernel, sparsity_m_by_n=m_by_n) == [[kept] for kept in expected]


def test_of_equal_magnitudes_as_many_stay_as_the_sparsity_leaves():
    assert mask_of([[0.0, 0.0, 0.0, 1.0]]) == [[1, 0, 0, 1]]


def test_depthwise_kernels_are_left_alone():
    pruned = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
            keras.layers.SeparableConv2D(4, 3, name="separable"),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
        ]
    )
    pruned = api.prune_low_magnitude(pruned, api.ConstantSparsity(0.5, 1))
    assert not isinstance(pruned.get_layer("depthwise"), MaskedLayer)
    pruned.compile("adam", "mse")
    images = np.ones((16, 8, 8, 4), "float32")
    pruned.fit(images, Y[:16], verbose=0, callbacks=[api.UpdatePruningStep()])
    separable = api.strip_pruning(pruned).get_layer("separable")
    assert [zeros(weight) for weight in separable.weights] == [0.0, 0.5, 0.0]


def test_policy_chooses_among_the_layers_of_the_model_itself():
    class Narrow(api.PruningPolicy):
        def allow_pruning(self, layer):
            return layer.kernel.shape[1] == 4  # built, as only the model's own layers are

        def ensure_model_supports_pruning(self, model):
            if len(model.layers) > 2:
                raise ValueError("two layers at most")

    pruned = api.prune_low_magnitude(model(), pruning_policy=Narrow())
    assert [masked.path.split("/")[-2] for masked in masked_weights(pruned)] == ["last"]
    three = keras.Sequential([*model().layers, keras.layers.ReLU()])
    three.build((None, 8))
    with pytest.raises(ValueError, match="two layers at most"):
        api.prune_low_magnitude(three, pruning_policy=Narrow())


def test_saved_model_goes_on_with_its_schedule(tmp_path):
    schedule = api.PolynomialDecay(0.0, 0.75, begin_step=0, end_step=16, frequency=4)
    pruned = api.prune_low_magnitude(model(), pruning_schedule=schedule)
    trained(pruned, epochs=2)
    pruned.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    history = loaded.fit(X, Y, batch_size=16, epochs=3, verbose=0, callbacks=[api.UpdatePruningStep()])
    assert history.history["sparsity"][-1] == 0.75


class Late(api.PruningSchedule):
    """Once, in the fourth batch, unless told otherwise; with tfmot's own helper."""

    def __init__(self, step=4):
        self.step = step
        self.asked = 0

    def __call__(self, step):
        self.asked += 1
        return self._should_prune_in_step(step, self.step, self.step, 1), 0.5

    def get_config(self):
        return {"class_name": "Late", "config": {"step": self.step}}


def test_schedule_of_the_users_own_is_followed_saved_and_loaded(tmp_path):
    pruned = api.prune_low_magnitude(model(), pruning_schedule=Late(5))
    assert trained(pruned, epochs=2).history["sparsity"] == [0.0, 0.5]
    pruned.save(tmp_path / "late.keras")
    with keras.saving.custom_object_scope({"Late": Late}):
        loaded = keras.saving.load_model(tmp_path / "late.keras")
    assert {masked.rule.pruning_schedule for masked in masked_weights(loaded)} == {Late(5)}
    with pytest.raises((TypeError, ValueError), match="schedule 'Late' is not known"):
        keras.saving.load_model(tmp_path / "late.keras")


def test_schedule_that_ended_is_asked_once_a_batch():
    schedule = Late()
    assert schedule.next_update(1) == 4
    assert [schedule.next_update(step) for step in (5, 6)] == [None, None]
    before = schedule.asked
    for step in range(7, 107):
        assert schedule.next_update(step) is None
    assert schedule.asked == before + 100


def test_steps_of_numpy_are_whole_numbers():
    schedule = api.PolynomialDecay(0.0, 0.5, 0, np.ceil(100 / 32) * np.int32(3))
    assert schedule.get_config()["config"]["end_step"] == 12
    assert type(schedule.end_step) is int
    with pytest.raises(ValueError, match="end_step is a number of steps, got 1.5"):
        api.ConstantSparsity(0.5, 0, 1.5)


def test_schedule_of_one_step_gives_its_final_sparsity():
    assert api.PolynomialDecay(0.25, 0.75, 10, 10)(10) == (True, 0.75)


def test_summaries_add_the_sparsity_of_every_masked_weight(monkeypatch, tmp_path):
    logged = {}
    monkeypatch.setattr(
        keras.callbacks.TensorBoard, "on_epoch_end", lambda self, epoch, logs: logged.update(logs)
    )
    summaries = api.PruningSummaries(str(tmp_path))
    summaries.set_model(api.prune_low_magnitude(model()))
    first, last = masked_weights(summaries.model)
    last.mask.assign(np.arange(64).reshape(16, 4) % 4 > 0)
    summaries.on_epoch_end(0, {"loss": 1.0})
    assert logged == {"loss": 1.0, f"{first.path}/sparsity": 0.0, f"{last.path}/sparsity": 0.25}


@pytest.mark.parametrize("name", ["clustering", "quantization"])
def test_the_rest_of_tfmot_is_said_to_be_missing(name):
    with pytest.raises(AttributeError, match=f"no `{name}`.*the pruning"):
        getattr(tfmot, name)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: api.prune_low_magnitude(3), "can only prune"),
        (lambda: api.prune_low_magnitude(model(), block_pooling_type="avg"), "Available: AVG, MAX"),
        (lambda: api.prune_low_magnitude(model(), schedules.Constant(0.5)), "must be a PruningSchedule"),
        (lambda: api.prune_low_magnitude(model(), block_size=(0, 1)), "two positive"),
        (lambda: api.prune_low_magnitude(model(), sparsity_m_by_n=(4, 4)), "with m < n"),
        (lambda: api.prune_low_magnitude(no_kernels()), "no layer to prune"),
        (lambda: api.ConstantSparsity(1.0, 0), r"target_sparsity must be in range \[0,1\)"),
        (lambda: api.PolynomialDecay(0.0, 0.5, 10, 5), "begin_step should be <= end_step"),
        (lambda: api.ConstantSparsity(0.5, -1), "begin_step should be >= 0"),
        (lambda: api.ConstantSparsity(0.5, 0, -2), "end_step can be -1 or >= 0"),
        (lambda: api.ConstantSparsity(0.5, 0, frequency=0), "frequency should be > 0"),
        (lambda: api.PolynomialDecay(0.0, 0.5, 10, -1), "end_step cannot be -1"),
        (lambda: api.PruningSummaries(""), "log_dir"),
        (lambda: api.strip_pruning(model()), "no masked or shared layers"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
