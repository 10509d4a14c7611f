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
from tfcompress.criteria.criterion import ActivationCriterion, Criterion, WeightCriterion
from tfcompress.criteria.entropy import Entropy
from tfcompress.criteria.fpgm import GeometricMedian
from tfcompress.criteria.norms import L1, L2
from tfcompress.criteria.random import Random
from tfcompress.criteria.streaming import score_together

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
    "random": Random,
}.items():
    register(_name)(_class)

__all__ = [
    "L1",
    "L2",
    "APoZ",
    "ActivationCriterion",
    "BatchNormScale",
    "Criterion",
    "Entropy",
    "GeometricMedian",
    "Random",
    "WeightCriterion",
    "get",
    "names",
    "register",
    "score_together",
]
