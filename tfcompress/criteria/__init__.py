"""Criteria: the importance of each output channel, higher = keep. One file each; this is the list.

>>> from tfcompress import criteria
>>> criteria.get("entropy")
Entropy(bins=100, images=1024)
>>> criteria.get({"name": "entropy", "bins": 50}).bins
50
"""

from tfcompress._registry import Registry
from tfcompress.criteria.apoz import APoZ
from tfcompress.criteria.bn_scale import BatchNormScale
from tfcompress.criteria.correlation import Correlation, correlations
from tfcompress.criteria.criterion import (
    ActivationCriterion,
    Criterion,
    GradientCriterion,
    StreamingCriterion,
    WeightCriterion,
)
from tfcompress.criteria.deep_lda import DeepLDA
from tfcompress.criteria.entropy import Entropy
from tfcompress.criteria.fpgm import GeometricMedian
from tfcompress.criteria.hrank import HRank
from tfcompress.criteria.lda import LDA, Firing, firing
from tfcompress.criteria.mean_activation import MeanActivation
from tfcompress.criteria.norms import L1, L2
from tfcompress.criteria.random import Random
from tfcompress.criteria.streaming import score_together
from tfcompress.criteria.taylor import Taylor, Taylor2019

_REGISTRY = Registry("criterion")
register = _REGISTRY.register
names = _REGISTRY.names
get = _REGISTRY.get

for _name, _class in {
    "l1": L1,
    "l2": L2,
    "fpgm": GeometricMedian,
    "bn_scale": BatchNormScale,
    "apoz": APoZ,
    "entropy": Entropy,
    "mean_activation": MeanActivation,
    "hrank": HRank,
    "lda": LDA,
    "deep_lda": DeepLDA,
    "taylor": Taylor,
    "taylor2019": Taylor2019,
    "correlation": Correlation,
    "random": Random,
}.items():
    register(_name)(_class)

__all__ = [
    "L1",
    "L2",
    "LDA",
    "APoZ",
    "ActivationCriterion",
    "BatchNormScale",
    "Correlation",
    "Criterion",
    "DeepLDA",
    "Entropy",
    "Firing",
    "GeometricMedian",
    "GradientCriterion",
    "HRank",
    "MeanActivation",
    "Random",
    "StreamingCriterion",
    "Taylor",
    "Taylor2019",
    "WeightCriterion",
    "correlations",
    "firing",
    "get",
    "names",
    "register",
    "score_together",
]
