"""Linear discriminant analysis of neurons: how well one tells classes apart (Tian et al. 2017)."""

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
        x, labels = statistics["x"], _data.classes(statistics["labels"])
        return Scatter.of(x, labels) if state is None else state.add(x, labels)

    def result(self, state: "Scatter") -> np.ndarray:
        return state.icc


def strongest(outputs: Any) -> Any:
    """From `(batch, ..., channels)` to `(batch, channels)`: the maximum over positions."""
    return over_positions(keras.ops.max, outputs)


class Scatter:
    """The means of classes, and the sum of squared distances of images from that of theirs.

    Images come in batches; of each class two batches are merged as by Chan, Golub and LeVeque 1983.
    """

    def __init__(self, channels: int):
        self._rows: dict[int, int] = {}  # class -> row of the following two
        self._counts = np.zeros(0)
        self._means = np.zeros((0, channels))
        self._within = np.zeros(channels)

    @classmethod
    def of(cls, x: np.ndarray, labels: np.ndarray) -> "Scatter":
        """`x` `(images, channels)`, `labels` `(images,)` integers."""
        return cls(x.shape[1]).add(x, labels)

    def add(self, x: np.ndarray, labels: np.ndarray) -> "Scatter":
        """Takes in a batch, and returns itself."""
        order = np.argsort(labels, kind="stable")
        x = x[order].astype("float64")
        classes, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        rows = self._rows_of(classes)
        share = (counts / (self._counts[rows] + counts))[:, None]
        with np.errstate(invalid="ignore"):  # what is infinite becomes NaN, which the check of scores finds
            means = np.add.reduceat(x, starts) / counts[:, None]
            apart = means - self._means[rows]
            self._within += ((x - np.repeat(means, counts, axis=0)) ** 2).sum(axis=0)
            self._within += (apart**2 * share * self._counts[rows, None]).sum(axis=0)
            self._means[rows] += apart * share
        self._counts[rows] += counts
        return self

    def _rows_of(self, classes: np.ndarray) -> list[int]:
        """Where classes are; new ones get a row. Arrays double, so that they are seldom copied."""
        rows = [self._rows.setdefault(int(label), len(self._rows)) for label in classes]
        lacking = len(self._rows) - len(self._counts)
        if lacking > 0:
            more = max(lacking, len(self._counts))
            self._counts = np.pad(self._counts, (0, more))
            self._means = np.pad(self._means, ((0, more), (0, 0)))
        return rows

    @property
    def icc(self) -> np.ndarray:
        """`(channels,)` intraclass correlations.

        Raises:
            ValueError: there is a single class.
        """
        if len(self._rows) < 2:
            raise ValueError(
                f"LDA tells classes apart, but the labels of the data are all {next(iter(self._rows))}: pass "
                "images of at least two classes."
            )
        counts, means = self._counts[: len(self._rows)], self._means[: len(self._rows)]
        mean = counts @ means / counts.sum()
        between = counts @ (means - mean) ** 2
        total = between + self._within
        constant = total <= counts.sum() * (NOISE * mean) ** 2
        return np.where(constant, 0.0, between / np.where(constant, 1.0, total))


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
