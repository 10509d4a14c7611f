"""Dynamic network surgery: when masks change, and what becomes of weights that come back."""

import hypothesis.extra.numpy as arrays
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from masks import array
from rules import masked_weight

import tfcompress
from tfcompress import callbacks
from tfcompress.layers import DynamicNetworkSurgery, masked_weights, wrap

KERNELS = arrays.arrays("float32", (6, 5), elements=st.floats(-4, 4, width=16))
ALWAYS = {"power": 0.0}  # updates at every step


def centre_of(kernel: np.ndarray, c_rate: float) -> float:
    live = np.abs(kernel[kernel != 0])
    return max(0.0, live.mean() + c_rate * live.std())


@given(kernel=KERNELS.filter(np.any), c_rate=st.floats(-2, 2))
def test_masks_follow_the_thresholds_of_the_authors_code(kernel, c_rate):
    rule = DynamicNetworkSurgery(c_rate, **ALWAYS)
    masked = masked_weight(kernel, rule)
    [mask] = rule.update([masked], 0)
    centre = np.float32(centre_of(kernel, c_rate))
    np.testing.assert_allclose(array(masked.memory["centre"]), centre, rtol=1e-5)
    centre = array(masked.memory["centre"])
    np.testing.assert_array_equal(mask, np.abs(kernel) > 0.9 * float(centre))


def test_entries_between_the_thresholds_keep_the_mask_they_have():
    """A kernel whose centre is 1: below 0.9 is cut, above 1.1 spliced, at the bounds as in the code."""
    rule = DynamicNetworkSurgery(**ALWAYS)
    kernel = np.array([[0.9, 0.91, 1.0, 1.1, 1.11], [-0.9, -0.91, -1.0, -1.1, -1.11]], "float32")
    masked = masked_weight(kernel, rule)
    masked.memory["centre"].assign(1.0)
    for start in (True, False):
        masked.mask.assign(np.full(kernel.shape, start))
        [mask] = rule.update([masked], 0)
        assert mask.tolist() == [[False, start, start, start, True]] * 2


BLOCKS = st.sampled_from([(2, 1), (1, 3), (2, 3)])


@given(kernel=arrays.arrays("float32", (6, 4), elements=st.floats(-4, 4, width=16)), block=BLOCKS)
def test_blocks_are_cut_whole_by_what_stands_for_them(kernel, block):
    rule = DynamicNetworkSurgery(0.0, block=block, pool="max", **ALWAYS)
    masked = masked_weight(kernel, rule)
    [mask] = rule.update([masked], 0)
    rows, columns = block  # of outputs and of inputs, which are the last axis and the first
    tiles = np.abs(kernel.T).reshape(4 // rows, rows, 6 // columns, columns).max(axis=(1, 3))
    alive = tiles[tiles > 0]
    centre = array(masked.memory["centre"])
    np.testing.assert_allclose(centre, alive.mean() if alive.size else 0, rtol=1e-5)
    expected = np.repeat(np.repeat(tiles > 0.9 * float(centre), rows, 0), columns, 1).T
    np.testing.assert_array_equal(mask, expected)


def test_blocks_between_the_thresholds_keep_the_mask_they_have():
    rule = DynamicNetworkSurgery(block=(1, 2), **ALWAYS)
    masked = masked_weight(np.array([[0.5, 1.0, 3.0], [0.5, 1.0, 1.0]], "float32"), rule)
    masked.memory["centre"].assign(1.0)
    for start in (True, False):
        masked.mask.assign(np.full((2, 3), start))
        [mask] = rule.update([masked], 0)
        assert mask.tolist() == [[False, start, True]] * 2


def test_blocks_must_divide_and_leave_biases_alone():
    with pytest.raises(ValueError, match="Blocks of .16, 4. .outputs, inputs. do not divide"):
        wrap(
            keras.Sequential([keras.Input((6,)), keras.layers.Dense(16)]),
            DynamicNetworkSurgery(block=(16, 4)),
        )
    with pytest.raises(ValueError, match="no block with it"):
        DynamicNetworkSurgery(block=(1, 4), mask_bias=True)
    with pytest.raises(ValueError, match="block is a tuple of two positive whole numbers"):
        DynamicNetworkSurgery(block=(0, 4))


def test_thresholds_are_those_of_the_first_update():
    rule = DynamicNetworkSurgery(0.0, **ALWAYS)
    masked = masked_weight(np.arange(1.0, 31.0).reshape(6, 5), rule)
    rule.update([masked], 0)
    first = float(array(masked.memory["centre"]))
    masked.weight.assign(masked.value * 100)
    [mask] = rule.update([masked], 1)
    assert float(array(masked.memory["centre"])) == first == pytest.approx(15.5)
    assert mask.all()


def test_zeros_do_not_count_for_mean_and_deviation():
    rule = DynamicNetworkSurgery(0.0, **ALWAYS)
    masked = masked_weight(np.array([[0.0, 0.0, 2.0, 4.0]]), rule)
    rule.update([masked], 0)
    assert float(array(masked.memory["centre"])) == 3.0


@given(sparsity=st.floats(0, 0.95), seed=st.integers(0, 99))
def test_sparsity_in_the_place_of_c_rate_is_what_the_first_update_cuts(sparsity, seed):
    kernel = np.random.default_rng(seed).normal(size=(20, 20)).astype("float32")
    rule = DynamicNetworkSurgery(sparsity=sparsity, **ALWAYS)
    [mask] = rule.update([masked_weight(kernel, rule)], 0)
    assert abs((~mask).mean() - sparsity) <= 1.5 / kernel.size


@pytest.mark.parametrize("gamma, power", [(1e-3, 1.0), (1e-2, 0.5), (0.0, 1.0)])
def test_kernels_are_updated_as_often_as_sigma_says_and_independently(gamma, power):
    rule = DynamicNetworkSurgery(1.0, gamma=gamma, power=power, stop=4000)
    kernel = np.random.default_rng(0).normal(size=(4, 4))
    pair = [masked_weight(kernel, rule) for _ in range(2)]
    rule.update([masked_weight(kernel, rule)], 0)
    updated = []
    for step in range(1000, 4000):
        for masked in pair:  # a mask that an update would change
            masked.mask.assign(np.abs(kernel) < 0.5)
        before = pair[0].kept
        updated.append([not np.array_equal(mask, before) for mask in rule.update(pair, step)])
    updated = np.array(updated)
    expected = np.mean([(1 + gamma * step) ** -power for step in range(1000, 4000)])
    deviation = np.sqrt(expected * (1 - expected) / 3000) + 1e-9
    assert (np.abs(updated.mean(axis=0) - expected) < 4 * deviation).all()
    if expected < 1:
        assert abs(np.corrcoef(updated.T)[0, 1]) < 0.1


def test_draws_depend_on_the_step_and_the_seed_alone():
    kernels = np.random.default_rng(0).normal(size=(30, 2, 2))

    def masks(seed: int, step: int) -> np.ndarray:
        rule = DynamicNetworkSurgery(1.0, seed=seed, gamma=1.0)
        return np.array(rule.update([masked_weight(kernel, rule) for kernel in kernels], step))

    assert (masks(0, 9) == masks(0, 9)).all()
    assert (masks(0, 9) != masks(0, 10)).any() and (masks(0, 9) != masks(1, 9)).any()


def test_no_update_comes_after_the_stop():
    rule = DynamicNetworkSurgery(stop=10)
    assert [rule.next_update(step) for step in (0, 9, 10, 11)] == [0, 9, None, None]


# --- biases ---------------------------------------------------------------------------------------------


def with_biases(rule: DynamicNetworkSurgery) -> keras.Model:
    x = keras.Input((6, 6, 3))
    y = keras.layers.Conv2D(4, 3, bias_initializer="random_normal", activation="relu", name="conv")(x)
    y = keras.layers.MultiHeadAttention(2, 3, bias_initializer="random_normal", name="heads")(y, y)
    y = keras.layers.LSTM(5, bias_initializer="random_normal")(keras.layers.Reshape((16, 4))(y))
    return wrap(keras.Model(x, keras.layers.Dense(2, name="head", bias_initializer="ones")(y)), rule)


def test_biases_are_masked_with_the_kernels_of_their_layer(tmp_path):
    rule = DynamicNetworkSurgery(0.5, mask_bias=True, **ALWAYS)
    model = with_biases(rule)
    masked = masked_weights(model)
    assert len(masked) == len(model.trainable_weights)
    for weight, mask in zip(masked, rule.update(masked, 0), strict=True):
        owner = weight.path.rpartition("/")[0]
        together = [other.value.ravel() for other in masked if other.path.rpartition("/")[0] == owner]
        assert len(together) > 1
        centre = centre_of(np.concatenate(together), 0.5)
        np.testing.assert_allclose(array(weight.memory["centre"]), centre, rtol=1e-5)
        np.testing.assert_array_equal(mask, np.abs(weight.value) > 0.9 * centre)
        weight.mask.assign(mask)
    assert any(not weight.kept.all() for weight in masked if weight.path.endswith("bias"))
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    expected = array(model(x))
    np.testing.assert_array_equal(array(tfcompress.strip(model)(x)), expected)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(keras.saving.load_model(tmp_path / "model.keras")(x)), expected)


def test_bias_is_updated_whenever_its_kernel_is():
    rule = DynamicNetworkSurgery(9.0, gamma=1.0, mask_bias=True)  # a c_rate that cuts everything
    masked = masked_weights(with_biases(rule))
    head, bias, conv = (
        [not rule.update(masked, step)[place].any() for step in range(20)] for place in (-2, -1, 0)
    )
    assert head == bias and head != conv and 0 < sum(head) < 20


# --- in training ----------------------------------------------------------------------------------------


class Recorded(keras.callbacks.Callback):
    """Mask and latent weight after every batch."""

    def __init__(self):
        super().__init__()
        self.masks, self.latents = [], []

    def on_train_batch_end(self, batch, logs=None):
        [masked] = masked_weights(self.model)
        self.masks.append(masked.kept)
        self.latents.append(masked.value)


def trained(rule: DynamicNetworkSurgery, epochs: int) -> tuple[keras.Model, Recorded]:
    """A layer that has to learn weights of 3, which start at 0.5 and 2."""
    x = keras.Input((4,))
    start = keras.initializers.Constant(np.array([[0.5], [0.5], [2.0], [2.0]]))
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer=start)
    model = wrap(keras.Model(x, dense(x)), rule)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.5), "mse")
    data = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    seen = Recorded()
    model.fit(
        data,
        data @ np.full((4, 1), 3.0),
        batch_size=16,
        epochs=epochs,
        verbose=0,
        callbacks=[callbacks.UpdateMasks(), seen],
    )
    return model, seen


def test_spliced_weight_returns_with_the_value_it_was_trained_to():
    model, seen = trained(DynamicNetworkSurgery(0.0, **ALWAYS), epochs=12)
    masks, latents = np.array(seen.masks)[:, :, 0], np.array(seen.latents)[:, :, 0]
    assert masks[0].tolist() == [False, False, True, True] and masks[-1].all()
    back = int(np.argmax(masks[:, 0]))
    assert not masks[:back, 0].any()
    assert 1.1 * 1.25 < latents[back - 1, 0] < 3  # trained while it was masked, not 0.5, not 0
    [masked] = masked_weights(model)
    np.testing.assert_array_equal(array(model(np.eye(4, dtype="float32"))), masked.value)


def test_masks_stay_as_they_are_after_the_stop():
    _, seen = trained(DynamicNetworkSurgery(0.0, stop=2, **ALWAYS), epochs=12)
    assert np.array_equal(seen.masks[-1][:, 0], [False, False, True, True])
    assert (seen.latents[-1] > 1.1 * 1.25).all()  # though all weights are large by now


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"gamma": -1.0}, "gamma must be a number of at least 0"),
        ({"power": -1.0}, "power must be a number of at least 0"),
        ({"stop": 0}, "ends the surgery before it begins"),
        ({"sparsity": 1.0}, r"number in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DynamicNetworkSurgery(**settings)
