"""Callbacks for `model.fit`: what compresses a model while it trains."""

from tfcompress.callbacks.guided import GuidedSparsity
from tfcompress.callbacks.hard_thresholding import IterativeHardThresholding
from tfcompress.callbacks.layerwise import LayerwisePruning
from tfcompress.callbacks.masks import UpdateMasks
from tfcompress.callbacks.proximal import FollowLearningRate
from tfcompress.callbacks.strength import ReachSparsity
from tfcompress.callbacks.structure import FreezeZeros
from tfcompress.callbacks.windows import park_window

__all__ = [
    "FollowLearningRate",
    "FreezeZeros",
    "GuidedSparsity",
    "IterativeHardThresholding",
    "LayerwisePruning",
    "ReachSparsity",
    "UpdateMasks",
    "park_window",
]
