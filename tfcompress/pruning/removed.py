"""What a verb removed, and where."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from tfcompress._text import plain
from tfcompress.channels import ChannelGraph


@dataclass(frozen=True)
class Removal:
    """One group of coupled layers.

    Attributes:
        group: its name in the `ChannelGraph` of the model the verb was given.
        layers: layer path -> int array, the outputs that layer lost, numbered as in that model.
        before: channels in the group.
        after: channels that stay; as many as before where rounding, the floor or a balance asked for it.
    """

    group: str
    layers: Mapping[str, np.ndarray]
    before: int
    after: int


@dataclass(frozen=True)
class Removed:
    """What was removed where, and which groups had to stay whole.

    Iterate over it for the `Removal`s; print it for a table.

    Attributes:
        removals: one entry per group that the verb set about, in the order of pruning.
        untouched: the other groups -> why they stayed as they are; with them, path -> class of layers of
            unknown kind.
    """

    removals: tuple[Removal, ...]
    untouched: Mapping[str, str]

    def __iter__(self) -> Iterator[Removal]:
        return iter(self.removals)

    def __rich__(self) -> Table:
        table = Table(title="Removed channels")
        for column in ("group", "layers", "before", "after"):
            table.add_column(column, justify="right" if column in ("before", "after") else "left")
        for removal in self.removals:
            layers = ", ".join(removal.layers)
            table.add_row(removal.group, layers, str(removal.before), str(removal.after))
        for group, reason in self.untouched.items():
            table.add_row(group, f"[dim]{reason}[/dim]", "", "")
        return table

    def __str__(self) -> str:
        return plain(self)


def removals(graph: ChannelGraph, keep: Mapping[str, np.ndarray]) -> list[Removal]:
    """The entries for the groups in `keep`."""
    return [
        Removal(
            name,
            {path: np.sort(outputs[~mask].ravel()) for path, outputs in graph[name].layers.items()},
            graph[name].size,
            int(mask.sum()),
        )
        for name, mask in keep.items()
    ]


def keep_masks(graph: ChannelGraph, removed: Iterable[Removal]) -> dict[str, np.ndarray]:
    """The inverse of `removals`, for the graph of the model that the verb was given.

    Raises:
        ValueError: the graph has no such group: it is that of another model.
    """
    masks = {}
    for removal in removed:
        layers = graph[removal.group].layers
        path = next(iter(layers))
        masks[removal.group] = ~np.isin(layers[path][:, 0], removal.layers.get(path, ()))
    return masks
