"""Distances between nonzero entries come back bit for bit, whatever lies between."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.coding.gaps import counts, from_gaps, histograms, to_gaps


def plain(codes, bits):
    """Entry by entry, as the paper tells it."""
    gaps, coded, before = [], [], -1
    for place, code in enumerate(codes):
        if code:
            while place - before > 2**bits:
                gaps.append(2**bits - 1)
                coded.append(0)
                before += 2**bits
            gaps.append(place - before - 1)
            coded.append(code)
            before = place
    return gaps, coded


@given(st.integers(0, 600), st.floats(0, 1), st.integers(1, 16), st.integers(0, 99))
def test_any_zeros_come_back(count, density, bits, seed):
    rng = np.random.default_rng(seed)
    codes = (rng.integers(1, 200, count) * (rng.random(count) < density)).astype("uint8")
    gaps, coded = to_gaps(codes, bits)
    assert (gaps.tolist(), coded.tolist()) == plain(codes, bits)
    np.testing.assert_array_equal(from_gaps(gaps, coded, count), codes)
    for made, often in zip((gaps, coded), counts(*histograms(codes), bits), strict=True):
        np.testing.assert_array_equal(np.bincount(made, minlength=len(often)), often)


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
@pytest.mark.parametrize("beyond", [-1, 0, 1, 2])
def test_gaps_at_the_edge(bits, beyond):
    codes = np.zeros(3 * 2**bits + 9, "uint16")
    codes[[0, 2**bits + beyond, -1]] = 1, 300, 2
    gaps, coded = to_gaps(codes, bits)
    assert (gaps.tolist(), coded.tolist()) == plain(codes, bits)
    np.testing.assert_array_equal(from_gaps(gaps, coded, len(codes)), codes)


def test_bad_arguments():
    with pytest.raises(ValueError, match="from 1 to 16 bits"):
        to_gaps(np.ones(3, "uint8"), 0)
    with pytest.raises(ValueError, match="do not belong together"):
        from_gaps(np.zeros(2, "uint8"), np.zeros(3, "uint8"), 9)
    with pytest.raises(ValueError, match="lead to entry 9 of 9"):
        from_gaps(np.full(1, 9, "uint8"), np.ones(1, "uint8"), 9)
