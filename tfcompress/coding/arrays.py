"""Arrays of any kind in few bytes, by whatever coding takes the fewest, and back bit for bit.

>>> rng = np.random.default_rng(0)
>>> kernel = np.where(rng.random((100, 50)) < 0.1, rng.choice([-0.5, 0.25], (100, 50)), 0)
>>> kernel = kernel.astype("float32")  # one entry in ten is not zero, and these have two values
>>> coded = encode(kernel)
>>> coded.kind, kernel.nbytes, coded.bytes < 400
('table', 20000, True)
>>> bool((decode(coded, kernel.shape, kernel.dtype) == kernel).all())
True

What counts is the pattern of bits of an entry: -0.0 and every NaN come back as they were.
"""

import functools
import lzma
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfcompress.coding import ans, gaps, huffman

MAX_VALUES = 4095  # of a table, beside zero
SMALL = 2**15  # bytes, of which all codings are tried
_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 6 | lzma.PRESET_EXTREME, "dict_size": 2**20}]


@dataclass(frozen=True)
class Coded:
    """An array as streams of bytes.

    Attributes:
        kind: of the coding, a key of `KINDS`.
        streams: what it made.
        settings: whole numbers and names that decoding needs.
    """

    kind: str
    streams: list[bytes]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(map(len, self.streams))


def encode(array: np.ndarray) -> Coded:
    """The smallest that the codings make of an array."""
    best = None
    for name, entries, order in _tries(array):
        limit = math.inf if best is None else best.bytes
        for streams, settings in KINDS[name].encode(entries, limit):
            made = Coded(name, streams, {**settings, "order": order})
            best = made if made.bytes < limit else best
    assert best is not None, "one takes every array"
    return best


def candidates(array: np.ndarray) -> Iterator[Coded]:
    """All that the codings make of an array that are worth a try."""
    for name, entries, order in _tries(array):
        for streams, settings in KINDS[name].encode(entries, math.inf):
            yield Coded(name, streams, {**settings, "order": order})


def _tries(array: np.ndarray) -> Iterator[tuple[str, "Entries", list[int]]]:
    """Codings, entries, and the order of axes in which these lie; of a big array, what can be smallest."""
    for order in _orders(array.ndim):
        entries = Entries.of(np.ascontiguousarray(array.transpose(order)))
        big = OF_MANY_VALUES if entries.codes is None else OF_FEW_VALUES
        for name in KINDS if entries.patterns.nbytes <= SMALL else big:
            yield name, entries, order


def decode(coded: Coded, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The array.

    Raises:
        ValueError: the streams are not of such an array.
    """
    if coded.kind not in KINDS:
        raise ValueError(f"There is no coding '{coded.kind}': the file is of a newer version, or damaged.")
    dtype, count = np.dtype(dtype), math.prod(shape)
    try:
        order = _checked_order(coded.settings.get("order", range(len(shape))), len(shape))
        patterns = KINDS[coded.kind].decode(coded, count, np.dtype(f"u{dtype.itemsize}"))
    except (KeyError, IndexError, TypeError, lzma.LZMAError, OverflowError) as error:
        raise ValueError(f"The streams of a {coded.kind} are damaged: {error!r}.") from error
    if len(patterns) != count:
        raise ValueError(f"The streams hold {len(patterns)} entries, not the {count} of the shape {shape}.")
    if not shape:
        return patterns.view(dtype)[0]
    moved = [shape[axis] for axis in order]
    return patterns.view(dtype).reshape(moved).transpose(np.argsort(order))


def _checked_order(given: Any, axes: int) -> list[int]:
    order = [int(axis) for axis in given]
    if sorted(order) != list(range(axes)):
        raise ValueError(f"The order of axes {order} does not fit {axes} axes.")
    return order


def _orders(axes: int) -> list[list[int]]:
    """As it is, and with the outputs first, so that what one filter sees lies together."""
    plain = list(range(axes))
    return [plain, [axes - 1, *plain[:-1]]] if axes > 1 else [plain]


@dataclass(frozen=True)
class Entries:
    """The entries of an array, one behind the other, as patterns of bits."""

    patterns: np.ndarray

    @classmethod
    def of(cls, array: np.ndarray) -> "Entries":
        return cls(array.reshape(-1).view(f"u{array.dtype.itemsize}"))

    @functools.cached_property
    def codes(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The different patterns but zero, and for each entry the number of its own, from 1; 0 for zero.

        None where there are too many for a table.
        """
        values = _different(self.patterns) if len(self.patterns) > 1 else None
        if values is None:
            return None
        codes = (np.searchsorted(values, self.patterns) + 1).astype(np.min_scalar_type(len(values) + 1))
        codes[self.patterns == 0] = 0
        return values, codes


Made = Iterator[tuple[list[bytes], dict[str, Any]]]


@dataclass(frozen=True)
class _Kind:
    encode: Callable[[Entries, float], Made]  # nothing, if that is known to take more bytes than this
    decode: Callable[[Coded, int, np.dtype], np.ndarray]


# ------------------------------------------------------------------ as they are


def _raw(entries: Entries, limit: float) -> Made:
    yield [entries.patterns.tobytes()], {}


def _from_raw(coded: Coded, count: int, dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(coded.streams[0], dtype)


def _planes(entries: Entries, limit: float) -> Made:
    """The first bytes of all entries, then the second ones, ...: exponents are alike, and pack well."""
    streams, ways = _packed(entries.patterns)
    yield streams, {"planes": ways}


def _packed(patterns: np.ndarray) -> tuple[list[bytes], list[str]]:
    """A stream for each plane, and the way in which it is packed."""
    planes = patterns.view(np.uint8).reshape(len(patterns), patterns.itemsize).T
    made = [_packed_plane(np.ascontiguousarray(plane)) for plane in planes]
    return [stream for stream, _ in made], [way for _, way in made]


def _packed_plane(plane: np.ndarray) -> tuple[bytes, str]:
    found = {way: PLANES[way][0](plane) for way in _ways(plane)}
    way = min(found, key=lambda way: len(found[way]))
    return found[way], way


def _ways(plane: np.ndarray) -> list[str]:
    """What is worth a try: all, or of a long plane what does best with its beginning."""
    if len(plane) <= SMALL:
        return list(PLANES)
    sizes = {way: len(pack(plane[:SMALL])) for way, (pack, _) in PLANES.items()}
    return ["raw", min(sizes, key=lambda way: sizes[way])]


def _from_planes(coded: Coded, count: int, dtype: np.dtype) -> np.ndarray:
    return _unpacked(coded.streams, coded.settings["planes"], count, dtype)


def _unpacked(streams: list[bytes], ways: list[str], count: int, dtype: np.dtype) -> np.ndarray:
    if len(streams) != len(ways) or len(ways) != dtype.itemsize:
        raise ValueError(f"{len(streams)} streams make no planes of {dtype}.")
    planes = [PLANES[way][1](stream, count) for stream, way in zip(streams, ways, strict=True)]
    if any(len(plane) != count for plane in planes):
        raise ValueError("The stream is cut off, or too long.")
    return np.stack(planes, axis=1).view(dtype).reshape(-1)


def _unpacked_lzma(stream: bytes, count: int) -> np.ndarray:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)
    content = decoder.decompress(stream, max_length=count)
    while len(content) < count and not (decoder.needs_input or decoder.eof):
        content += decoder.decompress(b"", max_length=count - len(content))
    return np.frombuffer(content, np.uint8)


PLANES: dict[str, tuple[Callable[[np.ndarray], bytes], Callable[[bytes, int], np.ndarray]]] = {
    "raw": (lambda plane: plane.tobytes(), lambda stream, _: np.frombuffer(stream, np.uint8)),
    "arithmetic": (
        lambda plane: ans.encode(plane, 256),
        lambda stream, count: ans.decode(stream, 256, count),
    ),
    "lzma": (
        lambda plane: lzma.compress(plane.tobytes(), lzma.FORMAT_RAW, filters=_LZMA),
        _unpacked_lzma,
    ),
}


# ------------------------------------------------------------------ zeros apart


def _sparse(entries: Entries, limit: float) -> Made:
    live = entries.patterns != 0
    if 0 < live.sum() < len(live):
        streams, ways = _packed(entries.patterns[live])
        yield [ans.encode(live.astype(np.uint8), 2), *streams], {"planes": ways}


def _from_sparse(coded: Coded, count: int, dtype: np.dtype) -> np.ndarray:
    live = ans.decode(coded.streams[0], 2, count).astype(bool)
    patterns = np.zeros(count, dtype)
    patterns[live] = _unpacked(coded.streams[1:], coded.settings["planes"], int(live.sum()), dtype)
    return patterns


# ------------------------------------------------------------------ few values


def _table(entries: Entries, limit: float) -> Made:
    """A table of values, and a number for each entry, by arithmetic coding."""
    if entries.codes is not None:
        values, codes = entries.codes
        yield [values.tobytes(), ans.encode(codes, max(2, len(values) + 1))], {}


def _from_table(coded: Coded, count: int, dtype: np.dtype) -> np.ndarray:
    values = np.frombuffer(coded.streams[0], dtype)
    return _looked_up(values, ans.decode(coded.streams[1], max(2, len(values) + 1), count))


def _gaps(entries: Entries, limit: float) -> Made:
    """As in the paper: a table, distances between nonzero entries, and their numbers: by Huffman."""
    if entries.codes is None:
        return
    values, codes = entries.codes
    occurring = gaps.histograms(codes)
    sizes = {bits: sum(map(huffman.size, gaps.counts(*occurring, bits))) for bits in gaps.BITS}
    bits = min(sizes, key=lambda bits: sizes[bits])
    if values.nbytes + sizes[bits] < limit:
        distances, numbers = gaps.to_gaps(codes, bits)
        streams = [*_huffman(distances, 2**bits), *_huffman(numbers, len(values) + 1)]
        yield [values.tobytes(), *streams], {"bits": bits, "coded": len(distances)}


def _from_gaps(coded: Coded, count: int, dtype: np.dtype) -> np.ndarray:
    values = np.frombuffer(coded.streams[0], dtype)
    size = int(coded.settings["coded"])
    distances = _from_huffman(coded.streams[1:3], 2 ** int(coded.settings["bits"]), size)
    numbers = _from_huffman(coded.streams[3:5], len(values) + 1, size)
    return _looked_up(values, gaps.from_gaps(distances, numbers, count))


def _different(patterns: np.ndarray) -> np.ndarray | None:
    """Ascending; None for too many. A sample tells of most arrays that they have."""
    if len(np.unique(patterns[: 4 * MAX_VALUES])) > MAX_VALUES:
        return None
    values = np.unique(patterns)
    values = values[values != 0]
    return values if len(values) <= MAX_VALUES else None


def _looked_up(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    table = np.concatenate([np.zeros(1, values.dtype), values])
    if len(codes) and int(codes.max()) >= len(table):
        raise ValueError(f"A code is {int(codes.max())}, but the table has {len(values)} values.")
    return table[codes]


def _huffman(symbols: np.ndarray, alphabet: int) -> list[bytes]:
    lengths = huffman.code_lengths(np.bincount(symbols, minlength=alphabet))
    halves = np.pad(lengths, (0, len(lengths) % 2)).reshape(-1, 2)
    return [(halves[:, 0] << 4 | halves[:, 1]).tobytes(), huffman.encode(symbols, lengths)]


def _from_huffman(streams: list[bytes], alphabet: int, count: int) -> np.ndarray:
    halves = np.frombuffer(streams[0], np.uint8)
    lengths = np.stack([halves >> 4, halves & 15], axis=1).reshape(-1)[:alphabet]
    if len(lengths) != alphabet:
        raise ValueError("The stream of code lengths is cut off.")
    return huffman.decode(streams[1], lengths, count)


KINDS = {
    "raw": _Kind(_raw, _from_raw),
    "planes": _Kind(_planes, _from_planes),
    "sparse": _Kind(_sparse, _from_sparse),
    "table": _Kind(_table, _from_table),
    "gaps": _Kind(_gaps, _from_gaps),
}
OF_FEW_VALUES, OF_MANY_VALUES = ("raw", "table", "gaps"), ("raw", "planes", "sparse")
