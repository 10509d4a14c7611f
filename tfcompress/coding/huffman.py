"""Canonical Huffman codes: the shortest whole bits per symbol (Huffman 1952; Han et al. 2016, section 4).

>>> symbols = np.array([0, 0, 0, 0, 1, 1, 2, 0], "uint8")
>>> lengths = code_lengths(np.bincount(symbols))
>>> lengths.tolist()  # bits per symbol
[1, 2, 2]
>>> stream = encode(symbols, lengths)
>>> decode(stream, lengths, len(symbols)).tolist()
[0, 0, 0, 0, 1, 1, 2, 0]

Symbols are coded in blocks, and where each block begins is written before them, so that all blocks are
decoded side by side. That costs 16 bits per block.
"""

from itertools import pairwise

import numpy as np

MAX_LENGTH = 15  # of a code, so that a table of 2^15 entries decodes all
BLOCK = 1024  # symbols
PIECE = 2**20  # symbols whose bits are in memory at once, a byte each


def code_lengths(counts: np.ndarray, limit: int = MAX_LENGTH) -> np.ndarray:
    """The bits of each symbol's code, none longer than `limit`, for which all symbols take the fewest bits.

    By package-merge (Larmore and Hirschberg 1990): without the limit these are Huffman's.

    Args:
        counts: `(symbols,)` how often each occurs; those that never do get no code, length 0. A symbol that
            is alone takes one bit.
        limit: at least the logarithm of the number of symbols that occur.

    Returns:
        `(symbols,)` uint8.

    Raises:
        ValueError: there are too many symbols for the limit.
    """
    lengths = np.zeros(len(counts), np.uint8)
    present = np.flatnonzero(counts)
    if len(present) <= 1:
        lengths[present] = 1
        return lengths
    if len(present) > 2**limit:
        raise ValueError(f"{len(present)} symbols have no codes of at most {limit} bits.")
    order = present[np.argsort(counts[present], kind="stable")]
    weights = np.asarray(counts, "float64")[order]
    lengths[order] = _package_merge(weights, limit)
    return lengths


def size(counts: np.ndarray) -> int:
    """The bytes that `encode` takes for symbols that occur so often."""
    bits = int(counts @ code_lengths(counts).astype(np.int64))
    return 2 * -(-int(counts.sum()) // BLOCK) + -(-bits // 8)


def _package_merge(weights: np.ndarray, limit: int) -> np.ndarray:
    """The lengths for ascending weights: how often each is among the cheapest `2 n - 2` of the last list.

    A list holds all symbols and the pairs of the list before, in ascending order. Of the cheapest items of a
    list, the pairs stand for twice as many of the list before, so that it is enough to know which are pairs.
    """
    size = len(weights)
    lists, items = [], weights
    for _ in range(limit - 1):
        even = len(items) // 2 * 2
        pairs = items[:even:2] + items[1:even:2]
        merged = np.concatenate([weights, pairs])
        order = np.argsort(merged, kind="stable")
        lists.append(order >= size)
        items = merged[order]
    lengths, taken = np.zeros(size, np.int64), 2 * size - 2
    for is_pair in reversed(lists):
        pairs = int(is_pair[:taken].sum())
        lengths[: taken - pairs] += 1
        taken = 2 * pairs
    lengths[:taken] += 1
    return lengths


def codes(lengths: np.ndarray) -> np.ndarray:
    """The canonical codes: in order of length, then of symbol, each the one before plus one.

    Raises:
        ValueError: no code has these lengths.
    """
    lengths = np.asarray(lengths, np.int64)
    if not np.any(lengths):
        return np.zeros(len(lengths), np.uint32)
    if lengths.max() > MAX_LENGTH or np.sum(0.5 ** lengths[lengths > 0]) > 1:
        raise ValueError("These are not the lengths of a prefix code.")
    per_length = np.bincount(lengths, minlength=MAX_LENGTH + 1)
    per_length[0] = 0
    first = np.zeros(MAX_LENGTH + 1, np.int64)
    for shorter, length in pairwise(range(MAX_LENGTH + 1)):
        first[length] = (first[shorter] + per_length[shorter]) << 1
    found = np.zeros(len(lengths), np.uint32)
    for length in range(1, MAX_LENGTH + 1):
        of_length = np.flatnonzero(lengths == length)
        found[of_length] = first[length] + np.arange(len(of_length))
    return found


def encode(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
    """Symbols as bytes: the bits of each block, 16 bits each, then the codes.

    Args:
        symbols: `(n,)` unsigned integers, each with a code.
        lengths: `(symbols,)` of the codes.
    """
    table, lengths = codes(lengths), np.asarray(lengths, np.uint8)
    if len(symbols) and not lengths[symbols].all():
        raise ValueError(f"The symbol {symbols[lengths[symbols] == 0][0]} has no code.")
    starts = np.arange(0, len(symbols), BLOCK)
    sizes = np.add.reduceat(lengths[symbols], starts, dtype=np.int64) if len(symbols) else starts
    content, rest = [sizes.astype("<u2").tobytes()], np.zeros(0, np.uint8)
    for first in range(0, len(symbols), PIECE):
        piece = symbols[first : first + PIECE]
        bits = np.concatenate([rest, _bits(table[piece], lengths[piece])])
        whole = len(bits) // 8 * 8
        content.append(np.packbits(bits[:whole]).tobytes())
        rest = bits[whole:]
    return b"".join([*content, np.packbits(rest).tobytes()])


def _bits(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The codes behind each other, a bit per entry, the highest first."""
    ends = np.cumsum(lengths, dtype=np.int64)
    bits = np.zeros(ends[-1], np.uint8)
    for place in range(int(lengths.max())):  # from the last bit of each code
        has = lengths > place
        bits[ends[has] - 1 - place] = (values[has] >> place) & 1
    return bits


def decode(stream: bytes, lengths: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `encode`.

    Args:
        stream: what it gave.
        lengths: the same.
        count: the number of symbols.

    Raises:
        ValueError: the stream is not of so many symbols.
    """
    blocks = -(-count // BLOCK)
    sizes = np.frombuffer(stream[: 2 * blocks], "<u2").astype(np.int64)
    content = np.frombuffer(stream, np.uint8)[2 * blocks :]
    ends = np.cumsum(sizes)
    if len(sizes) != blocks or len(content) != -(-int(ends[-1] if blocks else 0) // 8):
        raise ValueError("The stream is cut off, or too long.")
    symbol_of, length_of = _table(lengths)
    padded = np.concatenate([content, np.zeros(3, np.uint8)]).astype(np.uint32)
    words = (padded[:-2] << 16) | (padded[1:-1] << 8) | padded[2:]  # 24 bits from each byte on
    at = ends - sizes
    found = np.zeros((blocks, BLOCK), symbol_of.dtype)
    last = count - (blocks - 1) * BLOCK  # symbols of the last block
    for place in range(min(count, BLOCK)):
        alive = slice(None) if place < last else slice(blocks - 1)
        byte, bit = at[alive] >> 3, (at[alive] & 7).astype(np.uint32)
        if byte.max(initial=0) >= len(words):
            raise ValueError("The stream is damaged: a block is longer than it says.")
        window = (words[byte] >> (24 - MAX_LENGTH - bit)) & (2**MAX_LENGTH - 1)
        found[alive, place] = symbol_of[window]
        advanced = length_of[window]
        if not advanced.all():
            raise ValueError("The stream is damaged: it holds bits that are no code.")
        at[alive] += advanced
    if not np.array_equal(at, ends):
        raise ValueError("The stream is damaged: blocks do not end where they should.")
    return found.ravel()[:count]


def _table(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each 15 bits that may come: the symbol they begin with, and the length of its code, 0 for none."""
    codes(lengths)  # which checks them
    lengths = np.asarray(lengths, np.uint8)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]  # as their codes are
    spans = 1 << (MAX_LENGTH - lengths[order].astype(np.int64))
    smallest = np.min_scalar_type(max(len(lengths) - 1, 0))
    symbol_of, length_of = np.zeros(2**MAX_LENGTH, smallest), np.zeros(2**MAX_LENGTH, np.uint8)
    symbol_of[: spans.sum()] = np.repeat(order, spans)
    length_of[: spans.sum()] = np.repeat(lengths[order], spans)
    return symbol_of, length_of
