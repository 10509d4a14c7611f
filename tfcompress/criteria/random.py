"""Random scores: the control that every criterion has to beat."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.criteria import filters
from tfcompress.criteria.criterion import Criterion
from tfcompress.criteria.sites import operations


@dataclass(frozen=True)
class Random(Criterion):
    """Uniform random scores, the same ones for the same seed and layer path.

    Args:
        seed: which draw.
    """

    seed: int = 0

    def score(self, model: keras.Model, layers: Sequence[str], data: Any = None) -> dict[str, np.ndarray]:
        by_path = operations(model, layers)
        rows = {path: filters.rows(path, by_path) for path in layers}
        return {path: self._draw(path, len(table)) for path, table in rows.items() if table is not None}

    def _draw(self, path: str, size: int) -> np.ndarray:
        return np.random.default_rng([self.seed, zlib.crc32(path.encode())]).random(size)
