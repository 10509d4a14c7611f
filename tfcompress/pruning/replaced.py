"""Put other layers in the place of those with kernels, and tell which."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import keras
from rich.table import Table

from tfcompress import _calls, _kernels
from tfcompress._names import Patterns, chosen
from tfcompress._text import plain
from tfcompress.pruning.rewired import rewired


@dataclass(frozen=True)
class Replaced:
    """Which layers a verb replaced, and which not. Print it for a table.

    Attributes:
        layers: layer path -> (entries of the full kernel, entries that are left).
        untouched: layer path -> why it stayed as it is, for layers with kernels.
    """

    title: ClassVar[str] = "Replaced kernels"
    columns: ClassVar[tuple[str, ...]] = ("before", "after")
    layers: Mapping[str, tuple[int, int]]
    untouched: Mapping[str, str]

    def __rich__(self) -> Table:
        table = Table(title=self.title)
        table.add_column("layer")
        for column in self.columns:
            table.add_column(column, justify="right")
        for path in self.layers:
            table.add_row(path, *self.cells(path))
        for path, reason in self.untouched.items():
            table.add_row(f"{path}: [dim]{reason}[/dim]", *[""] * len(self.columns))
        return table

    def cells(self, path: str) -> list[str]:
        """What stands in the columns, for a layer that was replaced."""
        return [str(entries) for entries in self.layers[path]]

    def __str__(self) -> str:
        return plain(self)


Report = TypeVar("Report", bound=Replaced)


@dataclass(frozen=True)
class Block:
    """What stands in for one layer: built layers with kernels, and the function that calls them."""

    parts: Sequence[keras.layers.Layer]
    call: Callable[[Any], Any]

    def __call__(self, x: Any) -> Any:
        return self.call(x)


def exchange(
    model: keras.Model,
    make: Callable[[str, Any], keras.layers.Layer | Block | str],
    include: Patterns,
    exclude: Patterns,
    report: Callable[[dict, dict], Report],
) -> tuple[keras.Model, Report]:
    """Returns a copy with other layers in it, and a report on them.

    Args:
        model: a built functional or Sequential model. It is not changed.
        make: (path, layer) -> what stands in for this one, a built layer or several, whose first weights hold
            what is left of the kernel; or why there is none.
        include: layer names or regular expressions; only these layers.
        exclude: likewise, not those.
        report: the class of the report, or what makes it of the same arguments.
    """
    layers = {path: layer for path, layer in _calls.walk(model) if _has_kernel(layer)}
    wanted = set(chosen(layers, include, exclude))
    inside = _inside_wrappers(model)
    made, sizes, untouched = {}, {}, {}
    for path, layer in layers.items():
        found = "excluded" if path not in wanted else inside.get(path) or make(path, layer)
        if isinstance(found, str):
            untouched[path] = found
        else:
            made[path] = found
            sizes[path] = math.prod(layer.kernel.shape), entries(found)
    return rewired(model, layers=made), report(sizes, untouched)


def entries(found: keras.layers.Layer | Block) -> int:
    """Of the kernels of what stands in for a layer."""
    parts = found.parts if isinstance(found, Block) else [found]
    return sum(math.prod(part.weights[0].shape) for part in parts)


def _has_kernel(layer: Any) -> bool:
    inner = _calls.is_functional(layer) or _calls.wrapped_layers(layer)
    return isinstance(layer, keras.Layer) and not inner and bool(_kernels.kernels(layer))


def _inside_wrappers(model: keras.Model) -> dict[str, str]:
    """Paths of layers that a wrapper calls: nothing else can be put in their place."""
    wrappers = [path for path, operation in _calls.walk(model) if _calls.wrapped_layers(operation)]
    return {
        path: "inside a wrapper"
        for path, _ in _calls.walk(model)
        if any(path.startswith(f"{wrapper}/") for wrapper in wrappers)
    }
