"""The mean of a channel's activations (Polyak and Wolf 2015; Molchanov et al. 2017)."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.criteria.criterion import ActivationCriterion, mean, over_positions, sums


@dataclass(frozen=True)
class MeanActivation(ActivationCriterion):
    """How strongly a channel is active: the mean over images and positions.

    It comes from face detection (Polyak and Wolf 2015, "Channel-Level Acceleration of Deep Face
    Representations") and is "mean activation" in the comparison of Molchanov et al. 2017, behind the
    activation function. Use it on networks with ReLU: where activations have both signs, they cancel.
    """

    def statistics(self, outputs: Any, labels: Any) -> Any:
        return sums(over_positions(keras.ops.mean, outputs))

    def result(self, state: Any) -> np.ndarray:
        return mean(state)
