"""How well criteria rank channels, against what the loss really does without each (Molchanov et al. 2017)."""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from scipy import stats

from tfcompress import _data, channels
from tfcompress._checks import check_choice
from tfcompress.analysis import grouping
from tfcompress.selection import POOLS


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of one criterion with the reference.

    Attributes:
        groups: group name -> correlation within that group; NaN where all scores are equal.
        mean: of the groups.
        overall: of all channels in one ranking, which asks that scores of different layers compare.
    """

    groups: Mapping[str, float]
    mean: float
    overall: float


def rank_correlation(
    model: keras.Model,
    criteria: Iterable[Any] | Mapping[str, Any],
    data: Any,
    *,
    reference: Any = "oracle",
    include: grouping.Patterns = None,
    exclude: grouping.Patterns = None,
    pool: str = "mean",
) -> dict[str, RankCorrelation]:
    """Compares the rankings of criteria with that of the oracle, the true change of the loss.

    The oracle measures every channel in turn: use a small network and few images. It says nothing of how well
    a network recovers by training.

    Args:
        model: a built functional or Sequential model, compiled with a loss. It is not changed.
        criteria: names, criteria or functions, as `tfcompress.prune` takes them; or a dict of them.
        data: (images, labels).
        reference: the criterion to compare with, such as `analysis.Oracle(loss="mse", signed=True)`.
        include: see `tfcompress.prune`.
        exclude: see `tfcompress.prune`.
        pool: how the scores of coupled layers become one, see `Selection`.

    Returns:
        Key of a dict, or name of a criterion -> `RankCorrelation`, in the order given.

    Raises:
        ValueError: see `tfcompress.prune`.

    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, keras.layers.Dense(1)(keras.layers.Dense(10, name="wide")(x)))
    >>> model.compile(loss="mse")
    >>> found = rank_correlation(model, ["l1", "oracle"], (np.random.rand(32, 4), np.zeros(32)))
    >>> round(found["oracle"].mean, 6)
    1.0
    """
    check_choice("pool", pool, POOLS)
    chosen = _named(criteria)
    data = _data.repeatable(data)
    graph = channels.trace(model)
    groups = [group for group in grouping.chosen(graph, include, exclude) if group.size > 1]

    def score(criterion: Any) -> dict[str, np.ndarray]:
        return grouping.scores(model, graph, groups, grouping.criterion_of(criterion), data, pool)

    truth = score(reference)
    return {name: _compared(score(criterion), truth) for name, criterion in chosen.items()}


def _named(criteria: Any) -> dict[str, Any]:
    if isinstance(criteria, Mapping):
        return dict(criteria)
    listed = [criteria] if isinstance(criteria, str) or not isinstance(criteria, Iterable) else list(criteria)
    return {grouping.name_of(grouping.criterion_of(criterion)): criterion for criterion in listed}


def _compared(scores: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> RankCorrelation:
    both = [name for name in truth if name in scores]
    groups = {name: _spearman(scores[name], truth[name]) for name in both}
    known = [value for value in groups.values() if not math.isnan(value)]
    overall = _spearman(*(np.concatenate([one[name] for name in both]) for one in (scores, truth)))
    return RankCorrelation(groups, float(np.mean(known)) if known else math.nan, overall)


def _spearman(scores: np.ndarray, truth: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(stats.spearmanr(scores, truth).statistic)
