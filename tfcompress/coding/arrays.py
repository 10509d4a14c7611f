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

import lzma
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfcompress.coding import ans, gaps, huffman

MAX_VALUES = 4095  # of a table, beside zero
_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]


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
    return min(candidates(array), key=lambda coded: coded.bytes)


def candidates(array: np.ndarray) -> Iterator[Coded]:
    """All that the codings make of an array."""
    for order in _orders(array.ndim):
        patterns = _patterns(np.ascontiguousarray(array.transpose(order)))
        for kind in KINDS.values():
            for streams, settings in kind.encode(patterns):
                yield Coded(kind.name, streams, {**settings, "order": order})


def decode(coded: Coded, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The array.

    Raises:
        ValueError: the streams are not of such an array.
    """
    if coded.kind not in KINDS:
        raise ValueError(f"There is no coding '{coded.kind}': the file is of a newer version, or damaged.")
    order = [int(axis) for axis in coded.settings.get("order", range(len(shape)))]
    if sorted(order) != list(range(len(shape))):
        raise ValueError(f"The order of axes {order} does not fit the shape {shape}.")
    dtype, count = np.dtype(dtype), math.prod(shape)
    try:
        patterns = KINDS[coded.kind].decode(coded, count, np.dtype(f"u{dtype.itemsize}"))
    except (KeyError, IndexError, TypeError, lzma.LZMAError, OverflowError) as error:
        raise ValueError(f"The streams of a {coded.kind} are damaged: {error!r}.") from error
    if len(patterns) != count:
        raise ValueError(f"The streams hold {len(patterns)} entries, not the {count} of the shape {shape}.")
    moved = [shape[axis] for axis in order]
    return (
        patterns.view(dtype).reshape(moved).transpose(np.argsort(order)) if shape else patterns.view(dtype)[0]
    )


def _orders(axes: int) -> list[list[int]]:
    """As it is, and with the outputs first, so that what one filter sees lies together."""
    plain = list(range(axes))
    return [plain, [axes - 1, *plain[:-1]]] if axes > 1 else [plain]


def _patterns(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(f"u{array.dtype.itemsize}")


Made = Iterator[tuple[list[bytes], dict[str, Any]]]


@dataclass(frozen=True)
class _Kind:
    name: str
    encode: Callable[[np.ndarray], Made]
    decode: Callable[[Coded, int, np.dtype], np.ndarray]


# ------------------------------------------------------------------ as they are


def _raw(patterns: np.ndarray) -> Made:
    yield [patterns.tobytes()], {}


def _from_raw(coded: Coded, count: int, dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(coded.streams[0], dtype)


def _planes(patterns: np.ndarray) -> Made:
    """The first bytes of all entries, then the second ones, ...: exponents are alike, and pack well."""
    yield [_packed(patterns)], {}


def _packed(patterns: np.ndarray) -> bytes:
    planes = patterns.view(np.uint8).reshape(len(patterns), patterns.itemsize).T
    return lzma.compress(planes.tobytes(), lzma.FORMAT_RAW, filters=_LZMA)


def _from_planes(coded: Coded, count: int, dtype: np.dtype) -> np.ndarray:
    return _unpacked(coded.streams[0], count, dtype)


def _unpacked(stream: bytes, count: int, dtype: np.dtype) -> np.ndarray:
    size = count * dtype.itemsize
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)
    content = decoder.decompress(stream, max_length=size)
    while len(content) < size and not (decoder.needs_input or decoder.eof):
        content += decoder.decompress(b"", max_length=size - len(content))
    if len(content) != size:
        raise ValueError("The stream is cut off.")
    return np.frombuffer(content, np.uint8).reshape(dtype.itemsize, count).T.copy().view(dtype).reshape(-1)


# ------------------------------------------------------------------ zeros apart


def _sparse(patterns: np.ndarray) -> Made:
    live = patterns != 0
    if 0 < live.sum() < len(live):
        yield [ans.encode(live.astype(np.uint8), 2), _packed(patterns[live])], {}


def _from_sparse(coded: Coded, count: int, dtype: np.dtype) -> np.ndarray:
    live = ans.decode(coded.streams[0], 2, count).astype(bool)
    patterns = np.zeros(count, dtype)
    patterns[live] = _unpacked(coded.streams[1], int(live.sum()), dtype)
    return patterns


# ------------------------------------------------------------------ few values


def _table(patterns: np.ndarray) -> Made:
    """A table of values, and a number for each entry, by arithmetic coding."""
    found = _codes(patterns)
    if found is not None:
        values, codes = found
        yield [values.tobytes(), ans.encode(codes, max(2, len(values) + 1))], {}


def _from_table(coded: Coded, count: int, dtype: np.dtype) -> np.ndarray:
    values = np.frombuffer(coded.streams[0], dtype)
    return _looked_up(values, ans.decode(coded.streams[1], max(2, len(values) + 1), count))


def _gaps(patterns: np.ndarray) -> Made:
    """As in the paper: a table, distances between nonzero entries, and their numbers: by Huffman."""
    found = _codes(patterns)
    if found is None:
        return
    values, codes = found
    for bits in gaps.BITS:
        distances, numbers = gaps.to_gaps(codes, bits)
        streams = [*_huffman(distances, 2**bits), *_huffman(numbers, len(values) + 1)]
        yield [values.tobytes(), *streams], {"bits": bits, "coded": len(distances)}


def _from_gaps(coded: Coded, count: int, dtype: np.dtype) -> np.ndarray:
    values = np.frombuffer(coded.streams[0], dtype)
    size = int(coded.settings["coded"])
    distances = _from_huffman(coded.streams[1:3], 2 ** int(coded.settings["bits"]), size)
    numbers = _from_huffman(coded.streams[3:5], len(values) + 1, size)
    return _looked_up(values, gaps.from_gaps(distances, numbers, count))


def _codes(patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The different patterns but zero, and for each entry the number of its own, from 1; 0 for zero."""
    if len(patterns) < 2:
        return None
    values = _different(patterns)
    if values is None:
        return None
    smallest = np.min_scalar_type(len(values) + 1)
    codes = (np.searchsorted(values, patterns) + 1).astype(smallest)
    codes[patterns == 0] = 0
    return values, codes


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
    kind.name: kind
    for kind in (
        _Kind("raw", _raw, _from_raw),
        _Kind("planes", _planes, _from_planes),
        _Kind("sparse", _sparse, _from_sparse),
        _Kind("table", _table, _from_table),
        _Kind("gaps", _gaps, _from_gaps),
    )
}
