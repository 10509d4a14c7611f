"""Arrays come back bit for bit, whatever is in them, in no more bytes than the plain ones."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from tfcompress.coding import arrays

DTYPES = ["float32", "float16", "float64", "int8", "uint8", "int32", "int64", "bool"]


def check(array: np.ndarray) -> arrays.Coded:
    """All codings that take an array give it back; returns the smallest."""
    for coded in arrays.candidates(array):
        same(array, arrays.decode(coded, array.shape, array.dtype))
    coded = arrays.encode(array)
    assert coded.bytes <= array.nbytes
    same(array, arrays.decode(coded, array.shape, array.dtype))
    return coded


def same(one, other):
    assert one.shape == other.shape and one.dtype == other.dtype
    assert one.tobytes() == other.tobytes()


@given(
    st.sampled_from(DTYPES).flatmap(lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0)))
)
def test_any_array_comes_back(array):
    check(array)


@given(
    shape=st.sampled_from([(0,), (1,), (7, 5), (3, 3, 8, 16), (1, 1, 64, 32), (300, 100)]),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    values=st.sampled_from([1, 3, 31, 255, 5000]),
    seed=st.integers(0, 99),
)
def test_kernels_come_back(shape, density, values, seed):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=values).astype("float32")
    kernel = np.where(rng.random(shape) < density, table[rng.integers(0, values, shape)], 0)
    check(kernel.astype("float32"))


def test_zeros_with_a_sign_and_numbers_that_are_none_come_back():
    patterns = np.array([0, 2**31, 0x7FC00000, 0xFFC00001, 0x7F800000, 0, 1], "uint32")
    check(np.tile(patterns.view("float32"), 50))


def test_few_values_take_few_bytes():
    rng = np.random.default_rng(0)
    live = rng.random((500, 200)) < 0.1
    kernel = np.where(live, rng.choice(rng.normal(size=31), (500, 200)), 0).astype("float32")
    coded = arrays.encode(kernel)
    bits = -0.1 * np.log2(0.1) - 0.9 * np.log2(0.9) + 0.1 * np.log2(31)
    assert coded.kind == "table" and coded.bytes < 1.025 * kernel.size * bits / 8 + 4 * 31
    assert arrays.encode(rng.normal(size=10_000).astype("float32")).bytes > 30_000  # nothing to gain


def test_what_has_nothing_to_gain_is_stored_as_it_is():
    bytes_ = np.random.default_rng(0).integers(0, 256, 100_000).astype("uint8")
    assert check(bytes_).kind == "raw"


def test_filters_that_are_gone_are_seen():
    rng = np.random.default_rng(0)
    values = rng.choice(rng.normal(size=15), (3, 3, 32, 64))
    kernel = np.where(rng.random(64) < 0.3, values, 0).astype("float32")
    live = np.count_nonzero(kernel)
    assert arrays.encode(kernel).bytes < 1.1 * live * np.log2(15) / 8 + 4 * 15 + 100


@given(st.data(), st.sampled_from(sorted(arrays.KINDS)), st.integers(0, 9))
def test_damage_is_an_error_or_another_array_never_a_crash(data, kind, seed):
    rng = np.random.default_rng(seed)
    kernel = (rng.choice(rng.normal(size=7), (40, 30)) * (rng.random((40, 30)) < 0.3)).astype("float32")
    streams, settings = next(iter(arrays.KINDS[kind].encode(arrays.Entries.of(kernel), np.inf)))
    streams = [bytearray(stream) for stream in streams]
    for _ in range(data.draw(st.integers(1, 4))):
        stream = data.draw(st.sampled_from([stream for stream in streams if stream]))
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        streams[-1] = streams[-1][: data.draw(st.integers(0, len(streams[-1])))]
    if data.draw(st.booleans()):
        del streams[data.draw(st.integers(0, len(streams) - 1))]
    coded = arrays.Coded(kind, [bytes(stream) for stream in streams], settings)
    with contextlib.suppress(ValueError):
        assert arrays.decode(coded, kernel.shape, kernel.dtype).shape == kernel.shape


def test_bad_headers():
    coded = arrays.encode(np.zeros((4, 3), "float32"))
    with pytest.raises(ValueError, match="no coding 'new'"):
        arrays.decode(arrays.Coded("new", [], {}), (1,), "float32")
    with pytest.raises(ValueError, match="order of axes"):
        arrays.decode(arrays.Coded(coded.kind, coded.streams, {"order": [0, 0]}), (4, 3), "float32")
    with pytest.raises(ValueError, match="hold 2 entries, not the 3"):
        arrays.decode(arrays.Coded("raw", [bytes(8)], {}), (3,), "float32")
