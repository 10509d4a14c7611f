"""k-means of single numbers: a few shared values for many weights (Han et al. 2016, section 3).

>>> values = np.array([0.9, 1.0, 1.1, -2.0, -2.2], "float32")
>>> centroids = cluster(values, 2)
>>> [round(float(centroid), 2) for centroid in centroids]
[-2.1, 1.0]
>>> nearest(values, centroids).tolist()
[1, 1, 1, 0, 0]
"""

from collections.abc import Callable

import numpy as np

from tfcompress._checks import check_choice

ITERATIONS = 300


def cluster(values: np.ndarray, count: int, method: str = "linear", *, seed: int = 0) -> np.ndarray:
    """The `count` centroids c that make `sum_w min_c (w - c)^2` small.

    Values are sorted once, so that a cluster is a range of them, and its sums are differences of running
    sums: a round of Lloyd's algorithm looks only at the borders of clusters. A cluster that lost all its
    values is begun anew at the one that is furthest from its centroid.

    Args:
        values: the weights, of any shape.
        count: centroids, at least 1. There are no more than different values.
        method: where centroids begin: `"linear"`, at equal distances from the least to the largest value,
            which the paper finds best, since large weights are few and count; `"density"`, at equal shares of
            the values; `"random"`, at some of them, which is Forgy's. Or `"exact"`: the least sum there is,
            by dynamic programming in `O(count n log n)` time and `4 count n` bytes.
        seed: of the random ones.

    Returns:
        Ascending centroids, float32.

    Raises:
        ValueError: there are no values, they are not finite, the count is below 1, or the method unknown.
    """
    values = np.asarray(values).ravel()
    if count != int(count) or count < 1:
        raise ValueError(f"The number of clusters must be a whole number of at least 1, got {count!r}.")
    check_choice("method of clustering", method, (*STARTS, "exact"))
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("Only finite values can be clustered, and at least one.")
    ordered = np.sort(values.astype("float64"))
    different = np.unique(ordered)
    if len(different) <= count:
        return different.astype("float32")
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    if method == "exact":
        return _exact(ordered, sums, int(count))
    return _lloyd(ordered, sums, STARTS[method](ordered, int(count), np.random.default_rng(seed)))


def nearest(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The number of the nearest of ascending centroids, for each value; of two the lower one."""
    middles = (centroids[1:].astype("float64") + centroids[:-1]) / 2
    numbers = np.searchsorted(middles, np.asarray(values, "float64"), side="left")
    return numbers.astype(np.min_scalar_type(max(len(centroids) - 1, 0)))


def spread(values: np.ndarray, centroids: np.ndarray) -> float:
    """The sum of squares that clustering makes small."""
    apart = np.asarray(values, "float64") - centroids.astype("float64")[nearest(values, centroids)]
    return float(np.sum(apart**2))


Start = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
STARTS: dict[str, Start] = {
    "linear": lambda ordered, count, rng: np.linspace(ordered[0], ordered[-1], count),
    "density": lambda ordered, count, rng: np.quantile(ordered, (np.arange(count) + 0.5) / count),
    "random": lambda ordered, count, rng: np.sort(rng.choice(np.unique(ordered), count, replace=False)),
}


def _lloyd(ordered: np.ndarray, sums: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    borders = None
    for _ in range(ITERATIONS):
        middles = (centroids[1:] + centroids[:-1]) / 2
        before = borders
        borders = np.concatenate([[0], np.searchsorted(ordered, middles, side="right"), [len(ordered)]])
        if before is not None and np.array_equal(before, borders):
            break
        sizes = np.diff(borders)
        means = np.diff(sums[borders]) / np.maximum(sizes, 1)
        centroids = np.where(sizes > 0, means, centroids)
        if not sizes.all():
            centroids = _reseeded(ordered, borders, centroids)
    return np.unique(centroids.astype("float32"))


def _reseeded(ordered: np.ndarray, borders: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Centroids of empty clusters go to the values that are furthest from theirs: ends of clusters."""
    full = np.flatnonzero(np.diff(borders))
    ends = np.concatenate([ordered[borders[full]], ordered[borders[full + 1] - 1]])
    apart = np.abs(ends - np.tile(centroids[full], 2))
    empty = np.setdiff1d(np.arange(len(centroids)), full)
    furthest = ends[np.argsort(-apart, kind="stable")[: len(empty)]]
    centroids = centroids.copy()
    centroids[empty[: len(furthest)]] = furthest
    return np.sort(centroids)


def _exact(ordered: np.ndarray, sums: np.ndarray, count: int) -> np.ndarray:
    """Where the last cluster begins, for all first i values and k clusters, ascends with i.

    So each row of that table is found by halves: the middle one bounds those on both sides of it.
    """
    squares = np.concatenate([[0.0], np.cumsum(ordered**2)])

    def cost(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Of one cluster of the values from `first` up to `last`."""
        inside, size = sums[last] - sums[first], np.maximum(last - first, 1)
        return np.maximum(squares[last] - squares[first] - inside**2 / size, 0.0)

    size = len(ordered)
    best = cost(np.zeros(size + 1, int), np.arange(size + 1))
    begins = np.zeros((count, size + 1), np.int32)
    for row in range(1, count):
        best, begins[row] = _row(best, cost, row)
    ends = [size]
    for row in range(count - 1, 0, -1):
        ends.append(int(begins[row, ends[-1]]))
    borders = np.array([0, *ends[::-1]])
    return np.unique((np.diff(sums[borders]) / np.diff(borders)).astype("float32"))


def _row(before: np.ndarray, cost: Callable, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """The least cost of the first i values in one cluster more, and where the last one begins."""
    size = len(before) - 1
    best, begins = np.full(size + 1, np.inf), np.zeros(size + 1, np.int32)
    low, high = np.array([clusters + 1]), np.array([size])  # ranges of i whose middles come next
    left, right = np.array([clusters]), np.array([size - 1])  # where their last clusters may begin
    while len(low):
        middle = (low + high) // 2
        ends = np.minimum(right, middle - 1)
        counts = ends - left + 1
        starts = np.cumsum(counts) - counts
        first = np.arange(counts.sum()) - np.repeat(starts - left, counts)
        total = before[first] + cost(first, np.repeat(middle, counts))
        least = np.minimum.reduceat(total, starts)
        where = np.flatnonzero(total == np.repeat(least, counts))
        owner = np.searchsorted(starts, where, side="right") - 1
        chosen = first[where[np.unique(owner, return_index=True)[1]]]
        best[middle], begins[middle] = least, chosen
        low, high = np.concatenate([low, middle + 1]), np.concatenate([middle - 1, high])
        left, right = np.concatenate([left, chosen]), np.concatenate([chosen, right])
        open_ = low <= high
        low, high, left, right = low[open_], high[open_], left[open_], right[open_]
    return best, begins
