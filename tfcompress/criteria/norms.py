"""The norm of a filter's weights (Li et al. 2017, "Pruning Filters for Efficient ConvNets")."""

from dataclasses import dataclass

import numpy as np

from tfcompress.criteria.criterion import WeightCriterion


@dataclass(frozen=True)
class L1(WeightCriterion):
    """The sum of a filter's absolute weights: `s_j = sum |F_j|` (Li et al. 2017, section 3.1).

    Use it as the cheap first choice: it needs no data. Compare scores within one layer only.

    Scored on an unpruned model all layers are ranked *independently*; within `prune_layerwise`, or
    with `prune(..., greedy=True)`, kernels that act on removed maps no longer count, which is the
    paper's *greedy* strategy.

    >>> L1().score_filters(np.array([[1.0, -2.0], [0.5, 0.5]]))
    array([3., 1.])
    """

    def score_filters(self, filters: np.ndarray) -> np.ndarray:
        return np.abs(filters).sum(axis=1)


@dataclass(frozen=True)
class L2(WeightCriterion):
    """The Euclidean norm of a filter's weights: `s_j = sqrt(sum F_j^2)`.

    >>> L2().score_filters(np.array([[3.0, -4.0], [0.0, 1.0]]))
    array([5., 1.])
    """

    def score_filters(self, filters: np.ndarray) -> np.ndarray:
        return np.sqrt(np.square(filters).sum(axis=1))
