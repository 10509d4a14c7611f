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
machines. More lanes are faster, and each costs about three bytes: there is one for every kilobyte, and for
every 65,536 codes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

PRECISION = 14  # bits of probabilities
MAX_SYMBOLS = 2 ** (PRECISION - 1)
LANE = 1024  # bytes of codes for each lane, about
STEPS = 2**16  # of a lane at most, as long as there may be more lanes
PER_BYTE = 2**17  # codes in a byte at most: each makes a state larger by one part in 2^14, rounding apart
MAX_LANES = 2**14
_LOW, _WORD = 1 << 16, 16  # states are from here up to 2^32, and give off so many bits
_SLOTS = (1 << PRECISION) - 1

# How much a lane has seen of late: every nonzero code adds 16, and every code makes it forget an eighth.
_MEMORY = np.arange(136)
_THEN = np.stack([_MEMORY - (_MEMORY >> 3) + 16 * other for other in (0, 1)], axis=1).ravel()
_CONTEXTS = np.array([0, 4, 10, 18, 28, 40, 56, 76, 100])  # where the next context begins
_CONTEXT = np.searchsorted(_CONTEXTS, _MEMORY, side="right") - 1


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
        kinds = 2 * contexts.ravel() + (codes.ravel() == 0)
        self.zeros += 32 * np.bincount(kinds, minlength=self.zeros.size).reshape(-1, 2)
        self.codes += 32 * np.bincount(codes.ravel(), minlength=self.symbols)[1:]

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """`(contexts, symbols)` frequencies above 0 that add up to `2^PRECISION`, and sums before each."""
        whole = 1 << PRECISION
        room = whole - self.symbols  # each has 1 beforehand
        others = room * self.zeros[:, 0] // self.zeros.sum(axis=1)
        share = others[:, None] * self.codes // self.codes.sum()
        frequencies = 1 + np.concatenate([np.zeros_like(others)[:, None], share], axis=1)
        frequencies[:, 0] += whole - frequencies.sum(axis=1)
        return frequencies, np.cumsum(frequencies, axis=1) - frequencies

    def slots(self) -> np.ndarray:
        """For each context and slot of `2^PRECISION`, of the symbol there: frequency, sum before, itself."""
        frequencies, starts = self.tables()
        packed = frequencies << 32 | starts << 16 | np.arange(self.symbols)
        return np.repeat(packed.ravel(), frequencies.ravel())


def _blocks(steps: int, lanes: int) -> Iterator[slice]:
    """Ranges of steps between which probabilities are found anew: ever longer ones."""
    first = 0
    while first < steps:
        last = min(first + max(1, first // 6, -(-64 // lanes)), steps)
        yield slice(first, last)
        first = last


def encode(codes: np.ndarray, symbols: int) -> bytes:
    """Codes below `symbols`, as bytes: the number of lanes, their states, and the words that they take up.

    Raises:
        ValueError: there are too many symbols, or a code is beyond.
    """
    _check(symbols)
    if len(codes) and int(codes.max()) >= symbols:
        raise ValueError(f"The code {int(codes.max())} is not below {symbols}.")
    lanes = _lanes(codes)
    frequencies, starts = _by_step(_spread(codes, lanes), symbols)
    states, words = np.full(lanes, _LOW, np.int64), []
    for often, before in zip(frequencies[::-1], starts[::-1], strict=True):  # coded last, decoded first
        often = often.astype(np.int64)
        full = np.flatnonzero(states >= often << (32 - PRECISION))
        given = states[full]
        words.append((given & 0xFFFF).astype("<u2"))
        states[full] = given >> _WORD
        times, rest = np.divmod(states, often)
        states = (times << PRECISION) + rest + before
    parts = [np.array([lanes], "<u2"), states.astype("<u4"), *reversed(words)]
    return b"".join(part.tobytes() for part in parts)


def _lanes(codes: np.ndarray) -> int:
    wanted = max(_entropy(codes) // LANE, len(codes) // STEPS)
    return int(np.clip(wanted, 1, min(MAX_LANES, max(len(codes), 1))))


def _entropy(codes: np.ndarray) -> float:
    """Bytes, were each code by itself."""
    counts = np.bincount(codes) if len(codes) else np.zeros(1)
    counts = counts[counts > 0]
    return float(np.sum(counts * np.log2(len(codes) / counts))) / 8


def _spread(codes: np.ndarray, lanes: int) -> np.ndarray:
    """`(steps, lanes)`; the last lane is filled up with zeros."""
    steps = -(-len(codes) // lanes)
    padded = np.zeros(lanes * steps, np.uint16)
    padded[: len(codes)] = codes
    return np.ascontiguousarray(padded.reshape(lanes, steps).T)


def _by_step(spread: np.ndarray, symbols: int) -> tuple[np.ndarray, np.ndarray]:
    """The frequency of every code when its turn comes, and the sum of those before it, `(steps, lanes)`."""
    contexts, live = np.empty(spread.shape, np.uint8), spread > 0
    memory = np.zeros(spread.shape[1], np.int64)
    for step, other in enumerate(live):
        contexts[step] = _CONTEXT[memory]
        memory = _THEN[2 * memory + other]
    frequencies, starts = (np.empty(spread.shape, np.uint16) for _ in range(2))
    model = _Model(symbols)
    for block in _blocks(*spread.shape):
        tables = model.tables()
        frequencies[block], starts[block] = (table[contexts[block], spread[block]] for table in tables)
        model.add(spread[block], contexts[block])
    return frequencies, starts


def decode(stream: bytes, symbols: int, count: int) -> np.ndarray:
    """The inverse of `encode`.

    Raises:
        ValueError: the stream is not of so many codes.
    """
    _check(symbols)
    lanes = int.from_bytes(stream[:2], "little")
    head = 2 + 4 * lanes
    if len(stream) < head or len(stream) % 2 or not 1 <= lanes <= max(count, 1):
        raise ValueError("The stream is cut off.")
    if count > PER_BYTE * len(stream):
        raise ValueError(f"A stream of {len(stream)} bytes cannot hold {count} codes.")
    states = np.frombuffer(stream[2:head], "<u4").astype(np.int64)
    words, at = np.frombuffer(stream[head:], "<u2").astype(np.int64), 0
    steps = -(-count // lanes)
    spread, memories = np.empty((steps, lanes), np.uint16), np.empty((steps, lanes), np.uint8)
    model, memory = _Model(symbols), np.zeros(lanes, np.int64)
    for block in _blocks(steps, lanes):
        table = model.slots()
        for step in range(block.start, block.stop):
            memories[step] = memory
            slots = states & _SLOTS
            found = table[(_CONTEXT[memory] << PRECISION) + slots]
            codes = spread[step] = found & 0xFFFF
            states = (found >> 32) * (states >> PRECISION) + slots - (found >> 16 & 0xFFFF)
            empty = np.flatnonzero(states < _LOW)
            if at + len(empty) > len(words):
                raise ValueError("The stream is cut off.")
            states[empty] = states[empty] << _WORD | words[at : at + len(empty)]
            at += len(empty)
            memory = _THEN[2 * memory + (codes > 0)]
        model.add(spread[block], _CONTEXT[memories[block]])
    if at != len(words) or (states != _LOW).any():
        raise ValueError("The stream is damaged: it does not end where it should.")
    return spread.T.ravel()[:count].astype(np.min_scalar_type(symbols - 1))


def _check(symbols: int) -> None:
    if not 2 <= symbols <= MAX_SYMBOLS:
        raise ValueError(f"From 2 to {MAX_SYMBOLS} symbols can be coded, got {symbols!r}.")
