"""What a model costs, as a function of the shapes that its weights will have: what budgets limit."""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfcompress import _calls
from tfcompress._arrays import to_numpy
from tfcompress._runtimes import conversion
from tfcompress.analysis.costs import macs_by_weight
from tfcompress.analysis.energy import energy, energy_by_shapes
from tfcompress.analysis.latency import latency, latency_ratio
from tfcompress.analysis.latency_table import LatencyTable

if TYPE_CHECKING:
    from tfcompress.pruning.budget import Budget

Shapes = Mapping[tuple[str, int], tuple[int, ...]]
REPEATS = 200  # runs of a whole model
NOISY = {"aim": 0.93, "accepted": 0.97}  # two measurements of a latency differ by some per cent


@dataclass
class Cost:
    """One cost of one model.

    Attributes:
        predict: from shapes of weights to the cost.
        measure: from a model to its cost, where that is not just what is predicted for its shapes.
        aim: the share of the limit that predictions shall come down to.
        accepted: the share of the limit that a measurement must come down to, so that the next one meets it.
        factor: what predictions have to be multiplied by, as far as is known from measurements.
        known: what the unpruned model costs, where nothing has to be measured for that.
    """

    predict: Callable[[Shapes], float]
    measure: Callable[[keras.Model], float] | None = None
    aim: float = 1.0
    accepted: float = 1.0
    factor: float = 1.0
    known: float | None = None

    def __call__(self, shapes: Shapes) -> float:
        return self.factor * self.predict(shapes)

    def of(self, model: keras.Model) -> float:
        """What the model costs, measured if it can be."""
        return self.predict(shapes_of(model)) if self.measure is None else self.measure(model)

    def of_whole(self, model: keras.Model) -> float:
        """What the unpruned model costs."""
        return self.of(model) if self.known is None else self.known

    def calibrate(self, model: keras.Model, measured: float) -> None:
        """Makes predictions agree with what was measured for a model."""
        predicted = self.predict(shapes_of(model))
        self.factor = measured / predicted if predicted else 1.0


def shapes_of(model: keras.Model) -> Shapes:
    return {(path, index): tuple(weight.shape) for path, index, weight in _calls.weights(model)}


def _params(model: keras.Model, budget: "Budget") -> Cost:
    return Cost(lambda shapes: sum(int(np.prod(shape)) for shape in shapes.values()))


def _macs(model: keras.Model, budget: "Budget") -> Cost:
    _check_size(model, budget, "MACs are")
    positions = macs_by_weight(model, budget.input_shape)
    # MACs that belong to no weight (attention's products) are left as they are.
    return Cost(lambda shapes: sum(times * int(np.prod(shapes[key])) for key, times in positions.items()))


def _bytes(model: keras.Model, budget: "Budget") -> Cost:
    sizes = {(path, index): to_numpy(weight).dtype.itemsize for path, index, weight in _calls.weights(model)}
    return Cost(lambda shapes: sum(sizes[key] * int(np.prod(shape)) for key, shape in shapes.items()))


def _energy(model: keras.Model, budget: "Budget") -> Cost:
    _check_size(model, budget, "energy is")
    settings: dict[str, Any] = {"hardware": budget.hardware, "input_shape": budget.input_shape}
    # Kernels of the smaller model may have another share of zeros than was taken for them.
    return Cost(energy_by_shapes(model, **settings), lambda small: energy(small, **settings).total)


def _latency_ms(model: keras.Model, budget: "Budget") -> Cost:
    settings = _measuring(model, budget)
    predict = table_of(budget).predictor(model, budget.input_shape)
    return Cost(predict, lambda small: latency(small, **settings).median_ms, **NOISY)


def _latency(model: keras.Model, budget: "Budget") -> Cost:
    """As a share of the model's own: the two run in turn, so that the machine is as slow for both."""
    settings = _measuring(model, budget)
    predict = table_of(budget).predictor(model, budget.input_shape)
    return Cost(predict, lambda small: latency_ratio(small, model, **settings).median, known=1.0, **NOISY)


def _measuring(model: keras.Model, budget: "Budget") -> dict[str, Any]:
    conversion.check_backend()
    _check_size(model, budget, "latency is")
    data = [np.zeros((1, *shape), "float32") for shape in _input_shapes(budget)]
    given = {"data": data[0] if len(data) == 1 else data} if data else {}
    return {"threads": budget.threads, "repeats": REPEATS, **given}


def _input_shapes(budget: "Budget") -> list[tuple[int, ...]]:
    given = budget.input_shape
    if given is None:
        return []
    return [tuple(given)] if isinstance(given[0], int) else [tuple(shape) for shape in given]


def _check_size(model: keras.Model, budget: "Budget", what: str) -> None:
    if budget.input_shape is None and any(None in tensor.shape[1:] for tensor in model.inputs):
        raise ValueError(
            f"'{model.name}' leaves its input size open, so its {what} not known. Give "
            'budget=tfcompress.pruning.Budget({"macs": ...}, input_shape=(height, width, channels)).'
        )


# Name -> what a model costs.
COSTS: dict[str, Callable[[keras.Model, "Budget"], Cost]] = {
    "params": _params,
    "macs": _macs,
    "bytes": _bytes,
    "energy": _energy,
    "latency": _latency,
    "latency_ms": _latency_ms,
}
LATENCIES = "latency", "latency_ms"


def table_of(budget: "Budget") -> LatencyTable:
    """The table that is given, that of the file that is given, or one that all budgets share."""
    if isinstance(budget.table, LatencyTable):
        return budget.table
    return _kept_table(budget.threads, None if budget.table is None else os.fspath(budget.table))


@functools.cache
def _kept_table(threads: int, path: str | None) -> LatencyTable:
    return LatencyTable(threads, path)
