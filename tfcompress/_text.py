"""What rich draws, as plain text."""

from typing import Any

from rich.console import Console


def plain(drawing: Any) -> str:
    """What `print` shows of something that has a `__rich__`."""
    console = Console(width=120)
    with console.capture() as capture:
        console.print(drawing)
    return capture.get()
