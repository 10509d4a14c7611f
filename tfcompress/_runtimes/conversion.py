"""Write a Keras model as a SavedModel or a .tflite file with inputs and outputs of known names."""

import pathlib
import tempfile
import warnings
from typing import Any

import keras

from tfcompress import _calls, _cloning
from tfcompress._runtimes import process
from tfcompress._runtimes.signature import Signature, named_outputs

CHILD = pathlib.Path(__file__).with_name("child.py")
WARM = ("tensorflow",)  # takes seconds to import
_NEEDS_FIXED_BATCH = "element_shape to be static"  # a loop over time steps, as in LSTM and GRU


def check_backend() -> None:
    """Raises `ValueError` unless Keras runs on TensorFlow, which writes both formats."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Export needs Keras on TensorFlow, and it runs on {keras.backend.backend()}. Save the model as "
            ".keras, and load and export it in a process with the environment variable "
            "KERAS_BACKEND=tensorflow."
        )


def save(model: keras.Model, signature: Signature, folder: pathlib.Path, batch: int | None = None) -> None:
    """Writes a SavedModel whose endpoint `serve` takes the inputs one by one and returns a flat dict."""

    def serve(*tensors: Any) -> dict[str, Any]:
        arrays = dict(zip(signature.specs, tensors, strict=True))
        return named_outputs(model(*signature.arguments(arrays), training=False))

    specs = [
        keras.InputSpec(shape=(spec.shape[0] or batch, *spec.shape[1:]), dtype=spec.dtype, name=name)
        for name, spec in signature.specs.items()
    ]
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature=specs)
    archive.write_out(str(folder), verbose=False)


def tflite_files(
    model: keras.Model,
    signature: Signature,
    *,
    quantization: str | None = None,
    quantizer: str = "converter",
    encodings: tuple[bool, ...] = (False,),
    samples: list | None = None,
) -> dict[bool, bytes]:
    """The contents of the .tflite file for each encoding of zeros, sparse (True) or dense (False).

    A model with a loop over time steps (LSTM, GRU) becomes a file that takes one example at a time,
    since TFLite allocates what the loop collects in advance.

    Raises:
        process.ChildError: the converter raised an error or crashed.
    """
    model, signature = in_float32(in_stock_layers(model)), signature.in_float32()
    samples = [signature.named(sample) for sample in samples or []]
    after = quantization is not None and quantizer != "converter"
    options: dict[str, Any] = {"encodings": list(encodings), "samples": samples}
    options["quantization"] = None if after else quantization
    batch = signature.batch
    try:
        files = _convert(model, signature, batch, options)
    except process.ChildError as error:
        if _NEEDS_FIXED_BATCH not in str(error):
            raise
        batch = 1
        files = _convert(model, signature, batch, options)
    if not after:
        return files
    settings: dict[str, Any] = {"quantization": quantization, "samples": samples, "batch": batch}
    return {
        sparse: process.call(CHILD, "quantize", content=content, **settings)
        for sparse, content in files.items()
    }


def _convert(model: keras.Model, signature: Signature, batch: int | None, options: dict) -> dict[bool, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save(model, signature, pathlib.Path(folder), batch)
        return process.call(CHILD, "convert", warm=WARM, folder=folder, batch=batch or 1, **options)


def in_stock_layers(model: keras.Model) -> keras.Model:
    """The model, or a copy with stock layers for those that know one of equal outputs, their `to_conv()`."""
    if not _calls.is_functional(model) or not any(
        hasattr(layer, "to_conv") for _, layer in _calls.walk(model)
    ):
        return model

    def convert(path: str, operation: Any, copied: Any) -> Any:
        return operation.to_conv() if hasattr(operation, "to_conv") else copied(operation)

    return _cloning.copy(model, convert=convert)


def in_float32(model: keras.Model) -> keras.Model:
    """The model, or a copy that computes in float32 if it does so in another float: TFLite does not.

    Raises:
        ValueError: the model is subclassed, so it cannot be copied.
    """
    others = _other_floats(model)
    if not others:
        return model
    if not _calls.is_functional(model):
        raise ValueError(
            f"'{model.name}' computes in {model.compute_dtype}, TFLite in float32, and a subclassed model "
            "cannot be copied. Build it again under keras.config.set_dtype_policy('float32') and load "
            "the weights of this one into that one."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether the copy could be compiled does not matter here
        return _cloning.copy(model, configure=lambda path: others.get(path, {}))


def _other_floats(model: keras.Model) -> dict[str, dict]:
    """Which layers compute in float16, bfloat16 or float64, as what to change in their configs."""
    layers = _calls.walk(model) if _calls.is_functional(model) else [("", model)]
    return {
        path: {"dtype": "float32"}
        for path, layer in layers
        if isinstance(layer, keras.Layer) and layer.compute_dtype in ("float16", "bfloat16", "float64")
    }
