"""Export: files that other runtimes load, each run and compared with its model before it is kept."""

from tfcompress.export.compressed import (
    CompressedReport,
    FormatError,
    inspect_compressed,
    load_compressed,
    save_compressed,
)
from tfcompress.export.quantization_aware import QuantizationAware
from tfcompress.export.report import ExportReport
from tfcompress.export.saved_model import saved_model
from tfcompress.export.tflite import run_tflite, tflite
from tfcompress.export.verify import ExportError

__all__ = [
    "CompressedReport",
    "ExportError",
    "ExportReport",
    "FormatError",
    "QuantizationAware",
    "inspect_compressed",
    "load_compressed",
    "run_tflite",
    "save_compressed",
    "saved_model",
    "tflite",
]
