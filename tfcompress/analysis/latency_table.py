"""How long each layer takes at any width: a table that is measured where it is asked, and kept.

>>> table = LatencyTable(measure=lambda layer, shape: float(layer["config"]["filters"]))
>>> x = keras.Input((8, 8, 3))
>>> model = keras.Model(x, keras.layers.Conv2D(16, 3, name="conv")(x))
>>> predict = table.predictor(model)
>>> predict({("conv", 0): (3, 3, 3, 12)})
12.0
"""

import functools
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
from keras import layers

from tfcompress import _calls
from tfcompress._checks import check_whole
from tfcompress._runtimes import process
from tfcompress.analysis.steps import InputShape, Step, replay

Shapes = Mapping[tuple[str, int], tuple[int, ...]]
Measure = Callable[[dict, tuple[int, ...]], float]

CHILD = Path(process.__file__).with_name("layers.py")
LIMITS = {"repeats": 50, "warmup": 3, "seconds": 0.3}

# Layer class -> (axis of the inputs, axis of the outputs) of its first kernel, and the key of its width.
_AXES: dict[type, tuple[int, int, str]] = {
    layers.Dense: (-2, -1, "units"),
    **{getattr(layers, f"Conv{rank}D"): (-2, -1, "filters") for rank in (1, 2, 3)},
    **{getattr(layers, f"Conv{rank}DTranspose"): (-1, -2, "filters") for rank in (1, 2, 3)},
    layers.DepthwiseConv1D: (-2, -1, "depth_multiplier"),
    layers.DepthwiseConv2D: (-2, -1, "depth_multiplier"),
}
_NOT_OF_TIME = "initializer", "regularizer", "constraint"


class LatencyTable:
    """Milliseconds of single layers in LiteRT on this machine, by layer, size of map and widths.

    Entries are measured when they are first asked for, each as a model of one layer with its activation
    function, batch 1, in float32, and kept. Layers that are alike share them.

    Attributes:
        unmeasured: class of a layer -> why it has no time by itself.

    Args:
        threads: how many LiteRT may use.
        path: a JSON file that holds the entries from call to call; it is replaced when `save` is called.
            Entries of another machine, another version of LiteRT or another number of threads are not used.
        measure: from a serialised layer and the shape of its input, without the batch, to milliseconds; by
            default LiteRT's.

    Raises:
        ValueError: `threads` is no positive whole number.
    """

    def __init__(
        self, threads: int = 1, path: str | os.PathLike | None = None, measure: Measure | None = None
    ):
        check_whole("threads", threads)
        self.threads, self.path, self._measure = threads, None if path is None else Path(path), measure
        self.unmeasured: dict[str, str] = {}
        self._server: process.Server | None = None
        self._all: dict[str, dict[str, float]] = {}
        if self.path is not None and self.path.exists():
            self._all = json.loads(self.path.read_text())

    def __enter__(self) -> "LatencyTable":
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends the process that measures, and saves."""
        self._stop()
        self.save()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.__exit__()
            self._server = None

    @functools.cached_property
    def entries(self) -> dict[str, float]:
        """Key of a layer -> milliseconds, on this machine."""
        where = (
            "given" if self._measure else f"{_machine()}, {self._called('version')}, {self.threads} threads"
        )
        return self._all.setdefault(where, {})

    def save(self) -> None:
        if self.path is None:
            return
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}")
        with os.fdopen(descriptor, "w") as file:
            json.dump(self._all, file, indent=1)
        Path(name).replace(self.path)

    def ms(self, layer: dict, shape: tuple[int, ...]) -> float:
        """Milliseconds of a serialised layer on one image; 0 for one that TFLite cannot run by itself."""
        key = json.dumps([layer, list(shape)], sort_keys=True, default=repr)
        if key not in self.entries:
            self.entries[key] = self._measured(layer, shape)
        return self.entries[key]

    def _measured(self, layer: dict, shape: tuple[int, ...]) -> float:
        if self._measure is not None:
            return self._measure(layer, shape)
        try:
            return self._called("median_ms", layer=layer, shape=shape, threads=self.threads, **LIMITS)
        except process.ChildError as error:
            self.unmeasured[layer["class_name"]] = str(error)
            return 0.0

    def _called(self, function: str, **arguments: Any) -> Any:
        if self._server is None:
            self._server = process.Server(CHILD).__enter__()
        try:
            return self._server.call(function, **arguments)
        finally:
            if not self._server.alive:
                self._stop()  # the next call begins another one

    def predictor(
        self, model: keras.Model, input_shape: InputShape | None = None
    ) -> Callable[[Shapes], float]:
        """A function from shapes of weights to the sum over layers of their times at these widths.

        Dense layers and convolutions count; the rest, such as additions and pooling, does not.

        Args:
            model: a functional or Sequential model.
            input_shape: the size of one image, where the model leaves it open.
        """
        steps = [step for step in replay(model, input_shape).steps if type(step.operation) in _AXES]

        def predict(shapes: Shapes) -> float:
            return sum(step.times * self.ms(*_resized(step, shapes[step.path, 0])) for step in steps)

        return predict


def _resized(step: Step, shape: tuple[int, ...]) -> tuple[dict, tuple[int, ...]]:
    """The layer of a step with a kernel of this shape, serialised, and the shape of its input."""
    layer = step.operation
    before, after, width = _AXES[type(layer)]
    channels = shape[before] * getattr(layer, "groups", 1)
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    sizes = list(step.inputs[0].shape[1:])
    sizes[0 if first else -1] = channels
    config = {
        key: value
        for key, value in _calls.config_of(layer).items()
        if key not in ("name", "trainable", "dtype") and not key.endswith(_NOT_OF_TIME)
    }
    config[width] = shape[after]
    return {"module": "keras.layers", "class_name": type(layer).__name__, "config": config}, tuple(sizes)


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
