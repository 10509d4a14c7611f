"""How long a convolution takes on this machine, dense and with the zeros of its kernel left out.

>>> shape = ConvShape(height=28, width=28, channels=64, filters=64, kernel_size=(3, 3))
>>> if _native.path("core"):
...     found = predict(shape, weights=shape.weights // 20)  # 95 % of the weights are zero
...     assert found.sparse_ms < found.dense_ms
"""

import ctypes
import functools
import hashlib
import json
import math
import os
import pathlib
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tfcompress import _native
from tfcompress._checks import check_choice, check_whole, is_whole

_POINTWISE: dict[str, Any] = {
    "kernel_size": (1, 1),
    "strides": (1, 1),
    "dilation_rate": (1, 1),
    "padding": "valid",
    "groups": 1,
}
_STEPS = 23
_LANES = 16  # filters of a block
_MOST = 2**31 - 1  # of what the core counts in 32 bits
DTYPES = {"float32": 1, "int8": 4}  # neighbouring channels that one step multiplies
_OK = 0


@dataclass(frozen=True)
class ConvShape:
    """The sizes of a convolution of images `(height, width, channels)`.

    A dense layer is one of `kernel_size=(1, 1)` over maps of one pixel.

    Raises:
        ValueError: a size is no whole number of at least 1, or groups do not divide.
    """

    height: int
    width: int
    channels: int
    filters: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilation_rate: tuple[int, int] = (1, 1)
    padding: str = "same"
    groups: int = 1

    def __post_init__(self) -> None:
        check_choice("padding", self.padding, ("same", "valid"))
        for name in ("height", "width", "channels", "filters", "groups"):
            check_whole(name, getattr(self, name), 1, _MOST)
        for name in ("kernel_size", "strides", "dilation_rate"):
            value = getattr(self, name)
            if (
                not isinstance(value, Sequence)
                or len(value) != 2
                or not all(is_whole(size, 1, _MOST) for size in value)
            ):
                raise ValueError(f"{name} must be two whole numbers from 1 to {_MOST}, got {value!r}.")
        if self.channels % self.groups or self.filters % self.groups:
            raise ValueError(
                f"groups={self.groups} must divide channels={self.channels} and filters={self.filters}."
            )

    @classmethod
    def of(cls, layer: Any, input_shape: Sequence[int]) -> "ConvShape":
        """That of a built `Conv2D` or `Dense` on inputs of this shape, of which the batch does not matter.

        A `Dense` on vectors treats them as pixels: those of `(batch, n, channels)` as a row of n.
        """
        height, width = input_shape[1:3] if len(input_shape) == 4 else (1, math.prod(input_shape[1:-1]))
        steps = {name: getattr(layer, name, default) for name, default in _POINTWISE.items()}
        return cls(height, width, input_shape[-1], layer.kernel.shape[-1], **steps)

    @property
    def weights(self) -> int:
        """How many weights the kernel has."""
        return int(np.prod(self.kernel_size)) * (self.channels // self.groups) * self.filters


@dataclass(frozen=True)
class Cost:
    """Predicted times for one image, in milliseconds: dense as XNNPACK would compute it, and sparse."""

    dense_ms: float
    sparse_ms: float


@dataclass(frozen=True)
class Window:
    """The sparsities between which leaving out zeros pays.

    From `lower` on, the sparse convolution is faster than the dense one. At `upper`, half of its time goes
    where no weight is multiplied, so that more zeros make it less than twice as fast.
    """

    lower: float
    upper: float


@dataclass(frozen=True)
class Machine:
    """What was measured of this machine.

    Attributes:
        dense: multiply-adds per second of a dense convolution, on one thread.
        steps: seconds for each kind of step of a sparse one, in the order of `Cost` in
            `custom_ops/core/tiling.h`.
    """

    dense: float
    steps: tuple[float, ...]

    @property
    def option(self) -> str:
        """As the delegate takes it."""
        return ",".join(repr(number) for number in (self.dense, *self.steps))


def predict(
    shape: ConvShape,
    kernel: Any = None,
    *,
    weights: int | None = None,
    threads: int = 1,
    dtype: str = "float32",
) -> Cost:
    """Predicts how long a convolution takes, dense and sparse.

    The prediction counts the steps of the sparse convolution, as its plan would have them (loads, multiply-
    adds, what brings pixels into lanes and back), and multiplies each by what it takes on this machine,
    `measure_machine`. Dense it is the multiply-adds of full tiles at 95 % of the processor's speed, which
    is what XNNPACK reaches, or what reading the weights takes where that is longer: weights that fit in the
    second-level cache count as read. In int8 it is what XNNPACK was seen to take per multiply-add and per
    entry of its maps.

    Args:
        shape: the convolution.
        kernel: `(kernel_height, kernel_width, channels / groups, filters)`, whose entries that are not zero
            are counted. Or
        weights: how many are not zero, at random places.
        threads: how many threads would compute.
        dtype: of maps and weights, "float32" or "int8".

    Raises:
        ValueError: the kernel does not fit the shape, it has fewer weights, the shape makes no
            convolution, or the dtype is another.
        RuntimeError: the native core was not built.
    """
    check_choice("dtype", dtype, DTYPES)
    if kernel is not None:
        kernel = np.asarray(kernel)
        expected = (*shape.kernel_size, shape.channels // shape.groups, shape.filters)
        if kernel.shape != expected:
            raise ValueError(f"The kernel of {shape} must have the shape {expected}, got {kernel.shape}.")
        counts = _counted(shape, kernel, dtype)
    elif not is_whole(weights, 0, shape.weights):
        raise ValueError(
            f"predict needs a kernel, or how many of {shape.weights} weights are not zero, got {weights!r}."
        )
    else:
        counts = _at_random(shape, weights, dtype)
    check_whole("threads", threads)
    found = _predict(shape, counts, int(threads), measure_machine(dtype), dtype)
    return Cost(1000 * found.dense_seconds, 1000 * found.sparse_seconds)


def useful_window(shape: ConvShape, *, threads: int = 1) -> Window | None:
    """Returns the sparsities between which leaving out zeros pays; None if there are none.

    Park et al. bound the fraction x of weights that stay: it is useful between x_lo, below which memory
    traffic takes longer than the multiplications, and x_hi, above which the dense convolution is faster.
    Here both follow from the predicted time of the sparse convolution, t(x): t(x_hi) is that of the dense
    one, and t(x_lo) = 2 t(0), where half of the time does not depend on weights. The window is from
    1 - x_hi to 1 - x_lo.

    Reference: Park et al., Faster CNNs with Direct Sparse Convolutions and Guided Pruning, ICLR 2017,
    section 3 (eq. 2 and 3).
    """

    def sparse_ms(weights: int) -> float:
        return predict(shape, weights=weights, threads=threads).sparse_ms

    dense_ms = predict(shape, weights=0, threads=threads).dense_ms
    fixed_ms = sparse_ms(0)
    most = _most_weights(shape, lambda weights: sparse_ms(weights) < dense_ms)
    least = _most_weights(shape, lambda weights: sparse_ms(weights) < 2 * fixed_ms)
    return Window(1 - most / shape.weights, 1 - least / shape.weights) if least < most else None


def _most_weights(shape: ConvShape, holds: Callable[[int], bool]) -> int:
    """The largest number of weights for which it holds, as it does for all smaller ones; or 0."""
    low, high = 0, shape.weights + 1  # holds at low, not at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@functools.cache
def measure_machine(dtype: str = "float32") -> Machine:
    """Returns how fast this machine is, from a file of an earlier measurement, else measured.

    The file is in the user's cache folder (`$XDG_CACHE_HOME`, else `~/.cache`), one for each kind of
    processor and build of the core, so that all processes decide alike. Delete it to measure again.

    Raises:
        ValueError: the dtype is neither "float32" nor "int8".
        RuntimeError: the native core was not built.
    """
    check_choice("dtype", dtype, DTYPES)
    _core()
    file = _cache_file(dtype)
    known = _read(file)
    if known is not None:
        return known
    machine = measure(dtype)
    _write(file, machine)
    return machine


def measure(dtype: str = "float32") -> Machine:
    """Measures this machine now, which takes some tenths of a second.

    Raises:
        ValueError: the dtype is neither "float32" nor "int8".
        RuntimeError: the native core was not built.
    """
    check_choice("dtype", dtype, DTYPES)
    found = _Machine()
    _check(_function(dtype, "measure_machine")(None, ctypes.byref(found)))
    return Machine(found.dense, tuple(found.steps))


def kernels(dtype: str = "float32") -> list[str]:
    """Returns the names of the native kernels that this processor can run, best first.

    `"lanes_..."` leave out any weights, `"blocks_..."` blocks of 16 filters; the rest of the name tells the
    instructions they need. In int8 all have four input channels for one, and names begin with `"int8_"`;
    `"int8_pairs_..."` and `"int8_quads_..."` have two of them, and one, as `"int8_lanes_..."` have four, and
    `"int8_lanes_avx512amx"` leaves out what none of 16 filters has.

    Raises:
        ValueError: the dtype is neither "float32" nor "int8".
        RuntimeError: the native core was not built.
    """
    check_choice("dtype", dtype, DTYPES)
    found: list[str] = []
    while name := _function(dtype, "kernel_name")(len(found)):
        found.append(name.decode())
    supported = _function(dtype, "kernel_supported")
    return [name for index, name in enumerate(found) if supported(index)]


# ------------------------------------------------------------------ the C interface, custom_ops/core


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            "height width channels filters kernel_height kernel_width stride_height stride_width "
            "dilation_height dilation_width pad_top pad_bottom pad_left pad_right groups"
        ).split()
    ]

    @classmethod
    def of(cls, shape: ConvShape) -> "_Shape":
        sizes = shape.height, shape.width, shape.channels, shape.filters
        steps = *shape.kernel_size, *shape.strides, *shape.dilation_rate
        made = cls(*map(int, (*sizes, *steps, 0, 0, 0, 0, shape.groups)))
        if shape.padding == "same":
            _check(_core().tfc_pad_same(ctypes.byref(made)), f"{shape}: ")
        return made


class _Tiles(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("rows", "columns", "lane_rows")]


class _Options(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_char_p),
        ("tiles", _Tiles),
        *((f"tiled_{name}", ctypes.c_int32) for name in ("input", "residual", "output")),
    ]


class _Machine(ctypes.Structure):
    _fields_ = [("dense", ctypes.c_double), ("steps", ctypes.c_double * _STEPS)]


class _Counts(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("weights", "halves", "quarters", "blocks")),
        ("channels", ctypes.c_int32),
    ]


class _Weights(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int64), ("indices", ctypes.c_void_p), ("values", ctypes.c_void_p)]


class _Prediction(ctypes.Structure):
    _fields_ = [
        *((f"{name}_seconds", ctypes.c_double) for name in ("dense", "sparse", "alone", "wake")),
        ("kernel", ctypes.c_char_p),
        ("tiles", _Tiles),
    ]


@functools.cache
def _core() -> ctypes.CDLL:
    path = _native.path("core")
    if path is None:
        raise RuntimeError(
            "The native core of tfcompress was not built, so no time can be predicted. Install a C++ "
            "compiler and tfcompress again."
        )
    try:
        core = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError(f"The native core of tfcompress does not load: {error}.") from error
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    core.tfc_predict.argtypes = [pointer, pointer, pointer, pointer, number, pointer]
    core.tfc_count_weights.argtypes = [pointer, pointer, pointer]
    core.tfc_pad_same.argtypes = [pointer]
    core.tfc_int8_predict.argtypes = [pointer, pointer, ctypes.c_char_p, pointer, number, pointer]
    core.tfc_int8_count_weights.argtypes = [pointer, pointer, pointer]
    core.tfc_measure_machine.argtypes = core.tfc_int8_measure_machine.argtypes = [ctypes.c_char_p, pointer]
    core.tfc_status_message.restype = ctypes.c_char_p
    core.tfc_kernel_name.restype = core.tfc_int8_kernel_name.restype = ctypes.c_char_p
    return core


def _function(dtype: str, name: str) -> Any:
    return getattr(_core(), f"tfc_{name}" if dtype == "float32" else f"tfc_{dtype}_{name}")


def _counted(shape: ConvShape, kernel: np.ndarray, dtype: str) -> _Counts:
    indices, counts = np.flatnonzero(kernel).astype("int32"), _Counts()
    values = np.ones(len(indices), dtype)  # only places count
    weights = _Weights(len(indices), indices.ctypes.data, values.ctypes.data)
    status = _function(dtype, "count_weights")(
        ctypes.byref(_Shape.of(shape)), ctypes.byref(weights), ctypes.byref(counts)
    )
    _check(status, f"{shape}: ")
    return counts


def _at_random(shape: ConvShape, weights: int, dtype: str) -> _Counts:
    """What is expected of so many weights: a word, or a block of 16, stays where any of its weights does."""
    density = min(weights / max(shape.weights, 1), 1.0)
    depth = DTYPES[dtype]

    def together(entries: int) -> int:
        return round(shape.weights / entries * (1 - (1 - density) ** entries))

    parts = (weights, 0, 0) if depth == 1 else (together(depth), together(depth // 2), weights)
    return _Counts(*parts, together(depth * _LANES), -(-shape.channels // depth))


def _predict(shape: ConvShape, counts: _Counts, threads: int, machine: Machine, dtype: str) -> _Prediction:
    found, options = _Prediction(), _Options()
    given = _Machine(machine.dense, (ctypes.c_double * _STEPS)(*machine.steps))
    status = _function(dtype, "predict")(
        ctypes.byref(_Shape.of(shape)),
        ctypes.byref(counts),
        ctypes.byref(options) if dtype == "float32" else None,
        ctypes.byref(given),
        threads,
        ctypes.byref(found),
    )
    _check(status, f"{shape}, {counts.weights} weights, {threads} threads: ")
    return found


def _check(status: int, what: str = "") -> None:
    if status != _OK:
        raise ValueError(f"{what}{_core().tfc_status_message(status).decode()}.")


# ------------------------------------------------------------------ the file of the measurement


def _cache_file(dtype: str) -> pathlib.Path:
    folder = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    path = _native.path("core")
    assert path is not None
    build = hashlib.sha256(path.read_bytes() + _processor().encode()).hexdigest()[:16]
    return pathlib.Path(folder, "tfcompress", f"machine-{dtype}-{build}.json")


def _processor() -> str:
    """Its name, as the system tells it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "model\t", "cpu family", "stepping", "CPU part", "CPU implementer", "flags")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))


def _read(file: pathlib.Path) -> Machine | None:
    try:
        content = json.loads(file.read_text())
        machine = Machine(float(content["dense"]), tuple(map(float, content["steps"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    numbers: Sequence[float] = (machine.dense, *machine.steps)
    sound = len(machine.steps) == _STEPS and machine.dense > 0
    return machine if sound and all(0 <= number < float("inf") for number in numbers) else None


def _write(file: pathlib.Path, machine: Machine) -> None:
    """Where the folder cannot be written to, each process measures for itself."""
    content = {field.name: getattr(machine, field.name) for field in fields(machine)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as temporary:
            json.dump(content, temporary)
        pathlib.Path(temporary.name).replace(file)
    except OSError:
        return
