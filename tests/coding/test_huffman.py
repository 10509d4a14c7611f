"""Huffman codes are as short as they can be, and every stream comes back bit for bit."""

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.coding import huffman

COUNTS = st.lists(st.integers(0, 1000), min_size=1, max_size=40)


def huffman_bits(counts) -> int:
    """The sum over all merges of the textbook's algorithm."""
    heap = [count for count in counts if count]
    heapq.heapify(heap)
    total = heap[0] if len(heap) == 1 else 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


@given(COUNTS)
def test_codes_take_as_few_bits_as_huffmans(counts):
    lengths = huffman.code_lengths(np.array(counts))
    assert ((lengths > 0) == (np.array(counts) > 0)).all()
    if any(counts):
        assert int(np.dot(lengths.astype(int), counts)) == huffman_bits(counts)


@given(st.integers(0, 4000), st.integers(1, 40), st.integers(0, 99))
def test_the_size_is_known_before(count, symbols, seed):
    drawn = np.random.default_rng(seed).geometric(0.2, count).clip(max=symbols) - 1
    counts = np.bincount(drawn, minlength=symbols)
    assert huffman.size(counts) == len(huffman.encode(drawn, huffman.code_lengths(counts)))


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=8), st.integers(3, 6))
def test_with_a_limit_no_lengths_are_cheaper(counts, limit):
    """Against all lengths that a code can have."""
    lengths = huffman.code_lengths(np.array(counts), limit)
    assert lengths.max() <= limit and np.sum(0.5 ** lengths.astype(float)) <= 1
    # Lengths descend as counts ascend, so that it is enough to try those that do.
    ascending, best = sorted(counts), np.inf

    def search(place, longest, room, bits):
        nonlocal best
        if place == len(ascending):
            best = min(best, bits)
            return
        for length in range(1, longest + 1):
            if room >= 2 ** (limit - length):
                left = room - 2 ** (limit - length)
                search(place + 1, length, left, bits + length * ascending[place])

    search(0, limit, 2**limit, 0)
    assert int(np.dot(lengths.astype(int), counts)) == best


@given(COUNTS)
def test_no_code_begins_another(counts):
    lengths = huffman.code_lengths(np.array(counts))
    written = [f"{code:0{n}b}" for code, n in zip(huffman.codes(lengths), lengths, strict=True) if n]
    assert not any(a != b and b.startswith(a) for a in written for b in written)
    assert len(set(written)) == len(written)


@given(
    st.integers(0, 5000),
    st.integers(1, 300),
    st.floats(0.2, 3),
    st.integers(0, 99),
)
def test_streams_come_back(count, alphabet, skew, seed):
    weights = np.arange(1, alphabet + 1) ** -skew
    rng = np.random.default_rng(seed)
    symbols = rng.choice(alphabet, count, p=weights / weights.sum()).astype("uint16")
    lengths = huffman.code_lengths(np.bincount(symbols, minlength=alphabet))
    stream = huffman.encode(symbols, lengths)
    np.testing.assert_array_equal(huffman.decode(stream, lengths, count), symbols)
    bits = 8 * (len(stream) - 2 * -(-count // huffman.BLOCK))
    if len(set(symbols.tolist())) > 1:
        shares = np.bincount(symbols) / count
        entropy = -np.sum(shares[shares > 0] * np.log2(shares[shares > 0]))
        assert entropy * count <= bits <= (entropy + 1) * count + 8


def test_pieces_are_joined_bit_by_bit(monkeypatch):
    symbols = np.random.default_rng(0).integers(0, 7, 3000).astype("uint8")
    lengths = huffman.code_lengths(np.bincount(symbols))
    whole = huffman.encode(symbols, lengths)
    monkeypatch.setattr(huffman, "PIECE", 37)
    assert huffman.encode(symbols, lengths) == whole


@given(st.data(), st.integers(0, 99))
def test_damage_is_an_error_or_other_symbols_never_a_crash(data, seed):
    symbols = np.random.default_rng(seed).integers(0, 9, 2500).astype("uint8")
    lengths = huffman.code_lengths(np.bincount(symbols))
    stream = bytearray(huffman.encode(symbols, lengths))
    for _ in range(data.draw(st.integers(1, 5))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(huffman.decode(bytes(stream), lengths, 2500)) == 2500
    except ValueError as error:
        assert "stream" in str(error)
    with pytest.raises(ValueError, match="cut off"):
        huffman.decode(bytes(stream[:-1]), lengths, 2500)


def test_bad_arguments():
    with pytest.raises(ValueError, match="no codes of at most 2 bits"):
        huffman.code_lengths(np.ones(5), 2)
    with pytest.raises(ValueError, match="not the lengths"):
        huffman.codes(np.array([1, 1, 1]))
    with pytest.raises(ValueError, match="symbol 1 has no code"):
        huffman.encode(np.array([0, 1], "uint8"), np.array([1, 0]))
