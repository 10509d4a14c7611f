"""The oracle: what the loss really does without a channel (Molchanov et al. 2017)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from tfcompress import _cloning, _data, _losses, channels, criteria
from tfcompress._arrays import to_numpy
from tfcompress.analysis.grouping import check_finite
from tfcompress.criteria.criterion import Criterion, Groups, checked
from tfcompress.criteria.sites import operations
from tfcompress.criteria.taps import Taps


@criteria.register("oracle")
@dataclass(frozen=True)
class Oracle(Criterion):
    """The absolute change of the loss, `|C(without the channel) - C|`, measured channel by channel.

    What criteria stand in for (Molchanov et al. 2017, section 2.1, "oracle-abs"). It takes one pass over the
    data per channel: for small networks, and to tell how good a criterion is (`analysis.rank_correlation`).
    What is removed is what `prune` would remove: an entry of a group, in all layers coupled by it.

    Args:
        loss: as for `keras.Model.compile`; None: the one that the model is compiled with.
        signed: the change itself, so that channels without which the loss falls go first ("oracle-loss").
    """

    loss: Any = None
    signed: bool = False

    needs_data: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True

    def score(self, model: keras.Model, layers: Sequence[str], data: Any = None) -> dict[str, np.ndarray]:
        operations(model, layers)
        graph = channels.trace(model)
        groups = {group.name: group for group in graph.free if set(layers) & set(group.layers)}
        by_group = self.score_groups(model, {name: group.layers for name, group in groups.items()}, data)
        found: dict[str, np.ndarray] = {}
        for path in layers:
            mine = {name: groups[name].layers[path] for name in by_group if path in groups[name].layers}
            if mine:
                found[path] = np.zeros(sum(outputs.size for outputs in mine.values()))
            for name, outputs in mine.items():
                found[path][outputs] = by_group[name][:, None]
        return found

    def score_groups(self, model: keras.Model, groups: Groups, data: Any = None) -> dict[str, np.ndarray]:
        """Group name -> `(size,)` scores; the groups are those of `channels.trace(model)`.

        Groups of a single entry are left out: without it there would be nothing.
        """
        if data is None:
            raise ValueError("The oracle measures losses: pass data as (inputs, labels).")
        check_finite(model)
        data = _data.repeatable(data)
        copy = _cloning.clone(model)
        # One channel alone may go here, also where blocks of a grouped convolution must keep equal numbers.
        graph = dataclasses.replace(channels.trace(copy), balances=())
        loss = Losses(copy, self.loss)
        whole = loss.mean(data)
        found = {}
        for name in groups:
            if graph[name].size == 1:
                continue  # it is all there is
            changes = [
                _without(copy, graph, name, entry, loss, data) - whole for entry in range(graph[name].size)
            ]
            found[name] = checked(name, np.array(changes if self.signed else np.abs(changes)))
        return found


def _without(
    model: keras.Model, graph: channels.ChannelGraph, name: str, entry: int, loss: "Losses", data: Any
) -> float:
    """The mean loss while nothing reads the entry of a group."""
    keep = np.arange(graph[name].size) != entry
    before = [(weight, to_numpy(weight)) for weight, _ in channels.reading_masks(model, graph, {name: keep})]
    channels.silence(model, graph, {name: keep})
    try:
        return loss.mean(data)
    finally:
        for weight, value in before:
            weight.assign(value)


class Losses(keras.Model):
    """A model's loss of every image."""

    def __init__(self, model: keras.Model, loss: Any):
        super().__init__(name="losses")
        self.watched = model
        self._loss_of = _losses.per_example(model, loss)

    def call(self, batch: dict) -> Any:
        seen = Taps().run(self.watched, keras.tree.flatten(batch["inputs"]), {})
        return self._loss_of(batch["labels"], seen.outputs)

    def mean(self, data: Any) -> float:
        parts = [
            self.predict_on_batch({"inputs": inputs, "labels": labels})
            for inputs, labels in _data.labelled(self.watched, data, "The oracle")
        ]
        return float(np.concatenate(parts).mean(dtype="float64"))
