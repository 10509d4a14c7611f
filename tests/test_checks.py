"""What the public doors ask of numbers and names: every wrong one is refused, every right one taken."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress._checks import check_choice, check_number, check_whole, is_number, is_whole

NO_NUMBERS = [None, "1", True, False, np.True_, [1], np.ones(2), 1j, math.nan, np.float32("nan")]


@given(st.floats(), st.floats(), st.floats(), st.sampled_from("[("), st.sampled_from("])"))
def test_an_interval_is_what_it_says(value, low, high, opened, closed):
    low, high = sorted([0.0 if math.isnan(end) else end for end in (low, high)])
    above = value >= low if opened == "[" else value > low
    below = value <= high if closed == "]" else value < high
    assert is_number(value, f"{opened}{low}, {high}{closed}") == (above and below)


@given(st.integers(), st.integers(-9, 9), st.integers(-9, 9))
def test_a_range_of_whole_numbers_has_both_its_ends(value, least, most):
    assert is_whole(value, least, most) == (least <= value <= most)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_refused(value):
    assert not is_number(value) and not is_whole(value)
    with pytest.raises(ValueError, match="x must be a number, got"):
        check_number("x", value)
    with pytest.raises(ValueError, match="x must be a whole number of at least 1, got"):
        check_whole("x", value)


@pytest.mark.parametrize("cast", [int, np.int8, np.uint64, np.int64])
def test_whole_numbers_of_all_kinds_are_taken(cast):
    check_whole("x", cast(3), 3, 3)
    check_number("x", cast(3), "[3, 3]")


def test_numbers_beyond_those_of_floats_are_compared():
    assert is_number(10**400) and not is_number(10**400, "[0, 1]")


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ("(-inf, inf)", "a number, got"),
        ("(0, inf)", "a number above 0, got"),
        ("[2, inf)", "a number of at least 2, got"),
        ("[0, 1)", r"a number in \[0, 1\), got"),
    ],
)
def test_the_message_says_what_was_expected(span, said):
    with pytest.raises(ValueError, match=f"x must be {said} nan"):
        check_number("x", math.nan, span)


def test_what_else_is_taken_is_said():
    with pytest.raises(ValueError, match="from 1 to 8, or None, got 9"):
        check_whole("x", 9, 1, 8, or_none=True)
    with pytest.raises(ValueError, match="Available: a, b, or a function.$"):
        check_choice("x", "c", ["a", "b"], or_else="a function")
    check_whole("x", None, or_none=True)
    check_choice("x", None, ["a", None])
