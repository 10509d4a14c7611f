"""Arithmetic codes come back bit for bit, near the entropy, and damage is never a crash."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.coding import ans


def random_codes(count, symbols, density, seed, clumped=False):
    rng = np.random.default_rng(seed)
    if clumped:  # nonzero ones lie together
        live = np.repeat(rng.random(-(-count // 64)) < density, 64)[:count]
    else:
        live = rng.random(count) < density
    return (live * np.minimum(rng.geometric(0.3, count), symbols - 1)).astype("uint16")


def entropy_bytes(codes) -> float:
    shares = np.bincount(codes) / len(codes)
    return float(-np.sum(shares[shares > 0] * np.log2(shares[shares > 0]))) * len(codes) / 8


@given(
    count=st.one_of(st.integers(0, 300), st.integers(16_000, 80_000)),
    symbols=st.one_of(st.integers(2, 40), st.integers(200, ans.MAX_SYMBOLS)),
    density=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_codes_come_back(count, symbols, density, seed):
    codes = random_codes(count, symbols, density, seed)
    found = ans.decode(ans.encode(codes, symbols), symbols, count)
    np.testing.assert_array_equal(found, codes)
    assert found.dtype == np.min_scalar_type(symbols - 1)


def test_all_symbols_can_be_coded():
    codes = np.arange(ans.MAX_SYMBOLS, dtype="uint16")
    np.testing.assert_array_equal(ans.decode(ans.encode(codes, len(codes)), len(codes), len(codes)), codes)


@pytest.mark.parametrize("density", [0.03, 0.1, 0.5])
def test_it_takes_hardly_more_than_the_entropy(density):
    codes = random_codes(300_000, 32, density, 0)
    assert len(ans.encode(codes, 32)) < 1.015 * entropy_bytes(codes)


def test_nonzero_codes_that_lie_together_take_less():
    codes = random_codes(300_000, 4, 0.1, 0, clumped=True)
    assert len(ans.encode(codes, 4)) < 0.8 * entropy_bytes(codes)


@given(st.data(), st.integers(0, 99))
def test_damage_is_an_error_or_other_codes_never_a_crash(data, seed):
    codes = random_codes(20_000, 16, 0.2, seed)
    stream = bytearray(ans.encode(codes, 16))
    for _ in range(data.draw(st.integers(1, 5))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(stream)))
    for damaged in (stream, stream[:cut], stream + b"12"):
        try:
            assert len(ans.decode(bytes(damaged), 16, 20_000)) == 20_000
        except ValueError as error:
            assert "stream" in str(error)


@pytest.mark.parametrize("symbols", [2, 4096])
def test_zeros_take_nearly_nothing_and_no_step_for_each(symbols):
    codes = np.zeros(10 * ans.STEPS, "uint8")
    stream = ans.encode(codes, symbols)
    assert int.from_bytes(stream[:2], "little") == 10
    np.testing.assert_array_equal(ans.decode(stream, symbols, len(codes)), codes)


def test_a_short_stream_takes_no_memory():
    """A file may say that a few bytes are any number of codes; what cannot be is seen before."""
    stream = ans.encode(np.zeros(100, "uint8"), 2)
    with pytest.raises(ValueError, match="14 bytes cannot hold 281474976710656 codes"):
        ans.decode(stream, 2, 2**48)


def test_no_code_takes_less_than_the_bound(monkeypatch):
    """Nothing but zeros, in one lane, is the most that a byte can hold."""
    monkeypatch.setattr(ans, "STEPS", 10**9)
    stream = ans.encode(np.zeros(500_000, "uint8"), 2)
    assert ans.PER_BYTE * len(stream) / 2 > 500_000


def test_bad_arguments():
    with pytest.raises(ValueError, match="code 4 is not below 4"):
        ans.encode(np.array([4]), 4)
    for symbols in (1, ans.MAX_SYMBOLS + 1):
        with pytest.raises(ValueError, match="From 2 to"):
            ans.encode(np.array([0]), symbols)
        with pytest.raises(ValueError, match="From 2 to"):
            ans.decode(b"", symbols, 1)
