"""Callbacks for `model.fit`: what compresses a model while it trains."""

from tfcompress.callbacks.hard_thresholding import IterativeHardThresholding
from tfcompress.callbacks.layerwise import LayerwisePruning
from tfcompress.callbacks.masks import UpdateMasks
from tfcompress.callbacks.proximal import FollowLearningRate
from tfcompress.callbacks.strength import ReachSparsity
from tfcompress.callbacks.structure import FreezeZeros

__all__ = [
    "FollowLearningRate",
    "FreezeZeros",
    "IterativeHardThresholding",
    "LayerwisePruning",
    "ReachSparsity",
    "UpdateMasks",
]
