"""Layers that stock Keras lacks."""

from tfcompress.layers.shuffle import ChannelShuffle

__all__ = ["ChannelShuffle"]
