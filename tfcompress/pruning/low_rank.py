"""A convolution as two: one with groups over the whole window, and a 1x1 one that mixes what they say.

>>> rng = np.random.default_rng(0)
>>> kernel = rng.normal(size=(3, 3, 8, 16))
>>> whole = Factors.of(kernel, groups=8)  # one for each channel: depthwise-separable
>>> whole.rank  # at most as many filters for each channel as the window has taps
9
>>> [round(whole.lost(rank), 2) for rank in (1, 4, 9)]
[0.72, 0.23, 0.0]
>>> first, last = whole.kernels(2)
>>> first.shape, last.shape
((3, 3, 1, 16), (1, 1, 16, 16))
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Factors:
    """The singular values of a kernel's parts, a part for what all filters see of one group of channels.

    A part `(taps * channels, filters)` is `U S V`: as many filters over its window as are kept of the columns
    of U, and a 1x1 convolution with the rows of `S V`. The first r of them are the nearest of rank r
    (Eckart and Young 1936).

    Attributes:
        shape: of the kernel, `(*window, channels / own, filters)`.
        own: the groups that the convolution has itself.
        left: U, `(groups, taps * channels / groups, rank)`.
        values: S, `(groups, rank)`, descending.
        right: V, `(groups, rank, filters / own)`.
    """

    shape: tuple[int, ...]
    own: int
    left: np.ndarray
    values: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, kernel: np.ndarray, groups: int, own: int = 1) -> "Factors":
        """Decomposes the kernel of a convolution with `own` groups, of which `groups` is a multiple."""
        channels, filters = kernel.shape[-2:]
        each = groups // own
        parts = kernel.astype("float64").reshape(-1, each, channels // each, own, filters // own)
        parts = parts.transpose(3, 1, 0, 2, 4).reshape(groups, -1, filters // own)
        return cls(kernel.shape, own, *np.linalg.svd(parts, full_matrices=False))

    @property
    def groups(self) -> int:
        return len(self.values)

    @property
    def rank(self) -> int:
        """At which nothing is lost."""
        return self.values.shape[1]

    def lost(self, rank: int) -> float:
        """The squares that a rank leaves out, as a share of all."""
        squares = self.values**2
        return float(squares[:, rank:].sum() / squares.sum()) if squares.any() else 0.0

    def rank_for(self, share: float) -> int:
        """The least rank that keeps this share of the squares."""
        return next(rank for rank in range(1, self.rank + 1) if 1 - self.lost(rank) >= share * (1 - 1e-12))

    def kernels(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the convolution with groups, `(*window, channels, groups * rank)`, and of the 1x1 one.

        Each has the square root of the singular values.
        """
        window, filters = self.shape[:-2], self.shape[-1]
        roots = np.sqrt(self.values[:, :rank])
        first = (self.left[:, :, :rank] * roots[:, None]).reshape(self.groups, *window, -1, rank)
        first = np.moveaxis(first, 0, -2).reshape(*window, first.shape[-2], -1)
        last = (self.right[:, :rank] * roots[:, :, None]).reshape(self.own, -1, filters // self.own)
        last = np.moveaxis(last, 0, 1).reshape([1] * len(window) + [-1, filters])
        return first, last
