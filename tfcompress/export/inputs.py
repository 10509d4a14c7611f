"""The inputs on which an exported file is calibrated and compared with its model.

>>> import keras
>>> x = keras.Input((None,), dtype="int32", name="words")
>>> model = keras.Model(x, keras.layers.Embedding(9, 2)(x))
>>> (batch,) = random(model, Signature.of(model))
>>> batch["words"].shape, bool(batch["words"].max() < 9)
((8, 32), True)
"""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _data
from tfcompress._runtimes.signature import Signature

Batch = dict[str, np.ndarray]  # by input name

BATCH_SIZE = 32
EXAMPLES = 8  # made up, where no data is given
OPEN_SIZE = 32  # made up, for an axis whose length the model leaves open


def batches(data: Any, signature: Signature) -> tuple[Signature, list[Batch]]:
    """The data as batches by input name, and the signature with the types the data told about.

    Args:
        data: an array; for several inputs a tuple or list of arrays or a dict; or anything that yields
            batches of these. Labels are dropped: a tuple is (inputs, labels) unless it has exactly
            the arrays that the model takes.
        signature: of the model.

    Raises:
        ValueError: there is no data, or it is not what the model takes.
    """
    if not _is_whole(data, signature) and not isinstance(data, keras.utils.PyDataset):
        data = (_as_inputs(batch, signature) for batch in data)
    rows = signature.batch or BATCH_SIZE
    raw = [inputs for inputs, _ in _data.batches(_as_inputs(data, signature), rows)]
    signature = signature.like(raw[0])
    named = [signature.named(inputs) for inputs in raw]
    full = [batch for batch in named if length(batch) == (signature.batch or length(batch)) > 0]
    if not full:
        raise ValueError(f"The data is empty: it holds no batch of {signature.batch or 'at least 1'}.")
    return signature, full


def random(model: keras.Model, signature: Signature) -> list[Batch]:
    """One batch of made-up inputs, the same at every call: normal numbers, and valid integers."""
    rng = np.random.default_rng(0)
    embeddings = (layer for layer in layers_of(model) if isinstance(layer, keras.layers.Embedding))
    vocabulary = min((layer.input_dim for layer in embeddings), default=None)

    def draw(spec: keras.InputSpec) -> np.ndarray:
        sizes = [size or OPEN_SIZE for size in spec.shape[1:]]
        shape = (signature.batch or EXAMPLES, *sizes)
        if keras.backend.is_int_dtype(spec.dtype) or (signature.guessed and vocabulary):
            pixels = 256 if spec.dtype == "uint8" else 2
            return rng.integers(0, vocabulary or pixels, shape).astype(spec.dtype)
        if keras.backend.is_float_dtype(spec.dtype):
            return rng.normal(size=shape).astype(spec.dtype)
        if spec.dtype == "bool":
            return rng.random(shape) < 0.5
        raise ValueError(f"No {spec.dtype} can be made up for input '{spec.name}': give some, data=...")

    return [{name: draw(spec) for name, spec in signature.specs.items()}]


def layers_of(layer: Any) -> Iterator[Any]:
    """A layer or model, functional or not, and all layers in it, as often as they are there."""
    yield layer
    for inner in [*getattr(layer, "layers", []), *_calls.wrapped_layers(layer)]:
        yield from layers_of(inner)


def length(batch: Batch) -> int:
    """The number of examples in a batch."""
    return len(next(iter(batch.values())))


def _is_whole(data: Any, signature: Signature) -> bool:
    """Whether the data is arrays, and not something that yields batches of them."""
    if isinstance(data, list):
        return signature.takes(data)
    if not isinstance(data, Iterable):
        raise ValueError(f"Expected arrays, a dataset or an iterable of batches, got {type(data).__name__}.")
    return isinstance(data, (tuple, dict)) or hasattr(data, "shape")


def _as_inputs(batch: Any, signature: Signature) -> Any:
    """All inputs as the only part of a tuple, so that none is taken for labels."""
    if not signature.takes(batch):
        return batch
    return (list(batch) if isinstance(batch, tuple) else batch,)
