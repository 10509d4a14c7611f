"""Adaptive arithmetic coding of codes of which many are zero, by asymmetric numeral systems (Duda 2009).

>>> codes = np.zeros(20_000, "uint8")
>>> codes[::50] = 3
>>> stream = encode(codes, 4)
>>> bool((decode(stream, 4, len(codes)) == codes).all())
True

A symbol of probability p takes `-log2 p` bits, fractions included, which is what codes of whole bits cannot
do where most symbols are zeros. Nothing is said of the probabilities: both sides count what they have seen.

The codes are cut into lanes, which are coded side by side, a symbol of each in a step. The probability of
zero depends on how many of the codes just before, in the lane, were not zero, since weights that stay lie
together; what a nonzero code is does not. Every lane is a state of 32 bits, which gives off 16 bits, or takes
them, to stay in range (Giesen 2014, "Interleaved entropy coders"). All is in whole numbers, and equal on all
machines.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

PRECISION = 14  # bits of probabilities
MAX_SYMBOLS = 2 ** (PRECISION - 1)
LANE = 16384  # codes of a lane, about
MAX_LANES = 2048
_LOW = np.uint64(1 << 16)  # states are from here up to 2^32
_WORD, _MASK = np.uint64(16), np.uint64(2**16 - 1)

# How much a lane has seen of late: every nonzero code adds 16, and every code makes it forget an eighth.
_SEEN = 16
_CONTEXTS = np.array([0, 4, 10, 18, 28, 40, 56, 76, 100])  # where the next context begins


@dataclass
class _Model:
    """Counts of what was coded, and the probabilities that follow."""

    symbols: int
    zeros: np.ndarray = field(init=False)  # (contexts, 2): other codes, zeros
    codes: np.ndarray = field(init=False)  # (symbols - 1,) of nonzero ones

    def __post_init__(self) -> None:
        self.zeros = np.ones((len(_CONTEXTS), 2), np.int64)
        self.codes = np.ones(self.symbols - 1, np.int64)

    def add(self, codes: np.ndarray, contexts: np.ndarray) -> None:
        kinds = 2 * contexts.astype(np.int64) + (codes == 0)
        self.zeros += 32 * np.bincount(kinds, minlength=self.zeros.size).reshape(-1, 2)
        self.codes += 32 * np.bincount(codes[codes > 0] - 1, minlength=len(self.codes))

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """`(contexts, symbols)` frequencies above 0 that add up to `2^PRECISION`, and sums before each."""
        whole = 1 << PRECISION
        room = whole - self.symbols  # each has 1 beforehand
        others = room * self.zeros[:, 0] // self.zeros.sum(axis=1)
        share = others[:, None] * self.codes // self.codes.sum()
        frequencies = 1 + np.concatenate([np.zeros_like(others)[:, None], share], axis=1)
        frequencies[:, 0] += whole - frequencies.sum(axis=1)
        starts = np.cumsum(frequencies, axis=1) - frequencies
        return frequencies.astype(np.uint64), starts.astype(np.uint64)


class _Lanes:
    """Where codes lie: `(lanes, steps)`, the last lane filled up with zeros."""

    def __init__(self, count: int):
        self.count = count
        self.lanes = min(max(count // LANE, 1), MAX_LANES)
        self.steps = -(-count // self.lanes)

    def spread(self, codes: np.ndarray) -> np.ndarray:
        padded = np.zeros(self.lanes * self.steps, np.uint16)
        padded[: self.count] = codes
        return padded.reshape(self.lanes, self.steps)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of steps between which probabilities are found anew: ever longer ones."""
        first = 0
        while first < self.steps:
            size = max(1, first // 8, -(-64 // self.lanes))
            yield first, min(first + size, self.steps)
            first += size


def _remembered(memory: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """What lanes have seen of late, once they have seen these codes too."""
    return memory - (memory >> 3) + np.where(codes > 0, _SEEN, 0)


def _context(memory: np.ndarray) -> np.ndarray:
    return np.searchsorted(_CONTEXTS, memory, side="right") - 1


def encode(codes: np.ndarray, symbols: int) -> bytes:
    """Codes below `symbols`, as bytes: the states of all lanes, and the words they take up.

    Raises:
        ValueError: there are too many symbols, or a code is beyond.
    """
    _check(symbols)
    if len(codes) and int(codes.max()) >= symbols:
        raise ValueError(f"The code {int(codes.max())} is not below {symbols}.")
    lanes = _Lanes(len(codes))
    spread = lanes.spread(codes)
    frequencies, starts = _by_step(lanes, spread, symbols)
    states, words = np.full(lanes.lanes, _LOW), []
    shift = np.uint64(32 - PRECISION)
    for step in reversed(range(lanes.steps)):  # what is coded last is decoded first
        often, before = (each[:, step].astype(np.uint64) for each in (frequencies, starts))
        full = states >= often << shift
        words.append((states[full] & _MASK).astype("<u2"))
        states = np.where(full, states >> _WORD, states)
        states = ((states // often) << np.uint64(PRECISION)) + states % often + before
    return states.astype("<u4").tobytes() + b"".join(each.tobytes() for each in reversed(words))


def _by_step(lanes: _Lanes, spread: np.ndarray, symbols: int) -> tuple[np.ndarray, np.ndarray]:
    """The frequency of every code when its turn comes, and the sum of those before it, `(lanes, steps)`."""
    frequencies, starts = (np.zeros(spread.shape, np.uint16) for _ in range(2))
    model, memory = _Model(symbols), np.zeros(lanes.lanes, np.int64)
    for first, last in lanes.blocks():
        block = spread[:, first:last]
        contexts = np.zeros(block.shape, np.uint8)
        for step in range(last - first):
            contexts[:, step] = _context(memory)
            memory = _remembered(memory, block[:, step])
        tables = model.tables()
        frequencies[:, first:last], starts[:, first:last] = (table[contexts, block] for table in tables)
        model.add(block.ravel(), contexts.ravel())
    return frequencies, starts


def decode(stream: bytes, symbols: int, count: int) -> np.ndarray:
    """The inverse of `encode`.

    Raises:
        ValueError: the stream is not of so many codes.
    """
    _check(symbols)
    lanes = _Lanes(count)
    head = 4 * lanes.lanes
    if len(stream) < head or (len(stream) - head) % 2:
        raise ValueError("The stream is cut off.")
    states = np.frombuffer(stream[:head], "<u4").astype(np.uint64)
    words, at = np.frombuffer(stream[head:], "<u2").astype(np.uint64), 0
    spread = np.zeros((lanes.lanes, lanes.steps), np.uint16)
    model, memory = _Model(symbols), np.zeros(lanes.lanes, np.int64)
    for first, last in lanes.blocks():
        frequencies, starts = model.tables()
        found = np.stack([np.repeat(np.arange(symbols), row) for row in frequencies.astype(np.int64)])
        contexts = np.zeros((lanes.lanes, last - first), np.uint8)
        for step in range(first, last):
            context = contexts[:, step - first] = _context(memory)
            slots = states & np.uint64(2**PRECISION - 1)
            codes = spread[:, step] = found[context, slots]
            states = frequencies[context, codes] * (states >> np.uint64(PRECISION)) + slots
            states -= starts[context, codes]
            empty = np.flatnonzero(states < _LOW)
            if at + len(empty) > len(words):
                raise ValueError("The stream is cut off.")
            states[empty] = (states[empty] << _WORD) | words[at : at + len(empty)]
            at += len(empty)
            memory = _remembered(memory, codes)
        model.add(spread[:, first:last].ravel(), contexts.ravel())
    if at != len(words) or (states != _LOW).any():
        raise ValueError("The stream is damaged: it does not end where it should.")
    return spread.ravel()[:count].astype(np.min_scalar_type(symbols - 1))


def _check(symbols: int) -> None:
    if not 2 <= symbols <= MAX_SYMBOLS:
        raise ValueError(f"From 2 to {MAX_SYMBOLS} symbols can be coded, got {symbols!r}.")
