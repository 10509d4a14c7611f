"""Put other layers in the place of those with kernels, and tell which."""

import math
from collections.abc import Callable, Mapping
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
    layers: Mapping[str, tuple[int, int]]
    untouched: Mapping[str, str]

    def __rich__(self) -> Table:
        table = Table(title=self.title)
        for column in ("layer", "before", "after"):
            table.add_column(column, justify="left" if column == "layer" else "right")
        for path, (before, after) in self.layers.items():
            table.add_row(path, str(before), str(after))
        for path, reason in self.untouched.items():
            table.add_row(f"{path}: [dim]{reason}[/dim]", "", "")
        return table

    def __str__(self) -> str:
        return plain(self)


Report = TypeVar("Report", bound=Replaced)


def replace(
    model: keras.Model,
    make: Callable[[str, Any], keras.layers.Layer | str],
    include: Patterns,
    exclude: Patterns,
    report: type[Report],
) -> tuple[keras.Model, Report]:
    """Returns a copy with other layers in it, and a report on them.

    Args:
        model: a built functional or Sequential model. It is not changed.
        make: (path, layer) -> the built layer that stands in for this one, whose first weight holds what is
            left of the kernel; or why there is none.
        include: layer names or regular expressions; only these layers.
        exclude: likewise, not those.
        report: the class of the report.
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
            sizes[path] = math.prod(layer.kernel.shape), math.prod(found.weights[0].shape)
    return rewired(model, layers=made), report(sizes, untouched)


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
