"""Write a Keras model as a .tflite file that has been run.

>>> import keras, tempfile
>>> x = keras.Input((4,))
>>> model = keras.Model(x, keras.layers.Dense(2)(x))
>>> with tempfile.TemporaryDirectory() as folder:
...     report = tflite(model, folder + "/model.tflite")
>>> report.relative_error < 1e-5
True
"""

import contextlib
import importlib.util
import pathlib
import re
from typing import Any

import keras
import numpy as np

from tfcompress import _data
from tfcompress._checks import check_choice
from tfcompress._runtimes import conversion, process
from tfcompress._runtimes.signature import Signature
from tfcompress.export import inputs, verify
from tfcompress.export.report import ExportReport
from tfcompress.export.verify import ExportError, Proof, Reference
from tfcompress.ops import delegate as delegate_library

QUANTIZATIONS = ("dynamic_int8", "int8", "float16")
QUANTIZERS = ("converter", "ai_edge")
WITH_DELEGATE = ("int8", "dynamic_int8")  # stored sparse, these run with the delegate alone
ENCODED_ZEROS = 0.3  # the converter stores weights with a smaller fraction of zeros densely in any case


def tflite(
    model: keras.Model,
    path: Any,
    *,
    quantization: str | None = None,
    quantizer: str = "converter",
    representative_data: Any = None,
    sparse_encoding: bool | str = "auto",
    data: Any = None,
    tolerance: float | None = None,
) -> ExportReport:
    """Writes a .tflite file, runs it, and returns what was measured.

    The file is loaded by the stock LiteRT interpreter in a process of its own and compared with the
    Keras model before it takes its place: on an error nothing is left behind, and a file that was at
    `path` stays as it was. The file has one signature, whose inputs have the names of the model's
    inputs (the keys, if they are a dict) and whose outputs are named `output_0`, `output_1`, ... (the
    keys, if they are a dict). Inputs and outputs are float32 where the model's are floats, also in
    files quantized to int8. A model that computes in float16, bfloat16 or float64 becomes one that
    computes in float32. A `SparseConv2D` becomes the layer it was made of, with zeros. The batch size
    stays open, except where a loop over time steps (LSTM, GRU) forces the file to take one example at a
    time.

    The comparison is of max |difference| / max |Keras output|, for each output over all examples. The
    tolerance is 1e-4 without quantization, 1e-2 for float16, 0.1 for dynamic int8 and 0.2 for int8,
    ten times and more what sound files were seen to have (2e-6, 1e-3, 0.02 and 0.04), while a swapped
    or broken output has about 1. A model that itself computes in float16 (bfloat16) gets at least
    1e-2 (5e-2). The measure says little where outputs hardly depend on the inputs, as the softmax of a
    network that is not trained.

    Args:
        model: any built Keras model that TensorFlow can trace; it is not changed.
        path: where to, ending in .tflite.
        quantization: None, "float16" (weights as float16), "dynamic_int8" (weights as int8,
            activations as int8 while a layer runs) or "int8" (weights and activations, calibrated on
            `representative_data`; the calibration crashes on loops over time steps, so build LSTM, GRU and
            the like with `unroll=True`).
        quantizer: who makes it int8: "converter", that of TensorFlow, or "ai_edge", ai-edge-quantizer (`pip
            install 'tfcompress[ai-edge]'`), which takes the float32 file.
        representative_data: typical inputs, a few hundred: an array `(examples, ...)`; for several
            inputs a tuple or list of arrays or a dict; or an iterable of batches of these. Labels are
            ignored: a tuple is (inputs, labels) unless it has exactly the arrays that the model takes.
        sparse_encoding: whether to store only the nonzero entries of weights. "auto" does so if the file
            gets smaller and runs, True wherever the converter can, False never. The file runs everywhere;
            stock interpreters are no faster with it, those with `tfcompress.load_delegate()` are, as they
            are with zeros that are stored. True with "int8" and "dynamic_int8" makes the smallest files of
            all, but stock interpreters do not run them: they need `tfcompress.load_delegate()`, which must
            have been built, and with which the file is run and compared. `ExportReport.needs_delegate` tells.
        data: the inputs to compare on, in any form that `representative_data` may have. Without it:
            `representative_data`, and without that 8 random examples.
        tolerance: largest relative error that is accepted, instead of those above.

    Raises:
        ValueError: an argument is wrong, or the model is not built.
        ExportError: TFLite cannot express the model, or the file does not run or differs. It is a
            ValueError, too.
    """
    path = _checked_path(path)
    _check_options(quantization, representative_data, sparse_encoding)
    _check_quantizer(quantizer, quantization)
    conversion.check_backend()
    samples = None
    if representative_data is not None:
        _, samples = inputs.batches(representative_data, Signature.of(model))
    expected = verify.reference(
        model, data=data, samples=samples, tolerance=tolerance, quantization=quantization
    )
    stock = conversion.in_stock_layers(model)
    encodings = _encodings(stock, quantization, sparse_encoding)
    files = _converted(
        stock,
        expected.signature,
        quantization=quantization,
        quantizer=quantizer,
        encodings=encodings,
        samples=samples,
    )
    with verify.staged(path) as temporary:
        proof = _smallest_that_runs(files, temporary, expected, quantization)
        facts = {"format": "tflite", "quantization": quantization}
        report = ExportReport.of(stock, path, temporary, expected, proof, **facts)
        temporary.replace(path)
    return report


def run_tflite(path: Any, data: Any, *, threads: int = 1, delegate: bool = False) -> Any:
    """Runs a .tflite file in the stock LiteRT interpreter, in a process of its own.

    Args:
        path: a file with one signature, as `tflite` and Keras write it.
        data: an array `(examples, ...)`, or for several inputs a dict of arrays by input name. It is
            run in batches of 32; a file of fixed batch size gets its own.
        threads: how many threads the interpreter may use.
        delegate: whether it runs with `tfcompress.load_delegate()`.

    Returns:
        The array of the only output, or a dict of arrays by output name.

    Raises:
        ValueError: there is no such file, the data is empty or does not fit, or the file does not run.
        RuntimeError: the delegate is wanted and was not built.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'.")
    batches = [batch for batch, _ in _data.batches(data)]
    try:
        outputs = process.call(
            conversion.CHILD,
            "run",
            runtime="litert",
            path=str(path.resolve()),
            batches=batches,
            threads=threads,
            delegate=delegate_library.specification() if delegate else None,
        )
    except process.ChildError as error:
        raise ValueError(f"'{path}' does not run: {error}") from error
    joined = {name: np.concatenate([batch[name] for batch in outputs]) for name in outputs[0]}
    return joined if len(joined) > 1 else next(iter(joined.values()))


def _checked_path(path: Any) -> pathlib.Path:
    path = pathlib.Path(path)
    if path.suffix != ".tflite":
        raise ValueError(f"The path must end in .tflite, got '{path}'.")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder '{path.parent}' to write '{path.name}' to.")
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder.")
    return path


def _check_options(quantization: str | None, representative_data: Any, sparse_encoding: bool | str) -> None:
    check_choice("quantization", quantization, (None, *QUANTIZATIONS))
    if quantization == "int8" and representative_data is None:
        raise ValueError(
            "quantization='int8' needs representative_data, typical inputs from which to learn the range of "
            "every activation. A few hundred are enough. quantization='dynamic_int8' needs none."
        )
    check_choice("sparse_encoding", sparse_encoding, ("auto", True, False))


def _check_quantizer(quantizer: str, quantization: str | None) -> None:
    check_choice("quantizer", quantizer, QUANTIZERS)
    if quantizer == "ai_edge" and quantization == "float16":
        raise ValueError("quantizer='ai_edge' makes int8 and 'dynamic_int8'; for float16 leave it out.")
    if quantizer == "ai_edge" and importlib.util.find_spec("ai_edge_quantizer") is None:
        raise ValueError("quantizer='ai_edge' needs ai-edge-quantizer: pip install 'tfcompress[ai-edge]'.")


def _encodings(model: keras.Model, quantization: str | None, sparse_encoding: bool | str) -> tuple[bool, ...]:
    """The encodings of zeros to try, sparse (True) or dense (False)."""
    if sparse_encoding != "auto":
        return (bool(sparse_encoding),)
    kernels = [keras.ops.convert_to_numpy(weight) for weight in model.weights if len(weight.shape) > 1]
    has_zeros = any(np.mean(kernel == 0) >= ENCODED_ZEROS for kernel in kernels if kernel.size)
    return (False, True) if has_zeros and quantization != "int8" else (False,)


def _converted(
    model: keras.Model, signature: Signature, *, quantization: str | None, **options: Any
) -> dict[bool, bytes]:
    try:
        return conversion.tflite_files(model, signature, quantization=quantization, **options)
    except process.ChildError as error:
        hint = _hint(model) if quantization == "int8" else ""
        message = f"'{model.name}' cannot be converted to TFLite: {_cause(str(error))}.{hint}"
        raise ExportError(message) from error


def _hint(model: keras.Model) -> str:
    """What may have kept a model from being calibrated, and what does not need it."""
    found = [layer for layer in inputs.layers_of(model) if isinstance(layer, keras.layers.RNN)]
    loops = sorted({f"'{layer.name}' ({type(layer).__name__})" for layer in found if not layer.unroll})
    cause = (
        " The converter cannot calibrate int8 in a loop over time steps, as there is in "
        f"{', '.join(loops)}: build them with unroll=True."
    )
    return cause * bool(loops) + " quantization='dynamic_int8' or 'float16' needs no calibration."


def _cause(message: str) -> str:
    """What a message of the converter comes down to; it may list every place in the graph."""
    kinds = re.findall(r"(?:TF Select|Custom) ops: (.+)", message)
    if kinds:
        return f"it has no operation for {', '.join(kinds)}"
    return message[:600].rstrip(".")


def _smallest_that_runs(
    files: dict[bool, bytes], path: pathlib.Path, expected: Reference, quantization: str | None
) -> Proof:
    """Writes the sparse file to `path` if there is one, it is smaller and it runs; else the dense one."""
    dense = files.get(False)
    if dense is None:
        path.write_bytes(files[True])
        return _insisted_on(path, expected, quantization)
    if len(files.get(True, dense)) < len(dense):
        path.write_bytes(files[True])
        with contextlib.suppress(ExportError):
            return verify.prove(path, "litert", expected)
    path.write_bytes(dense)
    return verify.prove(path, "litert", expected)


def _insisted_on(path: pathlib.Path, expected: Reference, quantization: str | None) -> Proof:
    """Of a sparse file, which may run with the delegate alone."""
    try:
        return verify.prove(path, "litert", expected)
    except ExportError as error:
        falls_back = "sparse_encoding='auto' falls back to the dense encoding."
        if quantization not in WITH_DELEGATE:
            raise ExportError(f"{error} {falls_back}") from error
    try:
        return verify.prove(path, "litert", expected, delegate=delegate_library.specification())
    except RuntimeError as error:
        raise ExportError(
            f"Stock interpreters do not run weights in int8 that are stored sparse. {error} {falls_back}"
        ) from error
    except ExportError as error:
        raise ExportError(f"{error} {falls_back}") from error
