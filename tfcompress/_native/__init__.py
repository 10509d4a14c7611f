"""The native libraries, where they were built: `make ops` or `pip install` with a C++ compiler.

>>> path("core") is None or path("core").name
'libtfcompress_core.so'
"""

from pathlib import Path

_NAMES = ("core", "tf", "tflite")


def path(name: str) -> Path | None:
    """The file of a native library, or None where it was not built.

    Args:
        name: `"core"`, the C interface of `custom_ops/core/sparse_conv.h`; `"tf"`, the TensorFlow op over
            it; `"tflite"`, the TFLite delegate over it. Each holds its own copy of the core.

    Raises:
        ValueError: if there is no library of that name.
    """
    if name not in _NAMES:
        raise ValueError(f"Unknown native library {name!r}. Available: {', '.join(map(repr, _NAMES))}.")
    file = Path(__file__).with_name(f"libtfcompress_{name}.so")
    return file if file.is_file() else None
