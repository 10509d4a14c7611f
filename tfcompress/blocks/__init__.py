"""Compact designs: blocks are functions of tensors, plain Keras layers inside; and nets made of them."""

from tfcompress.blocks.convolution import convolution, depthwise, separable
from tfcompress.blocks.inception import inception
from tfcompress.blocks.mobilenet import inverted_residual, mobilenet
from tfcompress.blocks.residual import basic, bottleneck, residual_net, resnet50
from tfcompress.blocks.resnext import aggregated, carry, resnext
from tfcompress.blocks.shufflenet import shuffle_unit, shufflenet
from tfcompress.blocks.squeezenet import fire, squeezenet
from tfcompress.blocks.xception import xception, xception_module

__all__ = [
    "aggregated",
    "basic",
    "bottleneck",
    "carry",
    "convolution",
    "depthwise",
    "fire",
    "inception",
    "inverted_residual",
    "mobilenet",
    "residual_net",
    "resnet50",
    "resnext",
    "separable",
    "shuffle_unit",
    "shufflenet",
    "squeezenet",
    "xception",
    "xception_module",
]
