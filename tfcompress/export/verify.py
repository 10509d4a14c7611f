"""Run what was written, compare it with the model, and only then put it in place.

A file is written to a folder next to where it belongs, loaded in a fresh process by the runtime that
users have, and run on real or made-up inputs. If its outputs are those of the Keras model, it is moved;
if not, nothing changes on disk and `ExportError` says why.
"""

import contextlib
import gzip
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _data
from tfcompress._runtimes import conversion, process
from tfcompress._runtimes.signature import Signature, named_outputs
from tfcompress.analysis.latency import Latency

TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic_int8": 0.1, "int8": 0.2}
HALF_PRECISION = {"float16": 1e-2, "bfloat16": 5e-2}
EXAMPLES = 8  # made up, where no data is given
OPEN_SIZE = 32  # made up, for an axis whose length the model leaves open


class ExportError(ValueError):
    """The model could not be written in this format, or the file does not do what the model does."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and what was measured before it was.

    Attributes:
        path: the file, or the folder of a SavedModel.
        format: "tflite" or "saved_model".
        quantization: as asked for; None for float32.
        sparse_encoding: whether the file stores zeros of weights by leaving them out.
        size_bytes: of the file, or of all files in the folder.
        gzip_bytes: the same after gzip, file by file.
        float32_bytes: what the weights of the model take as plain float32, for comparison.
        examples: how many examples the outputs were compared on.
        data: where they came from: "given", "representative" or "random".
        max_error: the largest difference of an output value from that of the Keras model.
        relative_error: max |difference| / max |Keras|, of the output where it is largest.
        tolerance: what `relative_error` had to stay below.
        latency: of one example with one thread, in the runtime that ran the comparison.
    """

    path: pathlib.Path
    format: str
    quantization: str | None
    sparse_encoding: bool
    size_bytes: int
    gzip_bytes: int
    float32_bytes: int
    examples: int
    data: str
    max_error: float
    relative_error: float
    tolerance: float
    latency: Latency

    def __str__(self) -> str:
        encoding = "sparse" if self.sparse_encoding else "dense"
        return (
            f"{self.path} ({self.format}, {self.quantization or 'float32'}, {encoding})\n"
            f"  size     {self.size_bytes:,} bytes, {self.gzip_bytes:,} with gzip; "
            f"the weights take {self.float32_bytes:,} as float32\n"
            f"  error    {self.max_error:.2g}, {self.relative_error:.2g} of the largest output "
            f"(tolerance {self.tolerance:g}), on {self.examples} {self.data} examples\n"
            f"  latency  {self.latency}"
        )


@dataclass(frozen=True)
class Reference:
    """What a file is compared with: the Keras model's outputs for some batches of inputs."""

    signature: Signature
    batches: list[dict[str, np.ndarray]]
    outputs: list[dict[str, np.ndarray]]
    data: str
    tolerance: float

    @property
    def examples(self) -> int:
        return sum(_length(batch) for batch in self.batches)


@dataclass(frozen=True)
class Proof:
    """What was measured of a file that does what the model does."""

    max_error: float
    relative_error: float
    latency: Latency
    sparse: bool


def reference(
    model: keras.Model, signature: Signature, *, data: Any, samples: list | None, tolerance: float | None, quantization: str | None
) -> Reference:
    """Runs the Keras model, on the CPU as the file will be, on the data, the samples, or random inputs."""
    batches, source = _batches(model, signature, data, samples)
    if tolerance is None:
        tolerance = max(TOLERANCES[quantization], *(HALF_PRECISION.get(dtype, 0.0) for dtype in _dtypes(model)))
    try:
        outputs = [_outputs(model, signature, batch) for batch in batches]
    except Exception as error:
        if source != "random":
            raise
        raise ValueError(f"'{model.name}' does not run on random inputs; give some, data=...: {error}") from error
    if not all(np.isfinite(array).all() for batch in outputs for array in batch.values() if array.dtype.kind == "f"):
        raise ValueError(f"'{model.name}' itself returns NaN or infinite values on the {source} inputs.")
    return Reference(signature, batches, outputs, source, tolerance)
