"""What teachers said of fixed data, kept on disk: then an epoch costs no more than the student.

Folders are written under another name and renamed when whole.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress._arrays import to_numpy
from tfcompress.distillation.sight import Sight

INPUTS, SAID = "tfcompress_inputs", "tfcompress_said"  # the keys of a batch that has both
FACTS = "facts.json"


def split(inputs: Any) -> tuple[Any, Any]:
    """The inputs of a batch, and what teachers said of them, in flat order; None where that is not known."""
    if isinstance(inputs, Mapping) and set(inputs) == {INPUTS, SAID}:
        return inputs[INPUTS], keras.tree.flatten(inputs[SAID])
    return inputs, None


class Lessons(keras.utils.PyDataset):
    """Batches of (inputs and what teachers said of them, labels), in a new order in every epoch.

    Args:
        x: the inputs, arrays `(images, ...)` in the structure that the student takes.
        y: the labels, likewise, or None.
        sample_weight: likewise.
        said: arrays `(images, ...)`, in flat order.
        batch_size: images per batch.
        shuffle: whether the order changes.
        seed: of the order.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        said: list[np.ndarray],
        batch_size: int,
        shuffle: bool,
        seed: int,
    ):
        super().__init__()
        self._parts = (
            {INPUTS: x, SAID: {f"{n:04}": array for n, array in enumerate(said)}},
            y,
            sample_weight,
        )
        self.images = len(keras.tree.flatten(x)[0])
        self.batch_size = batch_size
        self._rng = np.random.default_rng(seed) if shuffle else None
        self._order = np.arange(self.images)
        self.on_epoch_end()

    def __len__(self) -> int:
        return math.ceil(self.images / self.batch_size)

    def __getitem__(self, number: int) -> tuple:
        chosen = self._order[number * self.batch_size : (number + 1) * self.batch_size]
        parts = self._parts[: 1 + max((n for n in (1, 2) if self._parts[n] is not None), default=0)]
        return tuple(keras.tree.map_structure(lambda array: array[chosen], part) for part in parts)

    def on_epoch_end(self) -> None:
        if self._rng is not None:
            self._order = self._rng.permutation(self.images)


def remembered(
    sight: Sight, x: Any, y: Any, loss: Any, folder: str | Path, batch_size: int
) -> list[np.ndarray]:
    """What teachers say of these images, `(images, ...)` in flat order: out of the folder, or written there.

    Raises:
        ValueError: the folder holds something else, or arrays differ in length.
    """
    folder = Path(folder)
    images = {len(array) for array in keras.tree.flatten((x, y)) if array is not None}
    if len(images) != 1:
        raise ValueError(f"Inputs and labels must have as many rows, got {sorted(images)}.")
    facts = {"images": images.pop(), "what": _fingerprint(sight, x, y)}
    if not _holds(folder, facts):
        _write(folder, facts, _asked(sight, x, y, loss, batch_size))
    return [np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))]


def _holds(folder: Path, facts: dict) -> bool:
    """Whether it is the folder of these facts; `ValueError` if it is not ours at all."""
    if not folder.exists():
        return False
    if not (folder / FACTS).is_file():
        raise ValueError(f"'{folder}' is there already and holds something else: name another folder.")
    return json.loads((folder / FACTS).read_text()) == facts


def _write(folder: Path, facts: dict, batches: Iterator[list[np.ndarray]]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        start = 0
        files: list[np.memmap] = []
        for arrays in batches:
            files = files or [
                np.lib.format.open_memmap(
                    new / f"{n:04}.npy", "w+", array.dtype, (facts["images"], *array.shape[1:])
                )
                for n, array in enumerate(arrays)
            ]
            for file, array in zip(files, arrays, strict=True):
                file[start : start + len(array)] = array
            start += len(arrays[0])
        for file in files:
            file.flush()
        (new / FACTS).write_text(json.dumps(facts))
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        new.rename(folder)


def _asked(sight: Sight, x: Any, y: Any, loss: Any, batch_size: int) -> Iterator[list[np.ndarray]]:
    asking = _Asking(sight, loss)
    for start in range(0, len(keras.tree.flatten(x)[0]), batch_size):
        window = slice(start, start + batch_size)
        batch = {"x": x} if y is None else {"x": x, "y": y}
        said = asking.predict_on_batch(keras.tree.map_structure(lambda array: array[window], batch))  # noqa: B023
        yield [to_numpy(said[key]) for key in sorted(said)]


class _Asking(keras.Model):
    """What teachers say, as outputs."""

    def __init__(self, sight: Sight, loss: Any):
        super().__init__(name="asking")
        self._ask = lambda x, y: keras.tree.flatten(sight.teaching(x, y, loss))

    def call(self, batch: dict) -> dict[str, Any]:
        return {f"{n:04}": said for n, said in enumerate(self._ask(batch["x"], batch.get("y")))}


def _fingerprint(sight: Sight, x: Any, y: Any) -> str:
    """Of teachers, inputs, labels, and what is looked at."""
    found = hashlib.sha256(repr(sight.layers).encode())
    weights = [weight for model in sight.models for weight in model.get_weights()]
    for array in [*weights, *(one for one in keras.tree.flatten((x, y)) if one is not None)]:
        found.update(f"{array.shape}{array.dtype}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
