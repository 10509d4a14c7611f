"""The TFLite delegate that runs pruned convolutions faster.

from ai_edge_litert.interpreter import Interpreter  # or tf.lite.Interpreter

interpreter = Interpreter("model.tflite", experimental_delegates=[tfcompress.load_delegate()])
"""

from typing import Any

import numpy as np

from tfcompress import _native
from tfcompress._checks import check_whole
from tfcompress.ops import cost

MOST_THREADS = 1024


def load_delegate(*, threads: int | None = None, force: bool = False, verbosity: int = 0) -> Any:
    """Returns a delegate for the `experimental_delegates` of a TFLite or LiteRT interpreter.

    It takes over the convolutions, dense layers and additions, in float32 or int8, that are predicted to run
    faster with the zeros of their weights left out, and leaves the rest to the interpreter. The .tflite
    file is an ordinary one, with zeros stored or left out (`export.tflite(sparse_encoding=...)`), and runs
    everywhere without the delegate, too; but for int8 weights whose zeros are left out, which run with the
    delegate alone. Between layers in float32 that it takes over, maps stay in the order in which the native
    code computes. In int8 it gives, bit for bit, what XNNPACK does. Where a file has int8 weights and float32
    maps ("dynamic_int8"), it multiplies the maps as they are, which XNNPACK rounds to int8.

    What is worth while is found out once, when the interpreter is made, for the sizes that the file gives. A
    model that leaves the size of its images open is mostly left to the interpreter: export it with a size.

    Args:
        threads: how many threads it uses; None for as many as the interpreter's `num_threads`.
        force: whether to take over everything it can, even where that is slower.
        verbosity: 1 tells on stderr how many convolutions it takes over, 2 lists each, with the
            predicted times and the reason where one is left.

    Raises:
        RuntimeError: the native library was not built.
        ValueError: an argument is wrong.
    """
    from ai_edge_litert import interpreter

    return interpreter.load_delegate(*specification(threads=threads, force=force, verbosity=verbosity))


def specification(
    *, threads: int | None = None, force: bool = False, verbosity: int = 0
) -> tuple[str, dict[str, str]]:
    """Returns the library and the options for `load_delegate` of an interpreter's own package.

    Args, Raises: as `load_delegate` has them.
    """
    library = _native.path("tflite")
    if library is None:
        raise RuntimeError(
            "The TFLite delegate of tfcompress was not built. Install a C++ compiler and tfcompress again."
        )
    check_whole("threads", threads, 1, MOST_THREADS, or_none=True)
    check_whole("verbosity", verbosity, 0, 2)
    if not isinstance(force, (bool, np.bool_)):
        raise ValueError(f"force must be True or False, got {force!r}.")
    options = {"force": str(int(force)), "verbosity": str(verbosity)}
    if threads is not None:
        options["num_threads"] = str(threads)
    machines = {"machine": cost.measure_machine().option, "int8_machine": cost.measure_machine("int8").option}
    return str(library), options | machines
