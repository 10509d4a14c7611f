"""A file of named arrays, each in the coding that suits it, with a header that can be checked.

    0   8  the signature
    8   2  the version of the format
    10  4  bytes of the header
    14  4  its CRC-32
    18     the header, JSON, packed by zlib
           the streams of all arrays, one behind the other

Numbers have their lowest byte first. The header holds, beside what its writer puts in, an entry for each
array: name, shape, type, coding, settings, bytes of each stream, and the CRC-32 of the streams together.
Nothing in a file is run, and nothing is read before its size was compared with that of the file.
"""

import dataclasses
import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tfcompress.coding import arrays
from tfcompress.coding.arrays import Coded

SIGNATURE = b"\x89TFC\r\n\x1a\n"
VERSION = 1
_FIXED = struct.Struct("<8sHII")
MAX_HEADER = 2**28  # bytes, unpacked
MAX_RATIO = 2**20  # of all arrays to the file; nothing but zeros comes near
DTYPES = frozenset(
    "float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()
)


class FormatError(ValueError):
    """A file is none of this format, or damaged."""


@dataclass(frozen=True)
class Entry:
    """What the header says of one array."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    settings: Mapping[str, Any]
    sizes: tuple[int, ...]
    crc: int

    @classmethod
    def of(cls, name: str, array: np.ndarray, coded: Coded) -> "Entry":
        if array.dtype.name not in DTYPES:
            raise ValueError(f"'{name}' is of type {array.dtype}; the format has {sorted(DTYPES)}.")
        sizes = tuple(map(len, coded.streams))
        return cls(
            name, array.shape, array.dtype.name, coded.kind, coded.settings, sizes, _crc(coded.streams)
        )

    @classmethod
    def read(cls, given: Any) -> "Entry":
        """From JSON, of which nothing is taken for granted."""
        try:
            entry = cls(**given)
            entry = cls(**{**vars(entry), "shape": tuple(entry.shape), "sizes": tuple(entry.sizes)})
        except TypeError as error:
            raise FormatError(f"The header describes an array by {given!r}.") from error
        numbers = (*entry.shape, *entry.sizes, entry.crc)
        whole = all(type(number) is int and 0 <= number < 2**48 for number in numbers)
        named = isinstance(entry.name, str) and isinstance(entry.kind, str)
        if not (whole and named and isinstance(entry.settings, dict) and entry.dtype in DTYPES):
            raise FormatError(f"The header describes an array by {given!r}.")
        return entry

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        return self.count * _dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Opened:
    """A file whose header was read and checked.

    Attributes:
        path: of the file.
        header: what its writer put in.
        entries: of its arrays, in order.
        size: bytes of the file.
        overhead: bytes before the streams.
    """

    path: Path
    header: Mapping[str, Any]
    entries: list[Entry]
    size: int
    overhead: int

    def arrays(self) -> Iterator[tuple[Entry, np.ndarray]]:
        """Reads and decodes one after another, of which only one is in memory.

        Raises:
            FormatError: an array is damaged; the message names it.
        """
        with self.path.open("rb") as file:
            file.seek(self.overhead)
            for entry in self.entries:
                yield entry, _decoded(file, entry)


def write(path: Path, header: Mapping[str, Any], named: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes arrays, one coded after another.

    Raises:
        ValueError: an array is of a type that the format lacks.
        OSError: it cannot be written, for want of room, say.
    """
    entries, streams = [], []
    for name, array in named:
        coded = arrays.encode(array)
        entries.append(Entry.of(name, array, coded))
        streams.extend(coded.streams)
    with path.open("wb") as file:
        file.writelines([head(header, entries), *streams])
        file.flush()
        os.fsync(file.fileno())


def head(header: Mapping[str, Any], entries: Iterable[Entry]) -> bytes:
    """What a file with these arrays begins with; their streams follow."""
    described = [dataclasses.asdict(entry) for entry in entries]
    content = json.dumps({**header, "arrays": described}, separators=(",", ":")).encode()
    packed = zlib.compress(content, 9)
    return _FIXED.pack(SIGNATURE, VERSION, len(packed), zlib.crc32(packed)) + packed


def read(path: Path) -> Opened:
    """Reads and checks the header.

    Raises:
        FormatError: the file is no such file, of a newer version, cut off, or damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        fixed = file.read(_FIXED.size)
        if len(fixed) < _FIXED.size or not fixed.startswith(SIGNATURE):
            raise FormatError(f"'{path}' is no .tfc file: it does not begin as one.")
        _, version, length, crc = _FIXED.unpack(fixed)
        if version > VERSION:
            raise FormatError(
                f"'{path}' has version {version} of the format, and this tfcompress reads up to {VERSION}: "
                "install a newer one."
            )
        if _FIXED.size + length > size:
            raise FormatError(f"'{path}' is cut off within its header.")
        packed = file.read(length)
    if zlib.crc32(packed) != crc:
        raise FormatError(f"The header of '{path}' is damaged: its checksum differs.")
    header = _unpacked(path, packed)
    entries = [Entry.read(given) for given in header.pop("arrays")]
    overhead = _FIXED.size + length
    if overhead + sum(sum(entry.sizes) for entry in entries) != size:
        raise FormatError(f"'{path}' is cut off, or longer than its header says.")
    dense = sum(entry.dense_bytes for entry in entries)
    if dense > MAX_RATIO * size:
        raise FormatError(f"'{path}' says that its {size} bytes are arrays of {dense}, which is never so.")
    return Opened(path, header, entries, size, overhead)


def _unpacked(path: Path, packed: bytes) -> dict[str, Any]:
    decoder = zlib.decompressobj()
    try:
        content = decoder.decompress(packed, MAX_HEADER)
        header = json.loads(content) if decoder.eof else None
    except (zlib.error, ValueError, RecursionError) as error:
        raise FormatError(f"The header of '{path}' is damaged: {error}.") from error
    if not isinstance(header, dict) or not isinstance(header.get("arrays"), list):
        raise FormatError(f"The header of '{path}' does not list its arrays, or is too long.")
    return header


def _decoded(file: BinaryIO, entry: Entry) -> np.ndarray:
    streams = [file.read(size) for size in entry.sizes]
    if _crc(streams) != entry.crc:
        raise FormatError(f"The array '{entry.name}' is damaged: its checksum differs.")
    try:
        coded = Coded(entry.kind, streams, dict(entry.settings))
        return arrays.decode(coded, entry.shape, _dtype(entry.dtype))
    except (ValueError, MemoryError) as error:
        raise FormatError(f"The array '{entry.name}' cannot be decoded: {error}") from error


def _crc(streams: Iterable[bytes]) -> int:
    crc = 0
    for stream in streams:
        crc = zlib.crc32(stream, crc)
    return crc


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
