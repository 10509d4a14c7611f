"""Plans with options, and maps in tiles, as `sparse_conv.h` tells of them."""

import ctypes
import functools

import core
import numpy as np

LANES = 16
_POINTER = ctypes.c_void_p


class Tiles(ctypes.Structure):
    """`tfc_tiles`."""

    _fields_ = [(name, ctypes.c_int32) for name in ("rows", "columns", "lane_rows")]

    @property
    def lanes(self) -> tuple[int, int]:
        return self.lane_rows, LANES // self.lane_rows

    @property
    def region(self) -> tuple[int, int]:
        """Pixels of a region."""
        return self.rows * self.lanes[0], self.columns * self.lanes[1]


class Options(ctypes.Structure):
    """`tfc_options`."""

    _fields_ = [
        ("kernel", ctypes.c_char_p),
        ("tiles", Tiles),
        *((f"tiled_{name}", ctypes.c_int32) for name in ("input", "residual", "output")),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    lib = core.library()
    lib.tfc_plan_create_with.argtypes = [_POINTER] * 3 + [ctypes.c_int32] + [_POINTER] * 2
    lib.tfc_plan_run_with.argtypes = [_POINTER] * 4 + [ctypes.c_int32] * 2
    lib.tfc_plan_tiles.argtypes, lib.tfc_plan_tiles.restype = [_POINTER], Tiles
    lib.tfc_tiled_floats.argtypes = [_POINTER] + [ctypes.c_int32] * 3
    lib.tfc_tiled_floats.restype = ctypes.c_int64
    return lib


def create(
    shape, weights, bias=None, activation=None, kernel: str | None = None, **options
) -> tuple[int, _POINTER]:
    """The status and the plan."""
    weights, plan = core.Weights.of(weights), _POINTER()
    given = Options(kernel=None if kernel is None else kernel.encode(), **options)
    return library().tfc_plan_create_with(
        ctypes.byref(shape),
        ctypes.byref(weights),
        core.pointer(bias),
        core.ACTIVATIONS[activation],
        ctypes.byref(given),
        ctypes.byref(plan),
    ), plan


def run(plan, x, residual, out, threads: int = 1) -> int:
    return library().tfc_plan_run_with(plan, *map(core.pointer, (x, residual, out)), len(x), threads)


def tiled(images: np.ndarray, tiles: Tiles) -> np.ndarray:
    """(batch, regions, channels, rows, columns, lanes), flat but for the batch; NaNs off the map."""
    batch, height, width, channels = images.shape
    regions = -(-height // tiles.region[0]), -(-width // tiles.region[1])
    more = regions[0] * tiles.region[0] - height, regions[1] * tiles.region[1] - width
    padded = np.pad(images, [(0, 0), (0, more[0]), (0, more[1]), (0, 0)], constant_values=np.nan)
    parts = padded.reshape(
        batch, regions[0], tiles.lanes[0], tiles.rows, regions[1], tiles.lanes[1], tiles.columns, channels
    )
    return aligned(parts.transpose(0, 1, 4, 7, 3, 6, 2, 5).reshape(batch, -1))


def untiled(flat: np.ndarray, tiles: Tiles, shape: tuple[int, ...]) -> np.ndarray:
    """The images again."""
    batch, height, width, channels = shape
    regions = -(-height // tiles.region[0]), -(-width // tiles.region[1])
    parts = flat.reshape(batch, *regions, channels, tiles.rows, tiles.columns, *tiles.lanes)
    padded = parts.transpose(0, 1, 6, 4, 2, 7, 5, 3)
    return padded.reshape(batch, regions[0] * tiles.region[0], -1, channels)[:, :height, :width]


def aligned(values: np.ndarray) -> np.ndarray:
    """A copy that begins at a cache line."""
    memory = np.empty(values.size + LANES, "float32")
    start = -memory.ctypes.data % 64 // 4
    copy = memory[start : start + values.size].reshape(values.shape)
    copy[...] = values
    return copy
