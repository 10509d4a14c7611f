"""What an export tells of the file it wrote."""

import gzip
import math
import pathlib
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress.analysis.latency import Latency
from tfcompress.export.verify import Proof, Reference


@dataclass(frozen=True)
class ExportReport:
    """What was written, and what was measured before it was put in place.

    Attributes:
        path: the file, or the folder of a SavedModel.
        format: "tflite" or "saved_model".
        quantization: as asked for; None for float32.
        sparse_encoding: whether the file stores some weights as their nonzero entries only.
        needs_delegate: whether it runs only in interpreters that have `tfcompress.load_delegate()`.
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
    needs_delegate: bool
    size_bytes: int
    gzip_bytes: int
    float32_bytes: int
    examples: int
    data: str
    max_error: float
    relative_error: float
    tolerance: float
    latency: Latency

    @classmethod
    def of(
        cls,
        model: keras.Model,
        path: pathlib.Path,
        file: pathlib.Path,
        expected: Reference,
        proof: Proof,
        **facts: Any,
    ) -> "ExportReport":
        """The report on `file`, which is about to be moved to `path`."""
        contents = _contents(file)
        return cls(
            path=path,
            float32_bytes=sum(4 * math.prod(weight.shape) for weight in model.weights),
            examples=expected.examples,
            data=expected.data,
            tolerance=expected.tolerance,
            size_bytes=sum(map(len, contents)),
            gzip_bytes=sum(len(gzip.compress(content, mtime=0)) for content in contents),
            **vars(proof),
            **facts,
        )

    def __str__(self) -> str:
        encoding = "sparse" if self.sparse_encoding else "dense"
        needs = "; it needs tfcompress.load_delegate()" * self.needs_delegate
        return (
            f"{self.path} ({self.format}, {self.quantization or 'unquantized'}, {encoding} encoding{needs})\n"
            f"  size     {self.size_bytes:,} bytes, {self.gzip_bytes:,} with gzip; "
            f"the weights as float32: {self.float32_bytes:,}\n"
            f"  error    {self.max_error:.2g}, {self.relative_error:.2g} of the largest output "
            f"(tolerance {self.tolerance:g}), on {self.examples} {self.data} examples\n"
            f"  latency  {self.latency}"
        )


def _contents(path: pathlib.Path) -> list[bytes]:
    """What is in a file, or in each file of a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [file.read_bytes() for file in files]
