"""Weights that make a layer say what it is to say, by least squares, of which only some may be nonzero.

Arrays are `(groups, ...)`, one group for each part of a layer that sees nothing of the others: `x` `(groups,
rows, columns)` is what is seen, `y` `(groups, rows, filters)` what is to be said, and weights `a` `(groups,
columns, filters)` say `x @ a`.

>>> rng = np.random.default_rng(0)
>>> x, a = rng.normal(size=(1, 50, 4)), np.array([[[1.0], [0.0], [2.0], [0.0]]])
>>> moments = Moments.none(1, 4, 1)
>>> moments.add(x, x @ a)
>>> refit(moments, np.ones_like(a), a != 0, ridge=0.0).round(6).ravel()
array([1., 0., 2., 0.])
"""

from dataclasses import dataclass

import numpy as np
from scipy import linalg

Array = np.ndarray


@dataclass
class Moments:
    """All that least squares needs of any number of rows, in float64.

    Attributes:
        xx: `(groups, columns, columns)`, `x^T x`.
        xy: `(groups, columns, filters)`, `x^T y`.
        yy: `(groups, filters)`, the sum of `y^2`.
    """

    xx: Array
    xy: Array
    yy: Array

    @classmethod
    def none(cls, groups: int, columns: int, filters: int) -> "Moments":
        """Of no rows yet."""
        shapes = (groups, columns, columns), (groups, columns, filters), (groups, filters)
        return cls(*map(np.zeros, shapes))

    def add(self, x: Array, y: Array) -> None:
        x, y = x.astype("float64"), y.astype("float64")
        transposed = x.transpose(0, 2, 1)
        self.xx += transposed @ x
        self.xy += transposed @ y
        self.yy += (y**2).sum(axis=1)

    def error(self, a: Array) -> Array:
        """`(groups, filters)`: the sum over rows of `(y - x a)^2`."""
        return np.maximum(self.yy - (a * (self.xy + self.unexplained(a))).sum(axis=1), 0.0)

    def unexplained(self, a: Array) -> Array:
        """`(groups, columns, filters)`: `x^T (y - x a)`."""
        return self.xy - self.xx @ a


def refit(moments: Moments, a: Array, support: Array, ridge: float) -> Array:
    """The weights with the least error among those that are zero off the support.

    `min_d ||y - x (a + d)||^2 + ridge * m ||d||^2`, m the mean of the diagonal of `x^T x`, starting from the
    weights that are there: what the rows do not tell stays as it is, and the error never grows.

    Args:
        moments: of what is seen and is to be said.
        a: the weights as they are; those off the support do not count.
        support: bool, of the shape of `a`: where weights may be nonzero.
        ridge: 0 or more. With 0 or next to it singular systems have the smallest change that solves them.
    """
    start = np.where(support, a, 0.0)
    found = start.copy()
    for group, (xx, missing) in enumerate(zip(moments.xx, moments.unexplained(start), strict=True)):
        for columns, filters in _alike(support[group]):
            if len(columns):
                system = xx[np.ix_(columns, columns)]
                change = _solved(system, missing[np.ix_(columns, filters)], ridge)
                found[group][np.ix_(columns, filters)] += change
    better = moments.error(found) <= moments.error(start)
    return np.where(better[:, None, :], found, start)


def _alike(support: Array) -> list[tuple[Array, Array]]:
    """(columns, the filters that have just these) for a support `(columns, filters)`."""
    patterns, which = np.unique(support, axis=1, return_inverse=True)
    which = which.ravel()
    return [(np.flatnonzero(p), np.flatnonzero(which == number)) for number, p in enumerate(patterns.T)]


def _solved(system: Array, right: Array, ridge: float) -> Array:
    """The solution of a system that is symmetric and has no negative eigenvalue, but perhaps zeros."""
    mean = np.trace(system) / len(system)
    if mean == 0:
        return np.zeros_like(right)
    ridged = system.copy()
    ridged.flat[:: len(system) + 1] += ridge * mean
    try:
        factor = linalg.cho_factor(ridged, overwrite_a=True, check_finite=False)
        return linalg.cho_solve(factor, right, check_finite=False)
    except linalg.LinAlgError:
        return linalg.pinvh(system) @ right


def restored(moments: Moments, a: Array, support: Array, count: Array, steps: int) -> Array:
    """A support with `count` more columns for each filter: those that explain most of what is left.

    The gain of a column is what it takes off the error by itself, `(x_j . r)^2 / (x_j . x_j)`, r = y - x a.
    Columns come back with their weights in `a`, a part of them in each step, after which r is made anew.

    Args:
        moments: of what is seen and is to be said.
        a: the original weights.
        support: bool, of the shape of `a`: where weights are left.
        count: `(groups, filters)`, how many come back.
        steps: in how many parts.
    """
    support = support.copy()
    seen = np.diagonal(moments.xx, axis1=1, axis2=2)[:, :, None]
    for step in range(steps):
        part = count * (step + 1) // steps - count * step // steps
        missing = moments.unexplained(np.where(support, a, 0.0))
        gain = np.where(seen > 0, missing**2 / np.where(seen > 0, seen, 1.0), 0.0)
        gain[support] = -1.0
        ranks = np.argsort(np.argsort(-gain, axis=1, kind="stable"), axis=1, kind="stable")
        support |= ranks < part[:, None, :]
    return support
