"""Operations that stock TensorFlow lacks."""

from tfcompress.ops.cost import (
    ConvShape,
    Cost,
    Machine,
    Window,
    kernels,
    measure_machine,
    predict,
    useful_window,
)
from tfcompress.ops.delegate import load_delegate
from tfcompress.ops.sparse_conv2d import load_library, sparse_conv2d

__all__ = [
    "ConvShape",
    "Cost",
    "Machine",
    "Window",
    "kernels",
    "load_delegate",
    "load_library",
    "measure_machine",
    "predict",
    "sparse_conv2d",
    "useful_window",
]
