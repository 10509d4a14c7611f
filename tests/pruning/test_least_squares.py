"""Least squares over some of the columns, from second moments alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.pruning.least_squares import Moments, refit, restored


def problem(seed: int, groups: int = 2, rows: int = 60, columns: int = 7, filters: int = 3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, rows, columns)) * (rng.random((groups, rows, columns)) < 0.7)
    y = rng.normal(size=(groups, rows, filters))
    a = rng.normal(size=(groups, columns, filters))
    support = rng.random(a.shape) < 0.6
    return x, y, a, support


def moments(x: np.ndarray, y: np.ndarray, parts: int = 3) -> Moments:
    found = Moments.none(len(x), x.shape[2], y.shape[2])
    for rows in np.array_split(np.arange(x.shape[1]), parts):
        found.add(x[:, rows], y[:, rows])
    return found


@given(st.integers(0, 10_000))
def test_the_error_is_that_of_all_rows_at_once(seed):
    x, y, a, _ = problem(seed)
    np.testing.assert_allclose(moments(x, y).error(a), ((y - x @ a) ** 2).sum(axis=1), rtol=1e-9)


@given(st.integers(0, 10_000))
def test_weights_on_the_support_are_those_of_numpys_least_squares(seed):
    x, y, a, support = problem(seed)
    found = refit(moments(x, y), a, support, ridge=0.0)
    assert not found[~support].any()
    for group in range(len(x)):
        for number in range(y.shape[2]):
            columns = support[group, :, number]
            expected = np.linalg.lstsq(x[group][:, columns], y[group, :, number], rcond=None)[0]
            np.testing.assert_allclose(found[group, columns, number], expected, atol=1e-8)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1e-6, 1e-2, 10.0]), st.integers(2, 40))
def test_the_error_never_grows_however_few_the_rows(seed, ridge, rows):
    x, y, a, support = problem(seed, rows=rows, columns=12)
    x[:, :, 1] = x[:, :, 0]  # a column twice
    x[:, :, 2] = 0.0  # and a dead one
    found = moments(x, y)
    after = refit(found, a, support, ridge)
    assert np.isfinite(after).all() and not after[~support].any()
    assert (found.error(after) <= found.error(np.where(support, a, 0.0))).all()


def test_what_the_rows_do_not_tell_stays_as_it_is():
    x, y, a, _ = problem(0, rows=3)
    x[:, :, 4] = 0.0
    for ridge in (0.0, 1e-6):
        after = refit(moments(x, y), a, np.ones(a.shape, bool), ridge)
        np.testing.assert_allclose(after[:, 4], a[:, 4], atol=1e-12)
    nothing = refit(moments(np.zeros_like(x), y), a, np.ones(a.shape, bool), 0.0)
    np.testing.assert_array_equal(nothing, a)


def test_a_large_ridge_leaves_weights_where_they_are():
    x, y, a, support = problem(1)
    after = refit(moments(x, y), a, support, ridge=1e9)
    np.testing.assert_allclose(after, np.where(support, a, 0.0), atol=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_as_many_columns_come_back_as_asked_for_and_none_goes(seed, steps):
    x, y, a, support = problem(seed)
    rng = np.random.default_rng(seed)
    count = rng.integers(0, (~support).sum(axis=1) + 1)
    after = restored(moments(x, y), a, support, count, steps)
    assert (after | ~support).all()
    np.testing.assert_array_equal(after.sum(axis=1) - support.sum(axis=1), count)


@given(st.integers(0, 10_000))
def test_the_first_column_to_come_back_is_the_one_that_explains_most(seed):
    x, y, a, support = problem(seed, groups=1, filters=1)
    support[0, 0, 0] = False
    after = restored(moments(x, y), a, support, np.array([[1]]), 1)
    residual = y[0, :, 0] - x[0] @ np.where(support, a, 0.0)[0, :, 0]

    def left(column):
        best = np.linalg.lstsq(x[0][:, [column]], residual, rcond=None)[0]
        return ((residual - x[0][:, column] * best) ** 2).sum()

    (came,) = np.flatnonzero(after[0, :, 0] & ~support[0, :, 0])
    others = np.flatnonzero(~support[0, :, 0])
    assert left(came) <= min(map(left, others)) * (1 + 1e-9)


@given(st.integers(0, 10_000))
def test_the_error_of_the_best_weights_falls_with_every_column_that_comes_back(seed):
    x, y, a, support = problem(seed)
    found, errors = moments(x, y), []
    for count in range(int((~support).sum(axis=1).min()) + 1):
        wider = restored(found, a, support, np.full(support.shape[::2], count), max(count, 1))
        errors.append(found.error(refit(found, a, wider, 0.0)).sum())
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(errors))


def test_of_two_columns_alike_one_is_enough():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 80, 3))
    x[:, :, 1] = x[:, :, 0]
    a = np.array([[[1.0], [1.0], [3.0]]])
    found = moments(x, x @ a)
    largest = np.array([[[False], [False], [True]]])
    kept = restored(found, a, largest, np.array([[1]]), 1)
    assert kept.sum() == 2 and kept[0, 2, 0]
    assert found.error(np.where(kept, a, 0.0)).sum() > 1  # as magnitude pruning leaves it
    assert found.error(refit(found, a, kept, 0.0)).sum() == pytest.approx(0, abs=1e-9)
