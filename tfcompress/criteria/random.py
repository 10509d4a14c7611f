"""Random scores: the control that every criterion has to beat."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import _calls
from tfcompress.criteria import filters
from tfcompress.criteria.criterion import Criterion


@dataclass(frozen=True)
class Random(Criterion):
    """Uniform random scores, the same ones for the same seed and layer path.

    Args:
        seed: which draw.
    """

    seed: int = 0

    def score(self, model: keras.Model, layers: Sequence[str], data: Any = None) -> dict[str, np.ndarray]:
        operations = dict(_calls.walk(model))
        rows = {path: filters.rows(path, operations) for path in layers}
        return {path: self._draw(path, len(table)) for path, table in rows.items() if table is not None}

    def _draw(self, path: str, size: int) -> np.ndarray:
        return np.random.default_rng([self.seed, zlib.crc32(path.encode())]).random(size)
