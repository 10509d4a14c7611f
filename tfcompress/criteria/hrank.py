"""The rank of a channel's feature maps (Lin et al. 2020, "HRank")."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.criteria.criterion import ActivationCriterion, mean, over_positions, sums


@dataclass(frozen=True)
class HRank(ActivationCriterion):
    """How much a channel's map holds: its rank as a matrix, the mean over images.

    `(1/g) sum_t rank(map of image t)` behind the activation function (Lin et al. 2020, "HRank: Filter
    Pruning using High-Rank Feature Map", eq. 4). A singular value counts if it exceeds
    `s_max * max(height, width) * eps` of float32, as in NumPy's `matrix_rank`.

    Pass few images: the paper finds that 500 suffice, and singular values take longer than the network.

    The map of a Conv1D is one row, the output of a Dense layer one number: their ranks are 0 or 1. That
    of a Conv3D is a matrix of `(depth * height, width)`.
    """

    def statistics(self, outputs: Any, labels: Any) -> Any:
        ranks = _ranks(_matrices(outputs))
        return sums(ranks + 0 * over_positions(keras.ops.sum, outputs))  # what is not a number stays so

    def result(self, state: Any) -> np.ndarray:
        return mean(state)


def _matrices(outputs: Any) -> Any:
    """From `(batch, ..., channels)` to `(batch, channels, rows, columns)`."""
    images, *sizes, channels = keras.ops.shape(outputs)
    columns = sizes[-1] if sizes else 1
    flat = keras.ops.reshape(outputs, (images, -1, columns, channels))
    return keras.ops.transpose(flat, (0, 3, 1, 2))


def _ranks(matrices: Any) -> Any:
    values = keras.ops.svd(matrices, compute_uv=False)
    rows, columns = keras.ops.shape(matrices)[-2:]
    largest = keras.ops.max(values, axis=-1, keepdims=True)
    limit = largest * keras.ops.cast(keras.ops.maximum(rows, columns), "float32") * np.finfo("float32").eps
    return keras.ops.sum(keras.ops.cast(values > limit, "float32"), axis=-1)
