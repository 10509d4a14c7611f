"""Runs a model's own layers, looks at activations on the way, and lets gates through."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from tfcompress import _calls
from tfcompress._calls import Ref
from tfcompress.criteria.sites import Place, Site


@dataclass(frozen=True)
class Tap:
    """Something at the output of a call: a look at it, or gates in it.

    Attributes:
        path: of the layer whose channels they are.
        axis: of the channels.
        channels: how many there are.
        gates: whether the output is multiplied by the layer's gates; else it is looked at.
    """

    path: str
    axis: int
    channels: int
    gates: bool = False


Call = Callable[[_calls.Call, Any, dict], Any]


def run(model: keras.Model, inputs: list, call: Call) -> list:
    """Runs a model on `inputs`, and returns its outputs, both in flat order.

    Args:
        model: a functional or Sequential model.
        inputs: one tensor for each of `model.inputs`.
        call: what to do at each call of an operation, also in nested models; it returns the outputs.
    """

    def into(step: _calls.Call, args: Any, kwargs: dict) -> Any:
        if not _calls.is_functional(step.operation):
            return call(step, args, kwargs)
        recipe = _calls.read(step.operation)
        given = _calls.tensors(args, kwargs)[: len(keras.tree.flatten(recipe.inputs))]  # a mask may follow
        return recipe.run(given, into)

    return _calls.read(model).run(inputs, into)


@dataclass
class Taps:
    """What lies where: (operation id, call number) -> taps."""

    at: dict[tuple[int, int], list[Tap]] = field(default_factory=dict)

    def add(self, where: Site, tap: Tap) -> None:
        self.at.setdefault((id(where.operation), where.call), []).append(tap)

    def gates(self, images: Any) -> dict[str, Any]:
        """layer path -> gates of 1, `(images, channels)`."""
        taps = [tap for at in self.at.values() for tap in at if tap.gates]
        return {tap.path: keras.ops.ones((images, tap.channels), "float32") for tap in taps}

    def run(self, model: keras.Model, inputs: list, gates: dict[str, Any]) -> "Seen":
        """Runs the model on `inputs`, in flat order."""
        seen = Seen()

        def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
            outputs = keras.tree.flatten(step.operation(*args, **kwargs))
            for tap in self.at.get((id(step.operation), step.index), ()):
                outputs[0] = seen.through(tap, outputs[0], gates)
            return outputs

        seen.outputs = run(model, inputs, call)
        return seen


@dataclass
class Seen:
    """What a run gave.

    Attributes:
        outputs: of the model, in flat order.
        maps: layer path -> activations `(batch, ..., channels)` in float32, where they are looked at.
        positions: layer path -> over how many positions of a map its gate acts.
    """

    outputs: list = field(default_factory=list)
    maps: dict[str, Any] = field(default_factory=dict)
    positions: dict[str, Any] = field(default_factory=dict)

    def through(self, tap: Tap, output: Any, gates: dict[str, Any]) -> Any:
        if not tap.gates:
            first = keras.ops.cast(output, "float32")
            self.maps[tap.path] = first if tap.axis == -1 else keras.ops.moveaxis(first, tap.axis, -1)
            return output
        if tap.path not in gates:
            return output
        axis = tap.axis % len(output.shape)
        sizes = keras.ops.shape(output)
        shape = [size if place in (0, axis) else 1 for place, size in enumerate(sizes)]
        others = [size for place, size in enumerate(sizes) if place not in (0, axis)]
        self.positions[tap.path] = _product(others)
        return output * keras.ops.cast(keras.ops.reshape(gates[tap.path], shape), output.dtype)


def _product(sizes: list) -> Any:
    found: Any = 1
    for size in sizes:
        found = found * size
    return found


def channel_axis(layer: Any, seen_at: Any) -> int:
    """The axis of the channels in the output of `seen_at`, which is the layer or a wrapper of it."""
    if getattr(layer, "data_format", None) != "channels_first":
        return -1
    return 1 if layer is seen_at else 2  # behind the time axis of a TimeDistributed


def channels_of(place: Place, axis: int) -> int:
    return place.recipe.shapes[Ref(place.name, place.call, 0)][axis]
