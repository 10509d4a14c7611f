"""The energy that a model takes on an accelerator that is only described, not there (Yang et al. 2017).

>>> import keras
>>> x = keras.Input((8, 8, 16))
>>> model = keras.Model(x, keras.layers.Conv2D(32, 3, padding="same", name="conv")(x))
>>> found = energy(model)
>>> found.rows[0]["layer"], found.rows[0]["mac"]  # 8*8 positions * 3*3*16*32 weights, one unit each
('conv', 294912.0)
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from rich.table import Table

from tfcompress import _calls, _data
from tfcompress._arrays import to_numpy
from tfcompress._checks import check_choice, check_number, check_whole
from tfcompress._text import plain
from tfcompress.analysis.costs import counts, own_weights, why_uncounted
from tfcompress.analysis.mac_rules import lookup
from tfcompress.analysis.steps import InputShape, Step, elements, replay
from tfcompress.criteria.sites import owners, site
from tfcompress.criteria.taps import run

PARTS = ("mac", "register_file", "array", "buffer", "dram")


@dataclass(frozen=True)
class Hardware:
    """An accelerator with a spatial array of processing elements, as Eyeriss is one.

    Energies are of moving one word, in units of one multiply-accumulate of two words: those of Eyeriss (Chen,
    Emer and Sze 2016, "Eyeriss: A Spatial Architecture for Energy-Efficient Dataflow", table IV). The other
    numbers are those of its row-stationary dataflow for a typical layer, and round: ranks of layers and of
    ways to prune them are what comes out, not joules.

    Args:
        register_file: inside a processing element.
        array: from one element to the next.
        buffer: of the global buffer.
        dram: of the memory outside.
        word_bits: of a word, for which the above holds.
        buffer_bytes: size of the global buffer, half of which holds one kind of data.
        filters_at_once: how many filters the array works on before it reads its inputs again.
        channels_at_once: over how many channels sums are added up before they go to the buffer.
        rows_at_once: how many rows of outputs the array makes before it reads weights again.
        run_bits: what the place of a value takes where zeros are left out.

    Raises:
        ValueError: a number is not positive.
    """

    register_file: float = 1.0
    array: float = 2.0
    buffer: float = 6.0
    dram: float = 200.0
    word_bits: int = 16
    buffer_bytes: int = 108 * 1024
    filters_at_once: int = 16
    channels_at_once: int = 4
    rows_at_once: int = 14
    run_bits: int = 5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_number(f"{name} of the hardware", value, "(0, inf)")

    @classmethod
    def of(cls, source: "Hardware | Mapping[str, Any] | str | os.PathLike | None") -> "Hardware":
        """The hardware itself, or that of a dict, or of a YAML file with some of the names above.

        Raises:
            ValueError: a name or a number is wrong, or the file holds something else.
        """
        if isinstance(source, Hardware):
            return source
        if isinstance(source, (str, os.PathLike)):
            import yaml

            source = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        if source is not None and not isinstance(source, Mapping):
            raise ValueError(f"Hardware is described by names and numbers, got {source!r}.")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in source or {}:
            check_choice("property of the hardware", name, known)
        return cls(**(source or {}))


@dataclass(frozen=True)
class Energy:
    """What `energy` found, in units of one multiply-accumulate of two full words; print it for a table.

    Attributes:
        rows: one dict per kernel, with `layer`, the parts `mac`, `register_file`, `array`, `buffer` and
            `dram`, their sum `total`, and the shares of nonzeros that were taken: `weight_density`,
            `input_density`, `output_density`. Layers follow each other as they run.
        batch: images per run; all numbers are per image.
        uncounted: layer path -> why its energy is not known.
    """

    rows: list[dict]
    batch: int
    uncounted: dict[str, str]

    @property
    def total(self) -> float:
        return sum(row["total"] for row in self.rows)

    @property
    def by_layer(self) -> dict[str, float]:
        """Layer path -> its energy, the hungriest first."""
        found: dict[str, float] = {}
        for row in self.rows:
            found[row["layer"]] = found.get(row["layer"], 0.0) + row["total"]
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def __rich__(self) -> Table:
        table = Table(title=f"Energy per image, {self.batch} at once, in MACs")
        for column in ("layer", *PARTS, "total", "share"):
            table.add_column(column, justify="left" if column == "layer" else "right")
        for row in self.rows:
            cells = [f"{row[part]:.3g}" for part in (*PARTS, "total")]
            table.add_row(row["layer"], *cells, f"{row['total'] / self.total:.1%}")
        for path, reason in self.uncounted.items():
            table.add_row(path, f"[dim]{reason}[/dim]")
        return table

    def __str__(self) -> str:
        return plain(self)


def energy(
    model: keras.Model,
    *,
    data: Any = None,
    batch: int = 1,
    weight_bits: int = 16,
    activation_bits: int = 16,
    hardware: Hardware | Mapping[str, Any] | str | os.PathLike | None = None,
    input_shape: InputShape | None = None,
) -> Energy:
    """Estimates the energy of each layer: of its multiplications, and of moving its data.

    What every word costs follows from how often it is read at each level of the memory (Yang, Chen and Sze
    2017, "Designing Energy-Efficient Convolutional Neural Networks using Energy-Aware Pruning", section 3,
    after Chen et al. 2016). With N images, M filters of C channels and R x S taps, E x F outputs, g groups,
    and words of weights, inputs and outputs `W`, `I`, `O` in compressed form:

        DRAM   = the cheapest of four orders of work, which keep weights, inputs or sums in the buffer, + O
        buffer = I * ceil(M/g / filters_at_once) + W * N * ceil(E / rows_at_once)
                 + 2 * N*M*E*F * (ceil(C/g / channels_at_once) - 1) + O
        array  = I * ceil(M/g / filters_at_once) * min(R, E)
                 + N*M*E*F * ceil(C/g / channels_at_once) * (R - 1)
        register file = MACs of nonzeros * (weight + input + sum read + sum written)

    Energy is linear in the bits of data, and in those of both operands for a multiplication. The paper's own
    estimator, a web page, is gone; this one has the same inputs and the published costs, and what it leaves
    open (which order of work, sizes of tiles) is chosen here and documented above. On dense AlexNet it gives
    convolutions 80 % at 16 images, which is what the Eyeriss paper reports.

    Args:
        model: a functional or Sequential model, built. Zeros of its weights are left out.
        data: images, as `tfcompress.prune` takes them, on which the zeros of activations are counted. Without
            it all activations count as nonzero.
        batch: images that are run together. It matters: weights are read once for all of them.
        weight_bits: of a weight.
        activation_bits: of an activation.
        hardware: a `Hardware`, a dict of some of its properties, or the path of a YAML file of them.
        input_shape: the size of one image, where the model leaves it open; see `macs`.

    Raises:
        ValueError: an argument is wrong, or as `macs`.
    """
    for name, number in {
        "batch": batch,
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
    }.items():
        check_whole(name, number)
    machine = Hardware.of(hardware)
    steps = replay(model, input_shape).steps
    densities = {} if data is None else _densities(model, data)
    rows: list[dict] = []
    uncounted: dict[str, str] = {}
    for step in steps:
        if reason := why_uncounted(step):
            uncounted[step.path] = reason
            continue
        before, after = densities.get(step.path, (1.0, 1.0))
        for _, weight, positions in _kernels(step):
            shape = tuple(weight.shape)
            work = _work(step, _name(weight), shape, positions, _density(weight))
            parts = _parts(work, batch, weight_bits, activation_bits, before, after, machine)
            each = {name: value * step.times / batch for name, value in parts.items()}
            shares = {"weight_density": work.weight_density, "input_density": before, "output_density": after}
            rows.append({"layer": step.path, **each, "total": sum(each.values()), **shares})
    return Energy(rows, batch, uncounted)


Shapes = Mapping[tuple[str, int], tuple[int, ...]]


def energy_by_shapes(
    model: keras.Model,
    *,
    hardware: Hardware | Mapping[str, Any] | str | os.PathLike | None = None,
    input_shape: InputShape | None = None,
) -> Callable[[Shapes], float]:
    """A function from shapes of weights to the energy of the model when it has these.

    As `energy(smaller).total`, without making the smaller model: for searches. Maps keep their sizes, and
    kernels their shares of zeros, which in the smaller model may be others.

    Args:
        model: see `energy`.
        hardware: see `energy`.
        input_shape: see `energy`.

    Returns:
        From (layer path, index in `layer.weights`) -> shape to energy per image.

    >>> x = keras.Input((8, 8, 16))
    >>> model = keras.Model(x, keras.layers.Conv2D(32, 3, name="conv")(x))
    >>> predict = energy_by_shapes(model)
    >>> predict({("conv", 0): (3, 3, 16, 32)}) == energy(model).total
    True
    """
    machine = Hardware.of(hardware)
    found = [
        (step, index, _name(weight), positions, _density(weight))
        for step in replay(model, input_shape).steps
        if not why_uncounted(step)
        for index, weight, positions in _kernels(step)
    ]

    def predict(shapes: Shapes) -> float:
        works = (
            (step.times, _work(step, name, tuple(shapes[step.path, index]), positions, density))
            for step, index, name, positions, density in found
        )
        return sum(times * sum(_parts(work, 1, 16, 16, 1.0, 1.0, machine).values()) for times, work in works)

    return predict


# ------------------------------------------------------------------ how data is moved


@dataclass(frozen=True)
class _Work:
    """The products of one kernel for one image.

    Attributes:
        filters, channels: of the kernel, over all groups.
        groups: that see nothing of each other.
        taps: rows and columns of the kernel.
        positions: rows and columns of places where it is applied.
        inputs: words of the input, with padding.
        outputs: words that are made.
        weight_density: the share of weights that are not zero.
    """

    filters: int
    channels: int
    groups: int
    taps: tuple[int, int]
    positions: tuple[int, int]
    inputs: int
    outputs: int
    weight_density: float

    @property
    def weights(self) -> int:
        return self.filters * (self.channels // self.groups) * math.prod(self.taps)


def _parts(
    work: _Work, batch: int, weight_bits: int, activation_bits: int, before: float, after: float, hw: Hardware
) -> dict[str, float]:
    """The energy of a batch, by level of the memory."""
    word = hw.word_bits
    weights = work.weights * _words(work.weight_density, weight_bits, hw)
    inputs = batch * work.inputs * _words(before, activation_bits, hw)
    outputs = batch * work.outputs * _words(after, activation_bits, hw)
    sums = batch * work.outputs
    rows, _ = work.positions
    macs = batch * work.weights * math.prod(work.positions)
    nonzero_macs = macs * work.weight_density * before
    passes = math.ceil(work.filters / work.groups / hw.filters_at_once)
    rounds = math.ceil(work.channels / work.groups / hw.channels_at_once)
    weight_reads = 0 if rows == 1 else weights * batch * math.ceil(rows / hw.rows_at_once)
    in_buffer = inputs * passes + weight_reads + 2 * sums * (rounds - 1) + outputs
    in_array = inputs * passes * min(work.taps[0], rows) + sums * rounds * (work.taps[0] - 1)
    per_mac = weight_bits / word + activation_bits / word + 2
    return {
        "mac": nonzero_macs * weight_bits * activation_bits / word**2,
        "register_file": hw.register_file * nonzero_macs * per_mac,
        "array": hw.array * in_array,
        "buffer": hw.buffer * in_buffer,
        "dram": hw.dram * (_dram_reads(work, batch, weights, inputs, hw) + outputs),
    }


def _words(density: float, bits: int, hw: Hardware) -> float:
    """Words per value, zeros left out where that is shorter."""
    packed = density * (bits + hw.run_bits) if density < 1 else bits
    return min(bits, packed) / hw.word_bits


def _dram_reads(work: _Work, batch: int, weights: float, inputs: float, hw: Hardware) -> float:
    """Words read from outside in the cheapest order of work."""
    half = hw.buffer_bytes * 8 / hw.word_bits / 2
    places = batch * math.prod(work.positions)
    filters_that_fit, places_that_fit = int(half // places), int(half // work.filters)
    orders = [
        weights + inputs * (1 if inputs <= half else math.ceil(weights / half)),
        inputs + weights * (1 if weights <= half else math.ceil(inputs / half)),
    ]
    if filters_that_fit:  # sums of some filters stay in the buffer
        orders.append(weights + inputs * math.ceil(work.filters / filters_that_fit))
    if places_that_fit:  # sums of some places do
        orders.append(inputs + weights * math.ceil(places / places_that_fit))
    return min(orders)


# ------------------------------------------------------------------ layers


def _kernels(step: Step) -> Iterator[tuple[int, keras.Variable, int]]:
    """The kernels of a call that multiply: (index in `layer.weights`, weight, how often)."""
    rule = lookup(step.operation)
    weights = own_weights(step.operation)
    for index, count in counts(step, rule).items() if rule is not None else ():
        if count(step):
            yield index, weights[index], count(step)


def _work(step: Step, name: str, shape: tuple[int, ...], positions: int, density: float) -> _Work:
    """Of a kernel of this shape, which may be another one than the layer has now."""
    if isinstance(step.operation, _CONVOLUTIONS):
        return _convolution(step, name, shape, density)
    channels = math.prod(shape[:-1])
    ends = elements(step.inputs[0]), elements(step.outputs[0])
    if isinstance(step.operation, layers.Dense):
        ends = positions * channels, positions * shape[-1]
    return _Work(shape[-1], channels, 1, (1, 1), (1, positions), *ends, density)


def _name(weight: keras.Variable) -> str:
    return weight.path.split("/")[-1]


def _density(weight: keras.Variable) -> float:
    kernel = to_numpy(weight)
    return float((kernel != 0).mean()) if kernel.size else 0.0


_TRANSPOSED = tuple(getattr(layers, f"Conv{rank}DTranspose") for rank in (1, 2, 3))
_DEPTHWISE = layers.DepthwiseConv1D, layers.DepthwiseConv2D, layers.SeparableConv1D, layers.SeparableConv2D
_CONVOLUTIONS = layers.Conv1D, layers.Conv2D, layers.Conv3D, *_TRANSPOSED, *_DEPTHWISE


def _convolution(step: Step, name: str, shape: tuple[int, ...], density: float) -> _Work:
    layer, (source, made) = step.operation, (_places(step.inputs[0], step), _places(step.outputs[0], step))
    *taps, channels, filters = shape
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, _TRANSPOSED):
        ends = math.prod(source) * filters, math.prod(made) * channels
        return _Work(channels, filters, 1, _plane(taps), _plane(source), *ends, density)
    if name == "pointwise_kernel":
        ends = math.prod(made) * channels, math.prod(made) * filters
        return _Work(filters, channels, 1, (1, 1), _plane(made), *ends, density)
    if isinstance(layer, _DEPTHWISE):
        groups, filters = channels, channels * filters
    else:
        channels = channels * groups
    steps = zip(made, taps, layer.strides, layer.dilation_rate, strict=True)
    padded = math.prod(
        (count - 1) * stride + (size - 1) * dilation + 1 for count, size, stride, dilation in steps
    )
    words = math.prod(made) * filters
    return _Work(filters, channels, groups, _plane(taps), _plane(made), padded * channels, words, density)


def _places(tensor: Any, step: Step) -> tuple[int, ...]:
    """The axes of positions of a map."""
    first = getattr(step.operation, "data_format", "channels_last") == "channels_first"
    return tuple(tensor.shape[2:] if first else tensor.shape[1:-1])


def _plane(sizes: Any) -> tuple[int, int]:
    """Rows and columns; axes before the last count as rows."""
    *rows, columns = sizes
    return math.prod(rows), columns


# ------------------------------------------------------------------ zeros of activations


def _densities(model: keras.Model, data: Any) -> dict[str, tuple[float, float]]:
    """Layer path -> shares of nonzeros in its first input, and behind its activation function."""
    probe = _Nonzeros(model)
    sums: dict[str, np.ndarray] = {}
    for inputs, _ in _data.batches_for(model, data):
        for path, found in probe.predict_on_batch(inputs).items():
            sums[path] = sums.get(path, 0.0) + found.astype("float64").sum(axis=0)
    return {path: (before / images, after / images) for path, (before, after, images) in sums.items()}


class _Nonzeros(keras.Model):
    def __init__(self, model: keras.Model):
        super().__init__(name="nonzeros")
        self.watched = model
        places = owners(model)
        self._paths = {id(place.operation): path for path, place in places.items()}
        ends = {path: site(place, merged=False) for path, place in places.items()}
        self._ends = {path: (id(end.operation), end.call) for path, end in ends.items()}

    def call(self, inputs: Any) -> dict[str, Any]:
        before: dict[str, Any] = {}
        after: dict[tuple[int, int], Any] = {}

        def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
            outputs = step.operation(*args, **kwargs)
            given = _calls.tensors(args, kwargs)
            path = self._paths.get(id(step.operation))
            if path is not None and given:
                before.setdefault(path, _nonzeros(given[0]))
            after[id(step.operation), step.index] = _nonzeros(keras.tree.flatten(outputs)[0])
            return outputs

        run(self.watched, keras.tree.flatten(inputs), call)
        return {
            path: keras.ops.stack([share, after[self._ends[path]], keras.ops.ones_like(share)], axis=-1)
            for path, share in before.items()
            if self._ends[path] in after
        }


def _nonzeros(tensor: Any) -> Any:
    """`(batch,)`: the share of each image's numbers that are not zero."""
    flags = keras.ops.cast(tensor != 0, "float32")
    axes = tuple(range(1, len(flags.shape)))
    return keras.ops.mean(flags, axis=axes) if axes else flags
