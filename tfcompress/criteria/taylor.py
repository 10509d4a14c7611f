"""Taylor expansions of the loss: what it would lose without a channel (Molchanov et al. 2017, 2019)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from tfcompress._checks import check_whole
from tfcompress.criteria.criterion import GradientCriterion, mean, sums


@dataclass(frozen=True)
class Taylor(GradientCriterion):
    """The change of the loss that a first-order expansion expects without a feature map.

    For the map *z* of one channel, with M positions, behind its activation function:
    `Theta = mean over images of |1/M sum_m dC/dz_m z_m|`, then `Theta / sqrt(sum_j Theta_j^2)` within its
    layer (Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    eqs. 8 and 10). C is the loss of a single image, so that scores do not depend on the batch size. The
    paper's regularization by FLOPs is `analysis.FlopsRegularized(Taylor())`.

    Public code differs from the paper: the authors' own takes absolute values position by position, others
    average over images before. Here it is as in the paper.

    Meant for a ranking over all layers, `Selection(scope="global")`, a few channels at a time with some
    training in between.

    Args:
        loss: as for `keras.Model.compile`; None: the one that the model is compiled with.
        normalize: whether each layer's scores have an L2 norm of 1, without which layers do not compare.
    """

    normalize: bool = True

    per_position: ClassVar[bool] = True

    def statistics(self, slopes: Any) -> Any:
        return sums(keras.ops.abs(slopes))

    def result(self, state: Any) -> np.ndarray:
        theta = mean(state)
        norm = np.linalg.norm(theta)
        return theta / norm if self.normalize and norm > 0 else theta


@dataclass(frozen=True)
class Taylor2019(GradientCriterion):
    """The squared change of the loss that a first-order expansion expects without a channel.

    `I = mean over mini-batches of (dE/dg)^2` for a gate *g* = 1 on the channel, where E is the mean loss of
    the mini-batch: the gates of Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning",
    the variant that the authors find best. Scores of layers compare as they are: meant for
    `Selection(scope="global")`, and for scores smoothed over rounds.

    The paper puts gates behind the BatchNormalization, here they are behind the activation function that
    follows. Where that is a ReLU both derivatives are equal.

    Args:
        loss: as for `keras.Model.compile`; None: the one that the model is compiled with.
        batch_size: images per mini-batch, whatever batches the data comes in. What is left over at the end
            counts only if it is all there is.
    """

    batch_size: int = 32

    def __post_init__(self):
        check_whole("batch_size", self.batch_size)

    def statistics(self, slopes: Any) -> Any:
        return slopes

    def update(self, state: "_Squares | None", statistics: Any) -> "_Squares":
        state = state or _Squares(np.zeros((0, statistics.shape[1])), np.zeros(statistics.shape[1]), 0)
        rows = np.concatenate([state.rest, statistics.astype("float64")])
        whole = len(rows) // self.batch_size * self.batch_size
        means = rows[:whole].reshape(-1, self.batch_size, rows.shape[1]).mean(axis=1)
        return _Squares(rows[whole:], state.total + (means**2).sum(axis=0), state.batches + len(means))

    def result(self, state: "_Squares") -> np.ndarray:
        return state.total / state.batches if state.batches else state.rest.mean(axis=0) ** 2


@dataclass(frozen=True)
class _Squares:
    """Sums over mini-batches; `rest` are the derivatives of images that do not fill one yet."""

    rest: np.ndarray
    total: np.ndarray
    batches: int
