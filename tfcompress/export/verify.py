"""Run what was written, compare it with the model, and only then put it in place.

A file is written into a folder next to where it belongs, loaded in a fresh process by the runtime that
users have, and run. If its outputs are those of the Keras model, it is moved to its place; if not,
nothing changes on disk and `ExportError` says why.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import _calls
from tfcompress._checks import check_number
from tfcompress._runtimes import conversion, process
from tfcompress._runtimes.signature import Signature, named_outputs
from tfcompress.analysis.latency import Latency
from tfcompress.export import inputs
from tfcompress.export.inputs import Batch

TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic_int8": 0.1, "int8": 0.2}
HALF_PRECISION = {"float16": 1e-2, "bfloat16": 5e-2}  # the least tolerance if the Keras model computes in it
THREADS = 1
TIMING = {"threads": THREADS, "repeats": 30, "warmup": 3, "seconds": 1.0}
HINTS = {
    None: "If the two differ for a reason you know, tolerance=... accepts it.",
    "float16": "Without quantization the file is exact; tolerance=... accepts this one.",
    "dynamic_int8": "quantization='float16' is closer; tolerance=... accepts this one.",
    "int8": "More representative data may help, and quantization='dynamic_int8' or 'float16' is closer; "
    "tolerance=... accepts this one. A model that is not trained often has outputs too small for 8 bits.",
}


class ExportError(ValueError):
    """The model could not be written in this format, or the file does not do what the model does."""


@dataclass(frozen=True)
class Reference:
    """What a file is compared with: batches of inputs, and the Keras model's outputs for them."""

    signature: Signature
    batches: list[Batch]
    outputs: list[Batch]
    data: str
    tolerance: float
    hint: str

    @property
    def examples(self) -> int:
        return sum(map(inputs.length, self.batches))


@dataclass(frozen=True)
class Proof:
    """What was measured of a file that does what the model does."""

    max_error: float
    relative_error: float
    sparse_encoding: bool
    needs_delegate: bool
    latency: Latency


def reference(
    model: keras.Model,
    *,
    data: Any = None,
    samples: list[Batch] | None = None,
    tolerance: float | None = None,
    quantization: str | None = None,
) -> Reference:
    """Runs the model on the data, else on the samples, else on random inputs.

    Raises:
        ValueError: the data does not fit the model, the tolerance is not positive, or the outputs are
            not finite.
    """
    if tolerance is not None:
        check_number("tolerance", tolerance, "(0, inf]")
    signature, batches, source = _batches(model, data, samples)
    outputs = _outputs(model, signature, batches, source)
    if not all(np.isfinite(_float(array)).all() for batch in outputs for array in batch.values()):
        raise ValueError(f"'{model.name}' itself returns NaN or infinite values on the {source} inputs.")
    if tolerance is None:
        tolerance = max(TOLERANCES[quantization], _least_tolerance(model))
    return Reference(signature, batches, outputs, source, tolerance, HINTS[quantization])


def prove(path: pathlib.Path, runtime: str, expected: Reference, *, delegate: Any = None) -> Proof:
    """Runs the file in a process of its own, and compares and times it.

    Args:
        path: the file, or the folder of a SavedModel.
        runtime: "litert" or "saved_model".
        expected: what to compare it with.
        delegate: the library and the options of the one that it runs with; None for the stock runtime.

    Raises:
        ExportError: it does not run, or its outputs differ by more than the tolerance.
    """
    rows = expected.signature.batch or 1
    batches: list[Any] = [
        *expected.batches,
        {name: array[:rows] for name, array in expected.batches[0].items()},
    ]
    if runtime == "saved_model":
        batches = [expected.signature.arguments(batch) for batch in batches]
    try:
        answer = process.call(
            conversion.CHILD,
            "prove",
            warm=conversion.WARM if runtime == "saved_model" else (),
            runtime=runtime,
            path=str(path.resolve()),
            batches=batches[:-1],
            first=batches[-1],
            delegate=delegate,
            **TIMING,
        )
    except process.ChildError as error:
        raise ExportError(f"The file does not run. {error}") from error
    latency = Latency.of(answer["times_ms"][0], batch=rows, threads=THREADS, runtime=answer["version"])
    errors = compare(expected, answer["outputs"])
    return Proof(*errors, answer["sparse"], delegate is not None, latency)


def compare(expected: Reference, found: list) -> tuple[float, float]:
    """The largest difference, and the largest one relative to the largest value of its output.

    Args:
        expected: the outputs of the model.
        found: for each batch the outputs of the file, as a dict by name or as a list in the order of
            `expected`.

    Raises:
        ExportError: an output is missing, has another shape, or differs by more than the tolerance.
    """
    worst = {
        name: _difference(name, expected.outputs, _by_name(expected, found)) for name in expected.outputs[0]
    }
    name = max(worst, key=lambda name: worst[name][1])
    absolute, relative = worst[name]
    if not relative <= expected.tolerance:
        raise ExportError(
            f"The file does not do what the model does: its output '{name}' differs by {absolute:.3g}, "
            f"which is {relative:.3g} of the largest value and above the tolerance {expected.tolerance:g}, "
            f"on {expected.examples} {expected.data} examples. {expected.hint}"
        )
    return max(absolute for absolute, _ in worst.values()), relative


@contextlib.contextmanager
def staged(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path in a folder that lies next to `path` for a while, to write to and to move from."""
    with tempfile.TemporaryDirectory(prefix=".tfcompress-", dir=path.parent) as folder:
        yield pathlib.Path(folder, path.name)


def _batches(
    model: keras.Model, data: Any, samples: list[Batch] | None
) -> tuple[Signature, list[Batch], str]:
    signature = Signature.of(model)
    if data is not None:
        return *inputs.batches(data, signature), "given"
    if samples is not None:
        return signature.like(list(samples[0].values())), samples, "representative"
    return signature, inputs.random(model, signature), "random"


def _outputs(model: keras.Model, signature: Signature, batches: list[Batch], source: str) -> list[Batch]:
    try:
        return [_call(model, signature, batch) for batch in batches]
    except Exception as error:
        if source != "random":
            raise
        raise ValueError(
            f"'{model.name}' does not run on random inputs; give some, data=...: {error}"
        ) from error


def _call(model: keras.Model, signature: Signature, batch: Batch) -> Batch:
    """The outputs of the model, computed on the CPU as those of the file will be."""
    with keras.device("cpu:0"):
        outputs = model(*signature.arguments(batch), training=False)
    return {name: keras.ops.convert_to_numpy(tensor) for name, tensor in named_outputs(outputs).items()}


def _least_tolerance(model: keras.Model) -> float:
    layers = [layer for _, layer in _calls.walk(model)] if _calls.is_functional(model) else [model]
    return max(HALF_PRECISION.get(getattr(layer, "compute_dtype", ""), 0.0) for layer in layers)


def _by_name(expected: Reference, found: list) -> list[Batch]:
    names = list(expected.outputs[0])
    return [batch if isinstance(batch, dict) else dict(zip(names, batch, strict=True)) for batch in found]


def _difference(name: str, expected: list[Batch], found: list[Batch]) -> tuple[float, float]:
    """Max |difference| of an output over all batches, and that relative to its max |value|."""
    absolute = scale = 0.0
    for wanted, got in zip(expected, found, strict=True):
        if name not in got or got[name].shape != wanted[name].shape:
            shape = got[name].shape if name in got else "missing"
            raise ExportError(
                f"The output '{name}' of the file is {shape}, that of the model {wanted[name].shape}."
            )
        difference = np.abs(_float(wanted[name]) - _float(got[name]))
        absolute = max(absolute, float(np.where(np.isnan(difference), np.inf, difference).max(initial=0)))
        scale = max(scale, float(np.abs(_float(wanted[name])).max(initial=0)))
    return absolute, absolute / (scale or 1.0)


def _float(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype("float64")
