"""Distance to the other filters (He et al. 2019, "Filter Pruning via Geometric Median")."""

from dataclasses import dataclass

import numpy as np

from tfcompress.criteria.criterion import WeightCriterion


@dataclass(frozen=True)
class GeometricMedian(WeightCriterion):
    """How far a filter is from all others of its layer: `s_j = sum_k ||F_j - F_k||_2`.

    A filter near the geometric median of its layer has the smallest sum and can best be replaced
    by the others (He et al. 2019, eq. 7). It needs no data, and small filters are not punished.

    >>> GeometricMedian().score_filters(np.array([[0.0], [1.0], [3.0]]))
    array([4., 3., 5.])
    """

    def score_filters(self, filters: np.ndarray) -> np.ndarray:
        products = filters @ filters.T
        squares = np.diag(products)
        distances = squares[:, None] + squares - 2 * products  # |a - b|^2; rounding may dip below 0
        return np.sqrt(np.maximum(distances, 0)).sum(axis=1)
