"""Which weights magnitude pruning masks: worked out by sorting, by blocks, by every m of them."""

import hypothesis.extra.numpy as arrays
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules import masked_weight

from tfcompress import schedules
from tfcompress._kernels import Layout
from tfcompress.layers import MagnitudePruning

VALUES = st.integers(-6, 6).map(float)  # with many ties
KERNELS = arrays.array_shapes(min_dims=2, max_dims=4, max_side=5).flatmap(
    lambda shape: arrays.arrays("float32", shape, elements=VALUES)
)
SPARSITIES = st.floats(0, 0.99)


def masks_of(rule: MagnitudePruning, *kernels: np.ndarray, step: int = 0) -> list[np.ndarray]:
    return rule.update([masked_weight(kernel, rule) for kernel in kernels], step)


def kept_by_sorting(magnitudes: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest; of equal ones those of lower index."""
    mask = np.zeros(magnitudes.size, bool)
    mask[np.argsort(-magnitudes.ravel(), kind="stable")[:count]] = True
    return mask.reshape(magnitudes.shape)


@given(kernel=KERNELS, sparsity=SPARSITIES)
def test_smallest_weights_are_masked_in_exact_number(kernel, sparsity):
    [mask] = masks_of(MagnitudePruning(sparsity), kernel)
    count = max(1, kernel.size - round(sparsity * kernel.size))
    np.testing.assert_array_equal(mask, kept_by_sorting(np.abs(kernel), count))


@given(kernels=st.lists(KERNELS, min_size=1, max_size=3), sparsity=SPARSITIES)
def test_global_scope_ranks_all_kernels_together(kernels, sparsity):
    masks = masks_of(MagnitudePruning(sparsity, scope="global", floor=0.0), *kernels)
    flat = np.abs(np.concatenate([kernel.ravel() for kernel in kernels]))
    expected = kept_by_sorting(flat, flat.size - round(sparsity * flat.size))
    ends = np.cumsum([kernel.size for kernel in kernels])[:-1]
    for mask, part in zip(masks, np.split(expected, ends), strict=True):
        if part.any():
            np.testing.assert_array_equal(mask.ravel(), part)
        else:
            assert mask.sum() == 1  # no kernel goes whole


def test_global_scope_leaves_each_kernel_its_floor():
    strong, weak = np.full((10, 10), 5.0), np.arange(100).reshape(10, 10) / 1000
    kept = [
        int(mask.sum()) for mask in masks_of(MagnitudePruning(0.5, scope="global", floor=0.2), strong, weak)
    ]
    assert kept == [100, 20]


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("block", [(1, 4), (4, 1), (2, 2), (16, 1)])
@pytest.mark.parametrize(
    "layout, shape",
    [
        (Layout(), (8, 16)),
        (Layout(), (3, 3, 4, 16)),
        (Layout((-2,), (-1,)), (3, 3, 16, 8)),  # transposed
        (Layout((1, 2), (0,)), (8, 4, 4)),  # a projection of attention
    ],
)
def test_blocks_go_whole_and_weakest_first(pool, block, layout, shape):
    kernel = np.random.default_rng(0).normal(size=shape).astype("float32")
    rule = MagnitudePruning(0.75, block=block, pool=pool)
    [mask] = rule.update([masked_weight(kernel, rule, layout)], 0)
    outputs = layout.sizes(shape)[0]
    magnitudes, kept = (layout.lower(array).reshape(outputs, -1) for array in (np.abs(kernel), mask))
    scores, stays = [], []
    for row in range(0, outputs, block[0]):
        for column in range(0, kept.shape[1], block[1]):
            tile = slice(row, row + block[0]), slice(column, column + block[1])
            assert len(np.unique(kept[tile])) == 1
            scores.append(getattr(np, pool)(magnitudes[tile]))
            stays.append(kept[tile].all())
    scores, stays = np.array(scores), np.array(stays)
    assert stays.sum() == len(scores) - round(0.75 * len(scores))
    assert scores[stays].min() >= scores[~stays].max()


@given(
    kernel=arrays.arrays("float32", (2, 8, 3), elements=VALUES),
    pattern=st.sampled_from([(1, 4), (2, 4), (3, 8)]),
)
def test_n_of_every_m_input_channels_stay(kernel, pattern):
    n, m = pattern
    [mask] = masks_of(MagnitudePruning(n_of_m=pattern), kernel)
    for tap in range(2):
        for output in range(3):
            for start in range(0, 8, m):
                piece = np.abs(kernel[tap, start : start + m, output])
                np.testing.assert_array_equal(mask[tap, start : start + m, output], kept_by_sorting(piece, n))


def test_schedule_says_how_much_is_masked_when():
    rule = MagnitudePruning(schedules.Polynomial(0.0, 0.8, begin_step=10, end_step=20, frequency=5))
    assert [rule.next_update(step) for step in (0, 11, 16, 21)] == [10, 15, 20, None]
    kernel = np.arange(1.0, 101.0).reshape(10, 10)
    masked = [int((~masks_of(rule, kernel, step=step)[0]).sum()) for step in (10, 15, 20)]
    assert masked == [0, round(100 * 0.8 * (1 - 0.5**3)), 80]


def test_schedule_goes_with_n_of_m_to_say_when():
    rule = MagnitudePruning(schedules.Constant(0.5, begin_step=7), n_of_m=(2, 4))
    assert rule.next_update(0) == 7


@pytest.mark.parametrize(
    "rule",
    [
        MagnitudePruning(0.5),
        MagnitudePruning(schedules.Polynomial(0.1, 0.9, end_step=50), scope="global", floor=0.1),
        MagnitudePruning(0.5, block=(1, 4), pool="max"),
        MagnitudePruning(n_of_m=(2, 4)),
    ],
)
def test_rule_survives_its_config(rule):
    config = keras.saving.serialize_keras_object(rule)
    assert keras.saving.deserialize_keras_object(config) == rule


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sparsity": 1.0}, r"number in \[0, 1\)"),
        ({"sparsity": "half"}, r"number in \[0, 1\)"),
        ({}, r"number in \[0, 1\)"),
        ({"sparsity": 0.5, "scope": "layers"}, "Unknown scope"),
        ({"sparsity": 0.5, "pool": "sum"}, "Unknown pool"),
        ({"sparsity": 0.5, "block": (0, 4)}, "tuple of two positive whole numbers"),
        ({"sparsity": 0.5, "block": 4}, "tuple of two positive whole numbers"),
        ({"sparsity": 0.5, "floor": 1.5}, r"a number in \[0, 1\]"),
        ({"n_of_m": (5, 4)}, "cannot keep 5 of 4"),
        ({"n_of_m": (2, 4), "block": (1, 4)}, "no block"),
        ({"n_of_m": (2, 4), "sparsity": 0.75}, "the sparsity is 0.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MagnitudePruning(**settings)


@pytest.mark.parametrize(
    "rule, message",
    [
        (MagnitudePruning(0.5, block=(16, 1)), "do not divide 'kernel', which has 10 outputs"),
        (MagnitudePruning(0.5, block=(1, 4)), "do not divide"),
        (MagnitudePruning(n_of_m=(2, 4)), "multiples of 4, 'kernel' has 6"),
    ],
)
def test_kernel_that_a_pattern_does_not_divide_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        rule.check("kernel", (3, 3, 6, 10), Layout())
