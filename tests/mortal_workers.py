"""A measure of models that a worker of a cluster can import, and that one worker does not survive."""

import os
from pathlib import Path

import keras
import numpy as np

_CALLS = [0]


def share_of_first_class(model: keras.Model, images: np.ndarray, folder: Path, home: int) -> float:
    """How often the first class wins. The first process but `home` that measures twice dies of it."""
    _CALLS[0] += 1
    if os.getpid() != home and _CALLS[0] == 2 and _first(folder / "died"):
        os._exit(1)
    return float((model.predict_on_batch(images).argmax(axis=1) == 0).mean())


def _first(path: Path) -> bool:
    """Whether no other process was here before; then the file names this one."""
    try:
        with path.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True
