"""What `tfcompress` does on the command line: it tells what is in a compressed file, and unpacks it.

    tfcompress inspect model.tfc
    tfcompress unpack model.tfc model.keras
    tfcompress unpack model.tfc model.tflite [--quantization dynamic_int8]

Errors are one line.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

from tfcompress import export
from tfcompress._checks import near_miss
from tfcompress.export import verify

flags.DEFINE_string("quantization", None, "Of a .tflite file: dynamic_int8 or float16.")

USAGE = "tfcompress inspect FILE.tfc | tfcompress unpack FILE.tfc MODEL.keras | ... MODEL.tflite"


def main(argv: list[str]) -> None:
    command, *arguments = argv[1:] or ["help"]
    if command not in COMMANDS:
        raise app.UsageError(f"{near_miss('command', command, COMMANDS)}\n{USAGE}")
    function, count = COMMANDS[command]
    if len(arguments) != count:
        raise app.UsageError(f"'{command}' takes {count} arguments, got {len(arguments)}.\n{USAGE}")
    try:
        function(*arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"tfcompress: {error}")


def inspect(path: str) -> None:
    print(export.inspect_compressed(path))


def unpack(path: str, out: str) -> None:
    suffix = Path(out).suffix
    if suffix not in WRITERS:
        raise ValueError(f"'{out}' should end in one of {', '.join(WRITERS)}.")
    WRITERS[suffix](export.load_compressed(path), Path(out))


def _keras(model: Any, out: Path) -> None:
    with verify.staged(out) as temporary:
        model.save(temporary)
        temporary.replace(out)


def _tflite(model: Any, out: Path) -> None:
    print(export.tflite(model, out, quantization=flags.FLAGS.quantization))


WRITERS: dict[str, Callable[[Any, Path], None]] = {".keras": _keras, ".tflite": _tflite}
COMMANDS: dict[str, tuple[Callable[..., None], int]] = {"inspect": (inspect, 1), "unpack": (unpack, 2)}


def run() -> None:
    """The entry point."""
    app.run(main)


if __name__ == "__main__":
    run()
