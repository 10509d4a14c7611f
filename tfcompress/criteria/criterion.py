"""What a criterion is: the importance of every output channel of a layer, higher = keep.

Your own is one small class:

>>> from dataclasses import dataclass
>>> import numpy as np
>>> from tfcompress.criteria import WeightCriterion
>>> @dataclass(frozen=True)
... class Largest(WeightCriterion):
...     def score_filters(self, filters):
...         return np.abs(filters).max(axis=1)
>>> Largest().score_filters(np.array([[1.0, -3.0], [2.0, 0.0]]))
array([3., 2.])
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from tfcompress.criteria import filters
from tfcompress.criteria.sites import operations

Groups = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Criterion:
    """Scores output channels. Subclasses are frozen dataclasses whose fields are their settings."""

    name: ClassVar[str] = ""
    needs_data: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = cls.__name__  # of a user's own, in messages, until it is registered

    def score(self, model: keras.Model, layers: Sequence[str], data: Any = None) -> dict[str, np.ndarray]:
        """Returns layer path -> `(filters,)` float array, higher = keep.

        Layers for which the criterion is not defined are left out of the result.

        Args:
            model: a built functional or Sequential model; it is not changed.
            layers: paths of layers, as `ChannelGraph` names them.
            data: images, or (images, labels), as `tfcompress.prune` takes them; only criteria that
                need data look at it.

        Raises:
            ValueError: a layer is not there, a weight or an activation is NaN, or data is missing or does
                not fit the model.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """`criteria.get(criterion.get_config())` is an equal criterion."""
        return {"name": self.name, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class WeightCriterion(Criterion):
    """Looks at one layer's weights at a time. Implement `score_filters`."""

    def score_filters(self, filters: np.ndarray) -> np.ndarray:
        """From `(filters, weights)`, one row per output channel, to `(filters,)`."""
        raise NotImplementedError

    def score(self, model: keras.Model, layers: Sequence[str], data: Any = None) -> dict[str, np.ndarray]:
        by_path = operations(model, layers)
        found = {path: filters.rows(path, by_path) for path in layers}
        return {
            path: checked(path, self.score_filters(rows)) for path, rows in found.items() if rows is not None
        }


@dataclasses.dataclass(frozen=True)
class StreamingCriterion(Criterion):
    """Sees the data batch by batch. One pass serves all layers and all such criteria.

    `statistics` runs inside the compiled pass, `update` and `result` outside of it.
    """

    needs_data: ClassVar[bool] = True

    def update(self, state: Any, statistics: Any) -> Any:
        """Adds a batch's statistics, as NumPy arrays, to the state, at first None. Default: sums."""
        if state is None:
            return keras.tree.map_structure(lambda value: value.astype("float64"), statistics)
        return keras.tree.map_structure(lambda total, value: total + value, state, statistics)

    def result(self, state: Any) -> np.ndarray:
        """From the state after the last batch to `(channels,)`."""
        raise NotImplementedError

    def score(self, model: keras.Model, layers: Sequence[str], data: Any = None) -> dict[str, np.ndarray]:
        from tfcompress.criteria.streaming import score_together

        return score_together(model, {"": self}, layers, data)[""]


@dataclasses.dataclass(frozen=True)
class ActivationCriterion(StreamingCriterion):
    """Looks at activations.

    It looks behind the layer's normalization and activation function, also where pooling, padding or the
    end of a nested model lie in between.
    """

    @property
    def needs_activation(self) -> bool:
        """Whether it says nothing of layers that no activation function follows: they are left out."""
        return False

    def statistics(self, outputs: Any, labels: Any) -> Any:
        """From one batch of activations to what is worth keeping of it, in `keras.ops`.

        Args:
            outputs: `(batch, ..., channels)` float32, after the layer's normalization and
                activation function.
            labels: the batch's labels, or None.

        Returns:
            A tensor, or a list or dict of tensors.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class GradientCriterion(StreamingCriterion):
    """Looks at how the loss changes with gates: factors of 1 on channels, one per image.

    The gates of a layer are behind its normalization and activation function, but before its output is
    added to another layer's. Layers that are coupled are scored as one: an entry of the group is the mean
    of its layers' gates, so that derivatives add up before their signs are lost. There are no gates in an
    inner state, as that of a recurrent layer.

    Args:
        loss: as for `keras.Model.compile`; None: the one that the model is compiled with.
    """

    loss: Any = None

    needs_labels: ClassVar[bool] = True
    per_position: ClassVar[bool] = False  # derivatives by the mean over a map's positions, not by the sum

    def statistics(self, slopes: Any) -> Any:
        """From derivatives to what is worth keeping of them, in `keras.ops`.

        Args:
            slopes: `(batch, size)` float32, of each image's own loss by each entry's gate.

        Returns:
            A tensor, or a list or dict of tensors.
        """
        raise NotImplementedError

    def score_groups(self, model: keras.Model, groups: Groups, data: Any = None) -> dict[str, np.ndarray]:
        """Group name -> `(size,)` scores, higher = keep; see `score`.

        Args:
            model: as for `score`.
            groups: group name -> layer path -> `(size, n)` numbers of the channels in each entry.
            data: (images, labels).
        """
        from tfcompress.criteria.streaming import score_groups_together

        return score_groups_together(model, {"": self}, groups, data)[""]


def sums(values: Any) -> dict[str, Any]:
    """Statistics from values of single images, `(batch, channels)`, of which `mean` makes the mean."""
    return {"sum": keras.ops.sum(values, axis=0), "images": keras.ops.sum(keras.ops.ones_like(values[:, 0]))}


def mean(state: dict[str, np.ndarray]) -> np.ndarray:
    """`(channels,)`: the mean over all images, from added `sums`."""
    return state["sum"] / state["images"]


def over_positions(reduce: Callable, outputs: Any) -> Any:
    """From `(batch, ..., channels)` to `(batch, channels)` by a function such as `keras.ops.mean`."""
    axes = tuple(range(1, len(outputs.shape) - 1))
    return reduce(outputs, axis=axes) if axes else outputs


def checked(path: str, scores: np.ndarray) -> np.ndarray:
    """The scores as float64; `ValueError` if one is not finite."""
    scores = np.asarray(scores, "float64")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"Layer '{path}' has NaN or infinite weights or activations in channels "
            f"{np.flatnonzero(~np.isfinite(scores))[:8].tolist()}; train it to finite values first."
        )
    return scores
