"""The core of the package, called through ctypes."""

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tfcompress import _native

SOURCES = Path(__file__).parents[1] / "core"
OK, BAD_ARGUMENT, BAD_SHAPE, NOT_FINITE, TOO_LARGE, NOT_ON_THIS_CPU, NO_MEMORY = range(7)
ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2}
_FIELDS = (
    "height width channels filters kernel_height kernel_width stride_height stride_width "
    "dilation_height dilation_width pad_top pad_bottom pad_left pad_right groups"
).split()
_POINTER = ctypes.c_void_p


class Shape(ctypes.Structure):
    """`tfc_shape`; what is not given is 1, paddings 0."""

    _fields_ = [(name, ctypes.c_int32) for name in _FIELDS]

    def __init__(self, **sizes: int):
        default = {name: 0 if name.startswith("pad") else 1 for name in _FIELDS}
        super().__init__(**{**default, **sizes})

    @property
    def weights(self) -> tuple[int, ...]:
        return self.kernel_height, self.kernel_width, self.channels // self.groups, self.filters


class Weights(ctypes.Structure):
    """`tfc_weights`, which keeps the arrays alive."""

    _fields_ = [("count", ctypes.c_int64), ("indices", _POINTER), ("values", _POINTER)]

    def __init__(self, indices: np.ndarray, values: np.ndarray, dtype: str = "float32"):
        self.arrays = np.ascontiguousarray(indices, "int32"), np.ascontiguousarray(values, dtype)
        super().__init__(len(indices), *map(pointer, self.arrays))

    @classmethod
    def of(cls, dense: np.ndarray) -> "Weights":
        """Those that are not zero."""
        indices = np.flatnonzero(dense)
        return cls(indices, dense.ravel()[indices])


def file() -> Path:
    """The library, which must not be older than its sources."""
    found = _native.path("core")
    if found is None:
        pytest.skip("the native libraries were not built: `make ops`, with a C++ compiler, does it")
    sources = (path for path in SOURCES.iterdir() if path.suffix in (".cc", ".h", ".inl"))
    newest = max(sources, key=lambda path: path.stat().st_mtime)
    assert newest.stat().st_mtime <= found.stat().st_mtime, f"{newest.name} is newer: run `make ops`"
    return found


@functools.cache
def library() -> ctypes.CDLL:
    core = ctypes.CDLL(str(file()))
    for name in ("tfc_kernel_name", "tfc_plan_kernel", "tfc_status_message"):
        getattr(core, name).restype = ctypes.c_char_p
    number, text = ctypes.c_int32, ctypes.c_char_p
    core.tfc_plan_kernel.argtypes = core.tfc_plan_destroy.argtypes = [_POINTER]
    core.tfc_output_size.argtypes = [_POINTER] * 3
    core.tfc_plan_create.argtypes = [_POINTER, _POINTER, _POINTER, number, text, _POINTER]
    core.tfc_plan_with_values.argtypes = [_POINTER] * 4
    core.tfc_plan_run.argtypes = [_POINTER, _POINTER, _POINTER, number, number]
    core.tfc_int8_kernel_name.restype = text
    core.tfc_int8_plan_create.argtypes = [*[_POINTER] * 5, text, _POINTER]
    core.tfc_int8_plan_run.argtypes = [*[_POINTER] * 4, number, number]
    core.tfc_int8_reference.argtypes = [_POINTER] * 6 + [number]
    core.tfc_reference.argtypes = [_POINTER, _POINTER, _POINTER, number, _POINTER, _POINTER, number]
    return core


def compiled(kind: str = "") -> list[str]:
    """The kernels in the library, best first; of kind "int8_", those for maps in int8."""
    name_at, found = getattr(library(), f"tfc_{kind}kernel_name"), []
    while name := name_at(len(found)):
        found.append(name.decode())
    return found


def kernels(kind: str = "") -> list[str]:
    """Those that this processor supports."""
    supported = getattr(library(), f"tfc_{kind}kernel_supported")
    return [name for index, name in enumerate(compiled(kind)) if supported(index)]


def pointer(array: np.ndarray | None) -> _POINTER | None:
    return None if array is None else array.ctypes.data_as(_POINTER)


def output_shape(shape: Shape) -> tuple[int, int, int]:
    height, width = ctypes.c_int32(), ctypes.c_int32()
    status = library().tfc_output_size(ctypes.byref(shape), ctypes.byref(height), ctypes.byref(width))
    if status != OK:
        raise ValueError(library().tfc_status_message(status).decode())
    return height.value, width.value, shape.filters


def create(shape, weights, bias=None, activation=None, kernel: str | None = None) -> tuple[int, _POINTER]:
    """The status and the plan; weights may be dense."""
    weights = Weights.of(weights) if isinstance(weights, np.ndarray) else weights
    plan = _POINTER()
    name = None if kernel is None else kernel.encode()
    number = ACTIVATIONS.get(activation, activation)
    at = None if shape is None else ctypes.byref(shape)
    given = None if weights is None else ctypes.byref(weights)
    arguments = at, given, pointer(bias), number, name, ctypes.byref(plan)
    return library().tfc_plan_create(*arguments), plan


def convolve(
    shape: Shape, weights, bias, activation, x: np.ndarray, kernel: str | None = None, threads: int = 1
) -> np.ndarray:
    status, plan = create(shape, weights, bias, activation, kernel)
    assert status == OK, library().tfc_status_message(status)
    return run(plan, shape, x, threads)


def run(plan: _POINTER, shape: Shape, x: np.ndarray, threads: int = 1) -> np.ndarray:
    """Runs a plan, and destroys it."""
    out = np.full((len(x), *output_shape(shape)), np.nan, "float32")
    try:
        assert library().tfc_plan_run(plan, pointer(x), pointer(out), len(x), threads) == OK
    finally:
        library().tfc_plan_destroy(plan)
    return out


def reference(shape: Shape, weights, bias, activation, x: np.ndarray) -> np.ndarray:
    out = np.full((len(x), *output_shape(shape)), np.nan, "float32")
    arguments = pointer(weights), pointer(bias), ACTIVATIONS[activation], pointer(x), pointer(out), len(x)
    assert library().tfc_reference(ctypes.byref(shape), *arguments) == OK
    return out


class Requantization(ctypes.Structure):
    """`tfc_requantization`, which keeps its scales alive."""

    _fields_ = [(name, ctypes.c_int32) for name in ("input_zero", "output_zero", "low", "high")]
    _fields_.append(("scales", _POINTER))

    def __init__(self, scales: np.ndarray, input_zero=0, output_zero=0, low=-128, high=127):
        self.array = np.ascontiguousarray(scales, "float32")
        super().__init__(input_zero, output_zero, low, high, pointer(self.array))


class Addition(ctypes.Structure):
    """`tfc_addition`."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("bias", "output_multiplier", "residual_multiplier", "shift", "zero", "low", "high")
    ]

    def to(self, outputs: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """The sums."""
        y, r = outputs.astype("int64"), residual.astype("int64")
        scaled = (self.bias + self.output_multiplier * y + self.residual_multiplier * r) >> self.shift
        return np.clip(scaled + self.zero, self.low, self.high).astype("int8")


class Counts(ctypes.Structure):
    """`tfc_weight_counts`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("weights", "halves", "quarters", "blocks")),
        ("channels", ctypes.c_int32),
    ]


class Int8Convolution(NamedTuple):
    """What a convolution in int8 is made from; weights are dense."""

    shape: Shape
    weights: np.ndarray
    bias: np.ndarray | None
    requantization: Requantization
    addition: Addition | None = None

    def plan(self, kernel: str | None = None) -> tuple[int, _POINTER]:
        """The status and the plan."""
        plan, name = _POINTER(), None if kernel is None else kernel.encode()
        given = self._given()
        shape, requantization = map(ctypes.byref, (self.shape, self.requantization))
        addition = None if self.addition is None else ctypes.byref(self.addition)
        numbers = ctypes.byref(given), pointer(self.bias), requantization, addition
        return library().tfc_int8_plan_create(shape, *numbers, name, ctypes.byref(plan)), plan

    def run(
        self, x: np.ndarray, kernel: str | None = None, threads: int = 1, residual: np.ndarray | None = None
    ) -> np.ndarray:
        status, plan = self.plan(kernel)
        assert status == OK, library().tfc_status_message(status)
        out = np.full((len(x), *output_shape(self.shape)), 99, "int8")
        try:
            maps = pointer(x), pointer(residual), pointer(out)
            assert library().tfc_int8_plan_run(plan, *maps, len(x), threads) == OK
        finally:
            library().tfc_plan_destroy(plan)
        return out

    def counts(self) -> Counts:
        counts, given = Counts(), self._given()
        count = library().tfc_int8_count_weights
        assert count(*map(ctypes.byref, (self.shape, given, counts))) == OK
        return counts

    def _given(self) -> Weights:
        indices = np.flatnonzero(self.weights)
        return Weights(indices, self.weights.ravel()[indices], "int8")

    def reference(self, x: np.ndarray) -> np.ndarray:
        out = np.full((len(x), *output_shape(self.shape)), 99, "int8")
        weights = np.ascontiguousarray(self.weights)
        given = (
            pointer(weights),
            pointer(self.bias),
            ctypes.byref(self.requantization),
            pointer(x),
            pointer(out),
        )
        assert library().tfc_int8_reference(ctypes.byref(self.shape), *given, len(x)) == OK
        return out
