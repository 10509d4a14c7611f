"""Which channels are whose, while a model gets smaller and smaller.

Names of groups are no help: a group is named after its first layer, and counted where a layer's channels
are in several, so that its name changes when others lose channels.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tfcompress.channels import ChannelGraph, Group
from tfcompress.pruning.removed import Removal, removals


@dataclass(frozen=True)
class Origins:
    """Where the channels of a smaller model come from.

    Attributes:
        first: the graph of the model that all began with.
        numbers: layer path -> `(outputs,)` int array: for each output that is left, its number in that model.
    """

    first: ChannelGraph
    numbers: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, graph: ChannelGraph) -> "Origins":
        """At the beginning."""
        widths: dict[str, int] = {}
        for group in graph:
            for path, outputs in group.layers.items():
                widths[path] = widths.get(path, 0) + outputs.size
        return cls(graph, {path: np.arange(width) for path, width in widths.items()})

    def after(self, removed: Iterable[Removal]) -> "Origins":
        """Once these channels are gone."""
        numbers = dict(self.numbers)
        for removal in removed:
            for path, lost in removal.layers.items():
                numbers[path] = np.setdiff1d(numbers[path], lost)
        return Origins(self.first, numbers)

    def find(self, graph: ChannelGraph, name: str) -> Group | None:
        """The group of the smaller model's graph that has all that is left of the first graph's `name`.

        None if there is no such group any more: its channels are coupled to others now, or locked.
        """
        wanted = {
            path: np.intersect1d(outputs, self.numbers[path])
            for path, outputs in self.first[name].layers.items()
        }
        return next((group for group in graph.free if _equal(self._outputs(group), wanted)), None)

    def removal(self, name: str, graph: ChannelGraph, group: str, mask: np.ndarray) -> Removal:
        """What the first graph's group `name` loses by a mask for the smaller model's `group`."""
        (found,) = removals(graph, {group: mask})
        layers = {path: self.numbers[path][lost] for path, lost in found.layers.items()}
        return Removal(name, layers, self.first[name].size, found.after)

    def _outputs(self, group: Group) -> dict[str, np.ndarray]:
        return {
            path: np.sort(self.numbers[path][outputs.ravel()])
            for path, outputs in group.layers.items()
            if path in self.numbers
        }


def _equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[path], other[path]) for path in one)
