"""Average percentage of zeros (Hu et al. 2016, "Network Trimming")."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.criteria.criterion import ActivationCriterion


@dataclass(frozen=True)
class APoZ(ActivationCriterion):
    """How often a channel is active: `1 - APoZ`, so that, as everywhere here, higher = keep.

    `APoZ_c = 1/(N M) sum_k sum_j 1[O_c,j(x_k) = 0]` over N images and M positions, after the ReLU
    (Hu et al. 2016, eq. 1). The paper trims channels whose APoZ is more than one standard deviation
    above the layer's mean: `sparsity=selection.Cutoff(1.0)` does that.

    Use it on networks with ReLU. With other activation functions values are rarely exactly zero; an
    `epsilon` above 0 counts `|a| <= epsilon` as zero, which is an extension of the paper. The upper
    clip of a ReLU6 is not a zero.

    Args:
        epsilon: the largest absolute activation that counts as zero.
    """

    epsilon: float = 0.0

    def __post_init__(self):
        if self.epsilon < 0:
            raise ValueError(f"epsilon must not be negative, got {self.epsilon}.")

    def statistics(self, outputs: Any, labels: Any) -> Any:
        axes = tuple(range(len(outputs.shape) - 1))
        active = keras.ops.cast(keras.ops.abs(outputs) > self.epsilon, "float32")
        return {
            "active": keras.ops.sum(active, axis=axes),
            "positions": keras.ops.sum(keras.ops.ones_like(outputs[..., 0])),
            "total": keras.ops.sum(outputs, axis=axes),  # a NaN counts as inactive: it shows here
        }

    def result(self, state: Any) -> np.ndarray:
        score = state["active"] / state["positions"]
        return np.where(np.isfinite(state["total"]), score, np.nan)
