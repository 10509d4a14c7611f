"""What each layer of a model costs: parameters, multiply-accumulates, bytes.

>>> import keras
>>> x = keras.Input((8, 8, 3), name="image")
>>> y = keras.layers.Conv2D(4, 3, padding="same", name="stem")(x)
>>> model = keras.Model(x, keras.layers.Flatten(name="flat")(y), name="tiny")
>>> print(summary(model))
tiny, for one image
layer  kind        output  params  nonzero    MACs  nonzero  weights  activations
image  InputLayer  8x8x3        0                0               0 B        768 B
stem   Conv2D      8x8x4      112    96.4%  6.91 k   100.0%    448 B      1.02 kB
flat   Flatten     256          0                0               0 B      1.02 kB
total                         112    96.4%  6.91 k   100.0%    448 B      2.82 kB
At most 2.05 kB of activations live at once.
>>> summary(model).rows[1]["macs"], summary(model).totals["weight_bytes"]
(6912, 448)
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from tfcompress import _calls
from tfcompress.analysis.costs import Costs, own_weights, tally
from tfcompress.analysis.steps import InputShape, Replay, Step, elements, replay

SUMS = (
    "params",
    "nonzero_params",
    "macs",
    "nonzero_macs",
    "weight_bytes",
    "activation_bytes",
)


@dataclass(frozen=True, repr=False)
class Summary:
    """The table that `summary` returns. Print it, with or without rich, or read its numbers.

    Args:
        name: the model's name.
        rows: one dict per layer, in the order of the first calls. Nested models are entered, not
            listed. Keys: `layer` (path), `kind` (class name), `output_shape` (list without batch
            axis; a list of lists for several outputs), `calls`, `params`, `nonzero_params`,
            `macs` and `nonzero_macs` (None where not known), `weight_bytes`, `activation_bytes`.
        totals: the sums of these columns, and `peak_activation_bytes`.
        uncounted: layer path -> why its MACs are not known; the totals take them as 0.

    `rows`, `totals` and `uncounted` hold only what JSON has.
    """

    name: str
    rows: list[dict]
    totals: dict[str, int]
    uncounted: dict[str, str]

    def __rich__(self) -> Group:
        table = Table(title=self._title, title_justify="left", box=SIMPLE_HEAD, padding=0)
        for title, _, is_number in _COLUMNS:
            if is_number:
                table.add_column(title, justify="right", no_wrap=True)
            else:
                table.add_column(title, overflow="fold")
        for row in self.rows:
            table.add_row(*map(escape, _cells(row)))
        table.add_section()
        table.add_row(*_cells(self._total_row), style="bold")
        return Group(table, *map(escape, self._notes))

    def __str__(self) -> str:
        lines = [[title for title, _, _ in _COLUMNS], *map(_cells, self.rows), _cells(self._total_row)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join([self._title, *(_aligned(line, widths) for line in lines), *self._notes])

    __repr__ = __str__

    @property
    def _title(self) -> str:
        return f"{self.name}, for one image"

    @property
    def _total_row(self) -> dict:
        return {"layer": "total", "kind": "", "output_shape": [], **self.totals}

    @property
    def _notes(self) -> list[str]:
        notes = [f"MACs of '{path}' not counted: {reason}." for path, reason in self.uncounted.items()]
        return [
            f"At most {_bytes(self.totals['peak_activation_bytes'])} of activations live at once.",
            *notes,
        ]


def summary(model: keras.Model, input_shape: InputShape | None = None) -> Summary:
    """Returns the parameters, MACs and bytes of each layer of a model, for one image.

    * Parameters are counted once, also of layers called several times; MACs at each call.
    * `macs` are the multiply-accumulates of a dense run, `nonzero_macs` those with nonzero
      weights, which a run that skips zeros would do. Only kernels and products of activations
      count: normalization, activations, pooling and biases are 0. A rule of
      `tfcompress.analysis.register` counts further layers.
    * `weight_bytes` takes each weight in its own dtype, uncompressed.
    * `activation_bytes` is the size of what the layer makes, in its compute dtype, added over
      its calls. A wrapper's output is made of, and counted with, the layers it wraps.
    * `peak_activation_bytes` is the most that is alive at once if the layers run one by one in
      the order of the graph. A tensor lives from the call that makes it to the last call that
      reads it; nothing is done in place, nothing is fused, and what layers make and drop inside
      themselves (scores of attention, gates of an LSTM) is not counted.

    A mask that a wrapper applies to its layer's weights is not seen; fold it in first.

    Args:
        model: a functional or Sequential Keras model, built.
        input_shape: the size of one image without batch axis, as `(224, 224, 3)`; or a list of
            such shapes, one for each of `model.inputs`. Needed where the model leaves its size open.

    Raises:
        ValueError: the model is subclassed or not built, its input size is open, or a layer does
            not accept the size given. Layers without a rule are no error but listed in
            `Summary.uncounted`.

    >>> x = keras.Input((None, None, 3))
    >>> model = keras.Model(x, keras.layers.Conv2D(4, 1)(x))
    >>> summary(model, (100, 100, 3)).totals["macs"]
    120000
    """
    run = replay(model, input_shape)
    costs = tally(model, run)
    steps: dict[str, list[Step]] = {}
    for step in run.steps:
        steps.setdefault(step.path, []).append(step)
    layers = dict(_calls.walk(model))
    paths = [*steps, *(path for path in costs.uncounted if path not in steps)]
    counted: set[int] = set()
    rows = [_row(path, layers[path], steps.get(path, []), costs, counted) for path in paths]
    totals = {key: sum(row[key] or 0 for row in rows) for key in SUMS}
    return Summary(model.name, rows, {**totals, "peak_activation_bytes": _peak_bytes(run)}, costs.uncounted)


def _row(path: str, layer: Any, steps: list[Step], costs: Costs, counted: set[int]) -> dict:
    """The numbers of one layer. `counted` holds the weights that rows above have counted."""
    weights = own_weights(layer)
    nonzeros = {index: _nonzeros(weight) for index, weight in weights.items()}
    new = {index: weight for index, weight in weights.items() if id(weight) not in counted}
    counted.update(id(weight) for weight in new.values())
    known = path not in costs.uncounted
    products = costs.products.get(path, 0)
    sizes = {index: math.prod(weight.shape) for index, weight in weights.items()}
    return {
        "layer": path,
        "kind": type(layer).__name__,
        "output_shape": _output_shape(steps),
        "calls": sum(step.times for step in steps),
        "params": sum(sizes[index] for index in new),
        "nonzero_params": sum(nonzeros[index] for index in new),
        "macs": _multiplied(path, sizes, costs) + products if known else None,
        "nonzero_macs": _multiplied(path, nonzeros, costs) + products if known else None,
        "weight_bytes": sum(_size_bytes(sizes[index], weight.dtype) for index, weight in new.items()),
        "activation_bytes": sum(_made_bytes(step) for step in steps),
    }


def _multiplied(path: str, counts: dict[int, int], costs: Costs) -> int:
    return sum(costs.positions[path, index] * count for index, count in counts.items())


def _nonzeros(weight: keras.Variable) -> int:
    return int(np.count_nonzero(keras.ops.convert_to_numpy(weight.value)))


def _output_shape(steps: list[Step]) -> list:
    """Without the batch axis, at the first call; a list of shapes for several outputs."""
    shapes = [list(tensor.shape[1:]) for tensor in steps[0].outputs] if steps else [[]]
    return shapes[0] if len(shapes) == 1 else shapes


def _made_bytes(step: Step) -> int:
    """The bytes of what a call makes, at all its repetitions."""
    if _calls.wrapped_layers(step.operation):
        return 0
    return step.times * sum(_tensor_bytes(tensor) for tensor in step.outputs)


def _tensor_bytes(tensor: keras.KerasTensor) -> int:
    return _size_bytes(elements(tensor), tensor.dtype)


def _size_bytes(count: int, dtype: str) -> int:
    """The bytes of `count` numbers: the number of bits is in the name, `float32`, `float8_e4m3fn`."""
    bits = re.search(r"\d+", dtype)
    return math.ceil(count * int(bits[0]) / 8) if bits else count


def _peak_bytes(run: Replay) -> int:
    """The most bytes of activations alive at once, each from its making to its last reading."""
    steps = [step for step in run.steps if not step.inside]
    last = {id(tensor): now for now, step in enumerate(steps) for tensor in step.outputs + step.inputs}
    last.update((id(tensor), len(steps)) for tensor in run.outputs)
    alive: dict[int, int] = {}
    peak = 0
    for now, step in enumerate(steps):
        alive.update((id(tensor), _tensor_bytes(tensor)) for tensor in step.outputs)
        peak = max(peak, sum(alive.values()))
        alive = {tensor: size for tensor, size in alive.items() if last[tensor] > now}
    return peak


# ------------------------------------------------------------------ for people


def _cells(row: dict) -> list[str]:
    return [cell(row) for _, cell, _ in _COLUMNS]


def _aligned(cells: list[str], widths: list[int]) -> str:
    padded = [
        cell.rjust(width) if is_number else cell.ljust(width)
        for cell, width, (_, _, is_number) in zip(cells, widths, _COLUMNS, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _times(shape: list) -> str:
    """`8x8x3`; several shapes with commas."""
    if shape and isinstance(shape[0], list):
        return ", ".join(map(_times, shape))
    return "x".join("?" if size is None else str(size) for size in shape)


def _amount(count: int | None) -> str:
    """Three digits and a prefix: 6912 is `6.91 k`."""
    if count is None:
        return "?"
    if count < 1000:
        return str(count)
    power = min((len(str(count)) - 1) // 3, 5)
    value = count / 1000**power
    return f"{value:.{max(0, 2 - int(math.log10(value)))}f} {'kMGTP'[power - 1]}"


def _bytes(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{_amount(count)}B"


def _share(part: str, whole: str) -> Callable[[dict], str]:
    return lambda row: f"{100 * row[part] / row[whole]:.1f}%" if row[whole] else ""


# title, cell of a row, whether it is a number
_COLUMNS: list[tuple[str, Callable[[dict], str], bool]] = [
    ("layer", lambda row: row["layer"], False),
    ("kind", lambda row: row["kind"], False),
    ("output", lambda row: _times(row["output_shape"]), False),
    ("params", lambda row: _amount(row["params"]), True),
    ("nonzero", _share("nonzero_params", "params"), True),
    ("MACs", lambda row: _amount(row["macs"]), True),
    ("nonzero", _share("nonzero_macs", "macs"), True),
    ("weights", lambda row: _bytes(row["weight_bytes"]), True),
    ("activations", lambda row: _bytes(row["activation_bytes"]), True),
]
