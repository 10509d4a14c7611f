"""Average percentage of zeros (Hu et al. 2016, "Network Trimming")."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress._checks import check_number
from tfcompress.criteria.criterion import ActivationCriterion, mean, over_positions, sums


@dataclass(frozen=True)
class APoZ(ActivationCriterion):
    """How often a channel is active: `1 - APoZ`, so that, as everywhere here, higher = keep.

    `APoZ_c = 1/(N M) sum_k sum_j 1[O_c,j(x_k) = 0]` over N images and M positions, after the ReLU
    (Hu et al. 2016, eq. 1). The paper trims channels whose APoZ is more than one standard deviation
    above the layer's mean: `sparsity=selection.Cutoff(1.0)` does that.

    Use it on networks with ReLU. Layers that no activation function follows are left out, since hardly any
    of their values is exactly zero; where none is left, that is an error. With other activation functions
    values are rarely zero, either: an `epsilon` above 0 counts `|a| <= epsilon` as zero, in all layers,
    which is an extension of the paper. The upper clip of a ReLU6 is not a zero.

    Args:
        epsilon: the largest absolute activation that counts as zero.
    """

    epsilon: float = 0.0

    def __post_init__(self):
        check_number("epsilon", self.epsilon, "[0, inf)")

    @property
    def needs_activation(self) -> bool:
        return self.epsilon == 0

    def statistics(self, outputs: Any, labels: Any) -> Any:
        active = keras.ops.abs(keras.ops.sign(outputs))  # a NaN stays one, for the check of the scores
        if self.epsilon > 0:
            active *= keras.ops.cast(keras.ops.abs(outputs) > self.epsilon, active.dtype)
        return sums(over_positions(keras.ops.mean, active))

    def result(self, state: Any) -> np.ndarray:
        return mean(state)
