"""What guided sparsity learning has found out, step by step, in memory and in a folder.

>>> progress = Progress().seen(0.5, Window(0.6, 0.9), patience=2, tolerance=0.01)
>>> for sparsity in (0.501, 0.5):
...     progress = progress.seen(sparsity, Window(0.6, 0.9), patience=2, tolerance=0.01)
>>> progress
Progress(state='dropped', sparsity=0.5, unchanged=2)
"""

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from tfcompress.ops import Window

PRESSED, HELD, DROPPED = "pressed", "held", "dropped"

_DENSE, _STEPS = "dense.npz", "steps.json"


@dataclass(frozen=True)
class Progress:
    """Where a layer is.

    Attributes:
        state: `"pressed"`, `"held"` or `"dropped"`.
        sparsity: what it was when it last changed.
        unchanged: how many times it was seen since, and had not changed.
    """

    state: str = PRESSED
    sparsity: float = 0.0
    unchanged: int = 0

    def seen(self, sparsity: float, window: Window, patience: int, tolerance: float) -> "Progress":
        """Of a pressed layer, after one look more at its sparsity.

        It is dropped only if it has stabilised: so that small steps add up, it is compared with where it was
        at the last change, not at the last look.
        """
        if abs(sparsity - self.sparsity) > tolerance:
            return replace(self, sparsity=sparsity, unchanged=0)
        stable = self.unchanged + 1 >= patience
        state = DROPPED if stable and sparsity < window.lower else self.state
        return replace(self, state=state, unchanged=self.unchanged + 1)


@dataclass(frozen=True)
class Record:
    """A training so far.

    Attributes:
        windows: layer -> its window, None where it has none.
        dense: layer with a window -> its weights from before the training.
        steps: step of the optimizer -> layer with a window -> where it was then; the first is where the
            training began.
    """

    windows: dict[str, Window | None]
    dense: dict[str, list[np.ndarray]]
    steps: dict[int, dict[str, Progress]]

    def until(self, step: int) -> "Record":
        """Without what came after this step, which is to be trained again."""
        return replace(self, steps={key: value for key, value in self.steps.items() if key <= step})

    def fits(self, shapes: Mapping[str, list[tuple[int, ...]]]) -> bool:
        """Whether it is about layers of these names, with weights of these shapes."""
        dense = {path: [value.shape for value in values] for path, values in self.dense.items()}
        return set(self.windows) == set(shapes) and all(shapes[path] == dense[path] for path in dense)

    @classmethod
    def is_in(cls, folder: Path) -> bool:
        return (folder / _STEPS).is_file()

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """What `write_dense` and `write_steps` wrote."""
        saved = json.loads((folder / _STEPS).read_text(encoding="utf-8"))
        windows = {path: window and Window(*window) for path, window in saved["windows"].items()}
        steps = {
            int(step): {path: Progress(*progress) for path, progress in layers.items()}
            for step, layers in saved["steps"].items()
        }
        with np.load(folder / _DENSE) as arrays:
            dense = {
                path: [arrays[_key(path, index)] for index in range(count)]
                for path, count in saved["weights"].items()
            }
        return cls(windows, dense, steps)

    def write_dense(self, folder: Path) -> None:
        """Once: dense weights do not change."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            _key(path, index): value
            for path, values in self.dense.items()
            for index, value in enumerate(values)
        }
        new = folder / f"new-{_DENSE}"  # NumPy would add .npz to a name that ends otherwise
        np.savez(new, **arrays)  # type: ignore[arg-type]
        new.replace(folder / _DENSE)

    def write_steps(self, folder: Path) -> None:
        """All but the dense weights. A process that is killed meanwhile leaves the file of before."""
        content = {
            "windows": {path: window and astuple(window) for path, window in self.windows.items()},
            "weights": {path: len(values) for path, values in self.dense.items()},
            "steps": {
                step: {path: astuple(progress) for path, progress in layers.items()}
                for step, layers in self.steps.items()
            },
        }
        new = folder / f"new-{_STEPS}"
        new.write_text(json.dumps(content), encoding="utf-8")
        new.replace(folder / _STEPS)


def _key(path: str, index: int) -> str:
    return f"{path}:{index}"
