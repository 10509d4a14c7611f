"""What a script written for tensorflow-model-optimization relies on."""

import keras
import numpy as np
import pytest

from tfcompress.compat import tfmot
from tfcompress.layers import masked_weights

api = tfmot.sparsity.keras
X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(64, 4)).astype("float32")


def model() -> keras.Model:
    return keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(4, name="last")]
    )


def trained(pruned: keras.Model, *callbacks, epochs: int = 4) -> keras.callbacks.History:
    pruned.compile("adam", "mse")
    return pruned.fit(
        X, Y, batch_size=16, epochs=epochs, verbose=0, callbacks=[api.UpdatePruningStep(), *callbacks]
    )


def zeros(weight) -> float:
    return float((np.array(weight) == 0).mean())


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


def test_default_is_half_from_the_first_step_on():
    pruned = api.prune_low_magnitude(model())
    trained(pruned, epochs=1)
    assert [zeros(kernel) for kernel in kernels(api.strip_pruning(pruned))] == [0.5, 0.5]


def test_single_layer_and_list_of_layers_are_wrapped_before_they_are_built():
    first = api.prune_low_magnitude(keras.layers.Dense(16), api.ConstantSparsity(0.25, 0), name="first")
    second, already = api.prune_low_magnitude([keras.layers.Dense(4), first])
    assert already is first and first.name == "first"
    pruned = keras.Sequential([keras.Input((8,)), first, second])
    trained(pruned, epochs=1)
    assert [zeros(kernel) for kernel in kernels(api.strip_pruning(pruned))] == [0.25, 0.5]


def test_block_size_is_inputs_by_outputs_of_a_dense_kernel():
    pruned = api.prune_low_magnitude(model(), block_size=(4, 2), block_pooling_type="MAX")
    trained(pruned, epochs=1)
    mask = kernels(api.strip_pruning(pruned))[0] != 0
    blocks = mask.reshape(2, 4, 8, 2).transpose(0, 2, 1, 3).reshape(16, 8)
    assert (blocks.all(axis=1) | ~blocks.any(axis=1)).all() and 0 < blocks.any(axis=1).sum() < 16


def test_m_by_n_masks_m_of_every_n_inputs():
    pruned = api.prune_low_magnitude(model(), sparsity_m_by_n=(1, 4))
    trained(pruned, epochs=1)
    for kernel in kernels(api.strip_pruning(pruned)):
        assert ((kernel.reshape(-1, 4, kernel.shape[1]) == 0).sum(axis=1) == 1).all()


def test_policy_chooses_layers():
    class OnlyLast:
        def allow_pruning(self, layer):
            return layer.name == "last"

    pruned = api.prune_low_magnitude(model(), pruning_policy=OnlyLast())
    assert [masked.path.split("/")[-2] for masked in masked_weights(pruned)] == ["last"]


def test_saved_model_goes_on_with_its_schedule(tmp_path):
    schedule = api.PolynomialDecay(0.0, 0.75, begin_step=0, end_step=16, frequency=4)
    pruned = api.prune_low_magnitude(model(), pruning_schedule=schedule)
    trained(pruned, epochs=2)
    pruned.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    history = loaded.fit(X, Y, batch_size=16, epochs=3, verbose=0, callbacks=[api.UpdatePruningStep()])
    assert history.history["sparsity"][-1] == 0.75


def test_schedule_of_the_users_own_is_followed():
    class Late(api.PruningSchedule):
        def __call__(self, step):
            return step == 3, 0.5

        def get_config(self):
            return {"class_name": "Late", "config": {}}

    pruned = api.prune_low_magnitude(model(), pruning_schedule=Late())
    assert trained(pruned, epochs=1).history["sparsity"] == [0.5]


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: api.prune_low_magnitude(3), "can only prune"),
        (lambda: api.prune_low_magnitude(model(), block_pooling_type="avg"), "'AVG' or 'MAX'"),
        (lambda: api.prune_low_magnitude(model(), block_size=(3, 1)), "do not divide"),
        (lambda: api.prune_low_magnitude(model(), sparsity_m_by_n=(5, 4)), "n_of_m"),
        (lambda: api.ConstantSparsity(1.0, 0), r"target_sparsity must be in range \[0,1\)"),
        (lambda: api.PolynomialDecay(0.0, 0.5, 10, 5), "ends before it begins"),
        (lambda: api.PolynomialDecay(0.0, 0.5, 10, -1), "end_step cannot be -1"),
        (lambda: api.PruningSummaries(""), "log_dir"),
        (lambda: api.strip_pruning(model()), "no masked layers"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_schedules_equal_those_of_tfmot_bit_for_bit():
    theirs = pytest.importorskip("tensorflow_model_optimization").sparsity.keras
    rng = np.random.default_rng(0)
    for _ in range(20):
        low, high = rng.random(2) * 0.99
        begin, frequency = int(rng.integers(0, 50)), int(rng.integers(1, 100))
        end = begin + int(rng.integers(1, 3000))
        power = float(rng.choice([0.5, 1, 2, 3, 4]))
        pairs = [
            (
                kind(low, high, begin, end, power, frequency)
                for kind in (api.PolynomialDecay, theirs.PolynomialDecay)
            ),
            (kind(low, begin, end, frequency) for kind in (api.ConstantSparsity, theirs.ConstantSparsity)),
        ]
        for mine, other in pairs:
            for step in [begin, begin + frequency, end, *rng.integers(0, end + 100, 5)]:
                due, sparsity = other(int(step))
                assert mine(int(step)) == (bool(due), float(sparsity))
                assert mine.get_config() == other.get_config()
