"""Linear discriminant analysis of neurons: how well one tells classes apart (Tian et al. 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from tfcompress import _data
from tfcompress.criteria.criterion import ActivationCriterion, over_positions

NOISE = np.finfo("float32").eps  # of an activation, as a share of it


@dataclass(frozen=True)
class LDA(ActivationCriterion):
    """The share of the variance of a channel's strongest activation that lies between classes.

    With `X[n, i]`, the firing matrix, the maximum of map *i* of image *n* over its positions, and
    `S_w = sum_c sum_{x in c} (x - mu_c)(x - mu_c)^T`, `S_b = sum_c N_c (mu_c - mu)(mu_c - mu)^T`, it is the
    intraclass correlation `ICC_i = S_b[i, i] / (S_b[i, i] + S_w[i, i])`, in [0, 1] (Tian, Arbel and Clark
    2017, "Deep LDA-Pruned Nets for Efficient Facial Gender Classification"). High: the neuron alone tells
    classes apart. A neuron that never changes has 0. That the axes of LDA are the neurons themselves, as the
    paper says, holds as far as `S_w` is diagonal; `firing` tells how far.

    Meant for the last convolution of a network trained for the task. In earlier layers single neurons stand
    for edges and colours, and say nothing of classes by themselves.

    The paper does not say how ICC is normalised: that its two parts add up to 1 is a choice made here.
    """

    needs_labels: ClassVar[bool] = True

    def statistics(self, outputs: Any, labels: Any) -> Any:
        return {"x": strongest(outputs), "labels": labels}

    def update(self, state: "Scatter | None", statistics: Any) -> "Scatter":
        more = Scatter.of(statistics["x"], _data.classes(statistics["labels"]))
        return more if state is None else state + more

    def result(self, state: "Scatter") -> np.ndarray:
        return state.icc


def strongest(outputs: Any) -> Any:
    """From `(batch, ..., channels)` to `(batch, channels)`: the maximum over positions."""
    return over_positions(keras.ops.max, outputs)


@dataclass(frozen=True)
class Scatter:
    """Class -> (images, mean, sum of squared distances from it): what batches add up to."""

    classes: Mapping[int, tuple[int, np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, x: np.ndarray, labels: np.ndarray) -> "Scatter":
        """Of one batch: `x` `(images, channels)`, `labels` `(images,)` integers."""
        x = x.astype("float64")
        rows = {int(label): x[labels == label] for label in np.unique(labels)}
        with np.errstate(invalid="ignore"):  # what is infinite becomes NaN, which the check of scores finds
            return cls({label: (len(r), r.mean(axis=0), r.var(axis=0) * len(r)) for label, r in rows.items()})

    def __add__(self, other: "Scatter") -> "Scatter":
        merged = dict(self.classes)
        for label, part in other.classes.items():
            merged[label] = _merged(merged[label], part) if label in merged else part
        return Scatter(merged)

    @property
    def icc(self) -> np.ndarray:
        """`(channels,)` intraclass correlations.

        Raises:
            ValueError: there is a single class.
        """
        if len(self.classes) < 2:
            raise ValueError(
                "LDA tells classes apart, but the labels of the data are all "
                f"{next(iter(self.classes))}: pass images of at least two classes."
            )
        counts, means, within = (np.array(part) for part in zip(*self.classes.values(), strict=True))
        mean = counts @ means / counts.sum()
        between, inside = counts @ (means - mean) ** 2, within.sum(axis=0)
        total = between + inside
        constant = total <= counts.sum() * (NOISE * mean) ** 2
        return np.where(constant, 0.0, between / np.where(constant, 1.0, total))


def _merged(one: tuple, other: tuple) -> tuple:
    """Of two sets of images of a class (Chan, Golub and LeVeque 1983)."""
    n, m = one[0], other[0]
    apart = other[1] - one[1]
    return n + m, one[1] + apart * m / (n + m), one[2] + other[2] + apart**2 * n * m / (n + m)


@dataclass(frozen=True)
class Firing:
    """The firing matrix of a layer, as LDA sees it.

    Attributes:
        x: `(images, channels)`, the maximum of each map over its positions.
        labels: `(images,)` classes.
    """

    x: np.ndarray
    labels: np.ndarray

    @property
    def icc(self) -> np.ndarray:
        """`(channels,)` intraclass correlations: what `LDA` scores."""
        return Scatter.of(self.x, self.labels).icc

    @property
    def off_diagonal(self) -> float:
        """How much of `S_w` is off its diagonal: `sum_{i != j} S_w[i, j]^2 / sum_ij S_w[i, j]^2`, in [0, 1).

        Near 0 the neurons are the axes of LDA, and each can be judged for itself.
        """
        groups = [self.x[self.labels == label].astype("float64") for label in np.unique(self.labels)]
        within = sum((rows - rows.mean(axis=0)).T @ (rows - rows.mean(axis=0)) for rows in groups)
        mass = (within**2).sum()
        return float(1 - (np.diag(within) ** 2).sum() / mass) if mass > 0 else 0.0


def firing(model: keras.Model, layer: str, data: Any) -> Firing:
    """Returns the firing matrix of a layer.

    Args:
        model: a built functional or Sequential model.
        layer: the path of a layer, as `ChannelGraph` names it.
        data: (images, labels), as `tfcompress.prune` takes them. Labels are integers or one-hot.

    Raises:
        ValueError: the layer is unknown, data or labels are missing or do not fit.

    >>> x = keras.Input((4, 4, 1))
    >>> y = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(3, 3, name="conv")(x))
    >>> model = keras.Model(x, keras.layers.Dense(2)(y))
    >>> found = firing(model, "conv", (np.random.rand(6, 4, 4, 1), np.arange(6) % 2))
    >>> found.x.shape
    (6, 3)
    """
    from tfcompress.criteria.streaming import score_together

    kept: list[tuple[np.ndarray, np.ndarray]] = []
    score_together(model, {"": _Kept(kept)}, [layer], data)
    x, labels = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return Firing(x, labels)


@dataclass(frozen=True)
class _Kept(LDA):
    """Keeps what LDA sees."""

    rows: list

    def update(self, state: Any, statistics: Any) -> Any:
        self.rows.append((statistics["x"], _data.classes(statistics["labels"])))
        return 0

    def result(self, state: Any) -> np.ndarray:
        return np.zeros(1)
