"""Kernels block by block: what a rule ranks and masks where single entries are not left out.

>>> from tfcompress._kernels import Layout
>>> Blocks((1, 2)).check("conv/kernel", (1, 1, 3, 8), Layout())
Traceback (most recent call last):
ValueError: Blocks of (1, 2) (outputs, inputs) do not divide 'conv/kernel', which has 8 outputs and 3 input \
channels. Leave the layer out with exclude=, or choose another block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress._checks import check_choice, is_whole
from tfcompress._kernels import Layout
from tfcompress.layers.rules import MaskedWeight

POOLS: dict[str, Callable] = {"mean": np.mean, "max": np.max}


@dataclass(frozen=True)
class Blocks:
    """Blocks of `(outputs, inputs)` entries of a kernel as a matrix, one row per output.

    Columns are taps and input channels, channels running fastest; a block is of one tap.

    Args:
        size: of a block.
        pool: what stands for the magnitudes in a block, `"mean"` or `"max"`.

    Raises:
        ValueError: an argument is none of these.
    """

    size: tuple[int, int] = (1, 1)
    pool: str = "mean"

    def __post_init__(self) -> None:
        check_pair("block", self.size)
        check_choice("pool", self.pool, POOLS)

    @property
    def single(self) -> bool:
        """Whether a block is one entry."""
        return self.size == (1, 1)

    def check(self, path: str, shape: tuple[int, ...], layout: Layout) -> None:
        """Raises `ValueError` unless blocks divide a kernel of this shape."""
        outputs, _, channels = layout.sizes(shape)
        if outputs % self.size[0] or channels % self.size[1]:
            raise ValueError(
                f"Blocks of {self.size} (outputs, inputs) do not divide '{path}', which has {outputs} "
                f"outputs and {channels} input channels. Leave the layer out with exclude=, or choose "
                "another block."
            )

    def scores(self, masked: MaskedWeight) -> np.ndarray:
        """The magnitude of every entry, or `(block rows, block columns)` of every block."""
        magnitudes = np.abs(masked.value)
        return magnitudes if self.single else POOLS[self.pool](self._tiles(magnitudes, masked), axis=(1, 3))

    def kept(self, masked: MaskedWeight) -> np.ndarray:
        """Of which the mask keeps anything, in the shape of `scores`."""
        return masked.kept if self.single else np.any(self._tiles(masked.kept, masked), axis=(1, 3))

    def spread(self, kept: np.ndarray, masked: MaskedWeight) -> np.ndarray:
        """From a mask of blocks to one of entries."""
        if self.single:
            return kept
        entries = np.repeat(np.repeat(kept, self.size[0], axis=0), self.size[1], axis=1)
        return masked.layout.lift(entries, tuple(masked.weight.shape))

    def _tiles(self, values: np.ndarray, masked: MaskedWeight) -> np.ndarray:
        """`(block rows, rows, block columns, columns)`."""
        outputs, taps, channels = masked.layout.sizes(values.shape)
        rows, columns = self.size
        lowered = masked.layout.lower(values)
        return lowered.reshape(outputs // rows, rows, taps * channels // columns, columns)


def check_pair(kind: str, pair: Any) -> None:
    if not isinstance(pair, tuple) or len(pair) != 2 or not all(map(is_whole, pair)):
        raise ValueError(f"{kind} is a tuple of two positive whole numbers, got {pair!r}.")
