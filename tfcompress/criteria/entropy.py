"""The entropy of a channel's pooled activations (Luo and Wu 2017)."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress._checks import check_whole
from tfcompress.criteria.criterion import ActivationCriterion, over_positions


@dataclass(frozen=True)
class Entropy(ActivationCriterion):
    """How much a channel's mean activation varies over images.

    Each map is averaged over its positions, which gives one value per image and channel. The values
    of channel *j* are counted in `bins` equal bins between their own minimum and maximum, and
    `H_j = - sum_i p_i log p_i` in nats (Luo and Wu 2017, "An Entropy-based Pruning Method for CNN
    Compression", eq. 1). A channel of low entropy says the same about every image. A constant one
    has entropy 0.

    Use it layer by layer with a little retraining in between (`prune_layerwise`), as the paper does.

    The paper does not give the number of bins nor their range: 100 bins over the channel's own
    range, which makes the score independent of the channel's scale, are choices made here. Scores
    depend on the number of images and bins (the bias is about `(bins - 1) / (2 images)`); compare
    only scores from the same data.

    Args:
        bins: the number of bins.
        images: at most so many images are looked at, the first ones, so that memory does not grow
            with the data: `images * channels * 4` bytes.
    """

    bins: int = 100
    images: int = 1024

    def __post_init__(self):
        check_whole("bins", self.bins, 2)
        check_whole("images", self.images, 2)

    def statistics(self, outputs: Any, labels: Any) -> Any:
        return over_positions(keras.ops.mean, outputs)

    def update(self, state: Any, statistics: Any) -> Any:
        rows = state or []
        missing = self.images - sum(len(row) for row in rows)
        return [*rows, statistics[:missing]] if missing > 0 else rows

    def result(self, state: Any) -> np.ndarray:
        means = np.concatenate(state).astype("float64")
        low, high = means.min(axis=0), means.max(axis=0)
        spread = np.where(high > low, high - low, 1.0)
        bins = np.minimum((means - low) / spread * self.bins, self.bins - 1)
        if not np.isfinite(bins).all():
            return np.where(np.isfinite(bins).all(axis=0), 0.0, np.nan)
        return _entropies(bins.astype(int), self.bins)


def _entropies(bins: np.ndarray, count: int) -> np.ndarray:
    """From bin numbers `(images, channels)` to entropies `(channels,)` in nats."""
    images, channels = bins.shape
    flat = bins + count * np.arange(channels)
    p = np.bincount(flat.ravel(), minlength=count * channels).reshape(channels, count) / images
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1) + 0.0
