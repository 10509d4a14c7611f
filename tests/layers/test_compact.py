"""A compact convolution equals the dense one that has zeros in place of what it lacks."""

from dataclasses import dataclass, field, replace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from masks import array

from tfcompress.layers import CompactConv

STOCK = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D)  # by the number of axes
BLOCK = {"rows": [1, 2], "columns": [[0, 1], [3, 0], [3, 1]]}


@dataclass(frozen=True)
class Case:
    """A convolution, channels last, and which parts of its kernel are there."""

    sizes: tuple[int, ...]
    kernel_size: tuple[int, ...]
    channels: int
    filters: int
    blocks: list[dict]
    windows: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)

    @property
    def full_shape(self) -> tuple[int, ...]:
        return (*self.kernel_size, self.channels, self.filters)

    def compact(self, **options) -> CompactConv:
        """Built, with random weights."""
        keywords = {"bias_initializer": "normal", **self.windows, **self.options, **options}
        layer = CompactConv(self.filters, self.kernel_size, blocks=self.blocks, **keywords)
        shape = (*self.sizes, self.channels)
        layer.build((None, *(moved(shape, -1, 0) if layer.data_format == "channels_first" else shape)))
        return layer

    def dense(self, compact: CompactConv, **options) -> keras.Layer:
        """The stock layer with the same weights, and zeros."""
        size = [self.kernel_size] if self.kernel_size else []
        layer = STOCK[len(self.kernel_size)](
            self.filters,
            *size,
            **self.windows,
            **({"data_format": "channels_last"} if size else {}),
            **options,
        )
        layer.build((None, *self.sizes, self.channels))
        kernel, *bias = compact.get_weights()
        layer.set_weights([scattered(kernel, self), *(bias or np.zeros((1, self.filters)))])
        return layer

    def images(self, count: int = 3) -> np.ndarray:
        return np.random.default_rng(1).normal(size=(count, *self.sizes, self.channels)).astype("float32")


def moved(shape: tuple, source: int, target: int) -> tuple:
    order = list(shape)
    order.insert(target, order.pop(source))
    return tuple(order)


def scattered(entries: np.ndarray, case: Case) -> np.ndarray:
    """The full kernel, entry by entry."""
    full = np.zeros((int(np.prod(case.kernel_size)), case.channels, case.filters), entries.dtype)
    left = list(entries)
    for block in case.blocks:
        for tap, channel in block["columns"]:
            for row in block["rows"]:
                full[tap, channel, row] = left.pop(0)
    assert not left
    return full.reshape(case.full_shape)


@st.composite
def cases(draw) -> Case:
    """Any rank, window and padding; blocks with random rows and columns, some or all of them empty."""
    rank = draw(st.integers(0, 3))
    kernel_size = tuple(draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)))
    per_axis = st.lists(st.integers(1, 3), min_size=rank, max_size=rank).map(tuple)
    windows: dict = {}
    if rank:
        windows[draw(st.sampled_from(["strides", "dilation_rate"]))] = draw(per_axis)
        windows["padding"] = draw(st.sampled_from(["valid", "same"] + ["causal"] * (rank == 1)))
    positions = st.integers(7, 9) if rank else st.integers(1, 3)
    sizes = tuple(draw(st.lists(positions, min_size=rank, max_size=rank or 2)))
    channels, filters = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    taps = int(np.prod(kernel_size))
    groups = draw(st.integers(1, min(3, filters)))
    rows = np.array_split(draw(st.permutations(range(filters))), groups)
    every = [[tap, channel] for tap in range(taps) for channel in range(channels)]
    blocks = [
        {
            "rows": draw(st.lists(st.sampled_from(list(map(int, part))), unique=True)),
            "columns": sorted(draw(st.lists(st.sampled_from(every), unique_by=tuple))),
        }
        for part in rows
    ]
    return Case(sizes, kernel_size, channels, filters, blocks, windows)


@given(case=cases(), use_bias=st.booleans(), activation=st.sampled_from([None, "relu"]))
def test_compact_convolution_equals_the_dense_one_with_zeros(case, use_bias, activation):
    compact = case.compact(use_bias=use_bias, activation=activation)
    x = case.images()
    expected = array(case.dense(compact, activation=activation)(x))
    np.testing.assert_allclose(array(compact(x)), expected, rtol=1e-5, atol=1e-5)
    assert compact.compute_output_shape(x.shape) == expected.shape
    entries = sum(len(block["rows"]) * len(block["columns"]) for block in case.blocks)
    assert compact.kernel.shape == (entries,)


@given(case=cases().filter(lambda case: case.kernel_size))
def test_channels_first_is_the_same_with_axes_moved(case):
    compact = case.compact(data_format="channels_first")
    x = case.images()
    got = array(compact(np.moveaxis(x, -1, 1)))
    np.testing.assert_allclose(np.moveaxis(got, 1, -1), array(case.dense(compact)(x)), rtol=1e-5, atol=1e-5)
    assert compact.compute_output_shape(moved(x.shape, -1, 1)) == got.shape


@given(case=cases().filter(lambda case: case.kernel_size and set(case.windows.get("strides", [1])) == {1}))
def test_sizes_may_be_open_without_strides(case):
    layer = CompactConv(case.filters, case.kernel_size, blocks=case.blocks, **case.windows)
    x = keras.Input((*[None] * len(case.sizes), case.channels))
    model = keras.Model(x, layer(x))
    assert model.output_shape == (None, *[None] * len(case.sizes), case.filters)
    dense = case.dense(layer)
    for images in (case.images(), case.images()[:, 1:]):
        np.testing.assert_allclose(array(model(images)), array(dense(images)), rtol=1e-5, atol=1e-5)


CASE = Case((9, 8), (2, 2), 2, 4, [BLOCK], {"strides": (2, 1), "padding": "same"})


@pytest.mark.parametrize(
    ("policy", "compute", "tolerance"),
    [
        ("mixed_float16", "float16", 1e-2),
        ("mixed_bfloat16", "bfloat16", 5e-2),
        ("float64", "float64", 1e-12),
    ],
)
def test_policy_is_that_of_the_dense_layer(policy, compute, tolerance):
    compact = CASE.compact(dtype=policy)
    dense, made = CASE.dense(compact, dtype=policy), compact(CASE.images())
    assert compact.kernel.dtype == dense.kernel.dtype
    assert keras.backend.standardize_dtype(made.dtype) == compute
    expected, got = (array(layer(CASE.images())).astype("float64") for layer in (dense, compact))
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_outputs_come_in_the_order_of_their_numbers():
    columns = [[0, 0], [2, 1]]
    blocks = [{"rows": [2, 0], "columns": columns}, {"rows": [3, 1], "columns": columns}]
    case = Case((5, 5), (2, 2), 2, 4, blocks)
    compact = case.compact()
    expected = array(case.dense(compact)(case.images()))
    np.testing.assert_allclose(array(compact(case.images())), expected, rtol=1e-5, atol=1e-5)


def test_one_layer_serves_inputs_of_several_sizes():
    compact = CASE.compact()
    dense = CASE.dense(compact)
    for sizes in ((9, 8), (8, 8), (5, 6), (2, 3)):
        x = replace(CASE, sizes=sizes).images()
        np.testing.assert_allclose(array(compact(x)), array(dense(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_moves_entries_as_it_moves_those_of_the_dense_layer(jit_compile):
    compact = CASE.compact()
    trained = []
    for layer in (compact, CASE.dense(compact)):
        x = keras.Input((9, 8, 2))
        model = keras.Model(x, layer(x))
        model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=jit_compile)
        model.train_on_batch(CASE.images(), np.ones((3, 5, 8, 4)))
        trained.append(layer.get_weights())
    (entries, bias), (kernel, expected) = trained
    full = scattered(entries, CASE)
    np.testing.assert_allclose(full, np.where(full != 0, kernel, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bias, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
def test_layer_survives_saving(file, tmp_path):
    def model(layer):
        x = keras.Input((9, 8, 2))
        return keras.Model(x, layer(x))

    before = model(CASE.compact(activation="relu", name="small"))
    if file == "model.keras":
        before.save(tmp_path / file)
        after = keras.saving.load_model(tmp_path / file)
    else:
        before.save_weights(tmp_path / file)
        after = model(CASE.compact(activation="relu", name="small"))
        after.load_weights(tmp_path / file)
    np.testing.assert_array_equal(array(after(CASE.images())), array(before(CASE.images())))
    assert after.get_layer("small").get_config() == before.get_layer("small").get_config()


def test_initializer_sees_the_matrix_of_a_block():
    columns = [[0, channel] for channel in range(100)]
    blocks = [{"rows": list(range(first, first + 50)), "columns": columns} for first in (0, 50)]
    layer = CompactConv(100, (), blocks=blocks, kernel_initializer="glorot_uniform")
    layer.build((None, 100))
    limit = np.sqrt(6 / (100 + 50))
    assert 0.99 * limit < np.abs(array(layer.kernel)).max() <= limit


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding": "full"}, "padding must be 'valid', 'same', or 'causal' for one axis, got 'full'"),
        ({"padding": "causal"}, "got 'causal' for 2 axes"),
        ({"blocks": [BLOCK, BLOCK]}, "may be in one block at most"),
        ({"blocks": [{"rows": [4], "columns": []}]}, "Each of the outputs 0 ... 3"),
        ({"blocks": [{"rows": [-1], "columns": []}]}, "Each of the outputs 0 ... 3"),
        (
            {"blocks": [{"rows": [0], "columns": [[4, 0]]}]},
            r"the taps 0 ... 3, .*got the columns \[\(4, 0\)\]",
        ),
        ({"blocks": [{"rows": [0], "columns": [[0, -1]]}]}, "channels count from 0"),
        ({"blocks": [{"rows": [0], "columns": [[1, 0], [0, 1]]}]}, "in order of tap, then channel"),
        ({"strides": (2, 2, 2)}, "strides must be .*above 0 for each of 2 axes"),
        ({"strides": 0}, "strides must be .*above 0"),
        ({"dilation_rate": (2,)}, "dilation_rate must be .*above 0 for each of 2 axes"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CompactConv(4, (2, 2), **{"blocks": [BLOCK], **settings})


@pytest.mark.parametrize(
    ("shape", "strides", "message"),
    [
        ((None, 8, 8, 1), 1, "reads channel 1, its input has 1 channels"),
        ((None, 8, 8, None), 1, "its input has None channels"),
        ((None, None, 8, 2), 2, "which is open. Give the model's Input a size"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shape, strides, message):
    with pytest.raises(ValueError, match=message):
        CompactConv(4, (2, 2), blocks=[BLOCK], strides=strides, name="small").build(shape)
