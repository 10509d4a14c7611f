"""What tests of sparse convolutions share: pruned layers, and a library that can be hidden."""

import contextlib
import importlib
import pathlib
from collections.abc import Iterator

import keras
import numpy as np
import pytest

from tfcompress import _native

MODULE = importlib.import_module("tfcompress.ops.sparse_conv2d")  # the function has the module's name
_TASKS = pathlib.Path("/proc/self/task")
NEEDS_LIBRARY = pytest.mark.skipif(
    _native.path("tf") is None, reason="the native op was not built (it needs a C++ compiler)"
)
LINUX = pytest.mark.skipif(not _TASKS.is_dir(), reason="threads are counted as Linux shows them")
# Tests pass without the library, too; that it warns is tested by itself.
WITHOUT_WARNING = pytest.mark.filterwarnings("ignore:Sparse convolutions are computed densely")


@contextlib.contextmanager
def library_at(path) -> Iterator[None]:
    """The native op is looked for at this path, None where there is none, as in a fresh process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "path", lambda name: path)
        MODULE._load.cache_clear()
        try:
            yield
        finally:
            MODULE._load.cache_clear()


def pruned(layer: keras.Layer, input_shape: tuple, sparsity: float = 0.8, seed: int = 0) -> keras.Layer:
    """The layer, built, with random weights of which so many are zero."""
    layer.build(input_shape)
    rng = np.random.default_rng(seed)
    kernel, *bias = (rng.normal(size=weight.shape) for weight in layer.weights)
    layer.set_weights([kernel * (rng.random(kernel.shape) >= sparsity), *bias])
    return layer


def images(shape: tuple, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def thread_count() -> int:
    """How many threads this process has."""
    return len(list(_TASKS.iterdir()))
