"""Layers that stock Keras lacks."""

from tfcompress.layers.compact import CompactConv
from tfcompress.layers.constrained import constrain, release
from tfcompress.layers.magnitude import MagnitudePruning
from tfcompress.layers.masked import MaskedLayer
from tfcompress.layers.rules import MaskedWeight, MaskRule, masked_weights
from tfcompress.layers.shared import SharedLayer, SharedWeight
from tfcompress.layers.sharing import share
from tfcompress.layers.shuffle import ChannelShuffle
from tfcompress.layers.sparse_conv import SparseConv2D, densify
from tfcompress.layers.surgery import DynamicNetworkSurgery
from tfcompress.layers.wrapping import strip, wrap

__all__ = [
    "ChannelShuffle",
    "CompactConv",
    "DynamicNetworkSurgery",
    "MagnitudePruning",
    "MaskRule",
    "MaskedLayer",
    "MaskedWeight",
    "SharedLayer",
    "SharedWeight",
    "SparseConv2D",
    "constrain",
    "densify",
    "masked_weights",
    "release",
    "share",
    "strip",
    "wrap",
]
