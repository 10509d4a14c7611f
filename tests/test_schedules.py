"""When masks are updated, and to which sparsity."""

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress import schedules
from tfcompress.schedules import Constant, Polynomial

STEPS = {"begin_step": st.integers(0, 50), "length": st.integers(1, 300), "frequency": st.integers(1, 70)}


@given(**STEPS)
def test_updates_are_due_every_so_often_and_once_at_the_end(begin_step, length, frequency):
    end_step = begin_step + length
    schedule = Polynomial(0.0, 0.9, begin_step=begin_step, end_step=end_step, frequency=frequency)
    due = [step for step in range(end_step + 100) if schedule.next_update(step) == step]
    assert due == sorted({*range(begin_step, end_step + 1, frequency), end_step})
    assert schedule.next_update(end_step + 1) is None


@given(step=st.integers(0, 500), **STEPS)
def test_next_update_is_the_first_step_from_here_on_that_is_due(step, begin_step, length, frequency):
    schedule = Constant(0.5, begin_step=begin_step, end_step=begin_step + length, frequency=frequency)
    due = [s for s in range(begin_step, begin_step + length + 1, frequency) if s >= step]
    assert schedule.next_update(step) == (due[0] if due else None)


def test_schedule_without_end_goes_on():
    assert Constant(0.5, frequency=10).next_update(10**6 + 1) == 10**6 + 10


@given(power=st.sampled_from([0.5, 1, 2, 3]), low=st.floats(0, 0.9), high=st.floats(0, 0.9))
def test_polynomial_goes_from_initial_to_final_and_stays(power, low, high):
    schedule = Polynomial(low, high, begin_step=100, end_step=300, power=power)
    assert schedule(100) == pytest.approx(low) and schedule(0) == schedule(100)
    assert schedule(300) == pytest.approx(high) and schedule(10**6) == schedule(300)
    assert schedule(200) == pytest.approx(high + (low - high) * 0.5**power)


@pytest.mark.parametrize("schedule", [Constant(0.5, frequency=7), Polynomial(0.1, 0.9, end_step=10, power=2)])
def test_schedule_survives_its_config(schedule):
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule)) == schedule


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Polynomial(0, 0.5, begin_step=10, end_step=5), "ends before it begins: end_step=5"),
        (lambda: Constant(0.5, begin_step=10, end_step=5), "ends before it begins"),
        (lambda: Polynomial(0, 0.5), "needs an end_step"),
        (lambda: Polynomial(0, 0.5, begin_step=5, end_step=5), "needs an end_step after"),
        (lambda: Polynomial(0, 1.0, end_step=5), r"number in \[0, 1\)"),
        (lambda: Polynomial(0, 0.5, end_step=5, power=-1), "power must be a number above 0, got -1"),
        (lambda: Constant(0.5, begin_step="3"), "begin_step must be a whole number of at least 0, got '3'"),
        (lambda: Constant(-0.1), r"number in \[0, 1\)"),
        (lambda: Constant(0.5, frequency=0), "frequency must be a whole number of at least 1"),
        (lambda: Constant(0.5, begin_step=-1), "begin_step must be a whole number of at least 0"),
        (lambda: schedules.get("fast"), r"number in \[0, 1\)"),
    ],
)
def test_schedule_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
