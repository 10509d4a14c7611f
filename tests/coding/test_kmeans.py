"""Clusters of numbers: the exact ones are the best there are, and the others never get worse."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.coding import kmeans

VALUES = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=1, max_size=11)


def best_of_all(values, count) -> float:
    """Over all ways to cut sorted values."""
    ordered = np.sort(values)
    sizes = min(count, len(ordered))
    best = np.inf
    for cuts in itertools.combinations(range(1, len(ordered)), sizes - 1):
        parts = np.split(ordered, cuts)
        best = min(best, sum(float(np.sum((part - part.mean()) ** 2)) for part in parts))
    return best


@given(VALUES, st.integers(1, 5))
def test_exact_clusters_are_the_best_of_all(values, count):
    centroids = kmeans.cluster(np.array(values), count, "exact")
    assert len(centroids) <= count
    np.testing.assert_allclose(kmeans.spread(values, centroids), best_of_all(values, count), atol=1e-6)


@pytest.mark.parametrize("method", kmeans.STARTS)
@given(seed=st.integers(0, 99), count=st.integers(1, 20), size=st.integers(1, 300))
def test_rounds_never_get_worse_and_end_where_nothing_moves(method, seed, count, size):
    rng = np.random.default_rng(seed)
    values = rng.standard_t(2, size).astype("float32")
    ordered = np.sort(values.astype("float64"))
    found = kmeans.cluster(values, count, method, seed=seed)
    assert found.dtype == "float32" and (np.diff(found) > 0).all()
    assert len(found) == min(count, len(np.unique(values)))
    exact = kmeans.spread(values, kmeans.cluster(values, count, "exact"))
    assert kmeans.spread(values, found) >= exact * (1 - 1e-5) - 1e-5
    if len(np.unique(ordered)) > count:
        begun = kmeans.STARTS[method](ordered, count, np.random.default_rng(seed))
        assert kmeans.spread(values, found) <= kmeans.spread(values, begun) * (1 + 1e-5) + 1e-6
    numbers = kmeans.nearest(values, found)
    for number, centroid in enumerate(found):
        assert np.isclose(values[numbers == number].mean(dtype="float64"), centroid, rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 99), size=st.integers(1, 50))
def test_nearest_is_nearest(seed, size):
    rng = np.random.default_rng(seed)
    values, centroids = rng.normal(size=(3, 7)), np.unique(rng.normal(size=size).astype("float32"))
    apart = np.abs(values[..., None] - centroids.astype("float64"))
    np.testing.assert_array_equal(kmeans.nearest(values, centroids), apart.argmin(-1))


def test_clusters_that_lose_all_values_begin_anew():
    """Linear beginnings between two far heaps own nothing at first."""
    values = np.concatenate([np.linspace(0, 1, 50), np.linspace(100, 101, 50)])
    found = kmeans.cluster(values, 8, "linear")
    assert len(found) == 8
    assert kmeans.spread(values, found) < 2 * kmeans.spread(values, kmeans.cluster(values, 8, "exact"))


def test_all_different_values_may_have_a_cluster():
    values = np.array([3, 1, 1, 2], "float32")
    for method in (*kmeans.STARTS, "exact"):
        np.testing.assert_array_equal(kmeans.cluster(values, 9, method), [1, 2, 3])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([1.0], 0), "at least 1"),
        (([1.0], 1.5), "whole number"),
        (([], 2), "at least one"),
        (([1.0, np.nan], 2), "Only finite"),
        (([1.0, 2.0, 3.0], 2, "liner"), "Did you mean 'linear'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kmeans.cluster(np.array(arguments[0]), *arguments[1:])
