"""Where nonzero entries are, as distances from one to the next (Han et al. 2016, section 2 and fig. 2).

>>> codes = np.zeros(16, "uint8")
>>> codes[[1, 4, 15]] = 7, 2, 3
>>> gaps, coded = to_gaps(codes, bits=3)
>>> gaps.tolist(), coded.tolist()  # 15 - 4 = 11 is more than 3 bits can say: a filler steps over 8 of it
([1, 2, 7, 2], [7, 2, 0, 3])
>>> bool((from_gaps(gaps, coded, 16) == codes).all())
True
"""

import numpy as np

BITS = (3, 4, 5, 6, 8)  # what is tried for the fewest bytes


def to_gaps(codes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The distances of nonzero codes, less one, in so many bits, and their codes.

    A distance beyond `2^bits` is gone in steps of that: each is a filler, the largest distance with the code
    0. What follows the last nonzero code is not coded.

    Args:
        codes: `(n,)` unsigned integers, 0 where an entry is zero.
        bits: from 1 to 16.

    Returns:
        `(m,)` distances less one, and `(m,)` codes, with fillers.

    Raises:
        ValueError: `bits` is out of range.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"A gap takes from 1 to 16 bits, got {bits!r}.")
    places = np.flatnonzero(codes)
    distances = np.diff(places, prepend=-1)
    fillers = (distances - 1) >> bits
    ends = np.cumsum(fillers + 1) - 1
    size = int(ends[-1]) + 1 if len(ends) else 0
    gaps = np.full(size, 2**bits - 1, np.min_scalar_type(2**bits - 1))
    coded = np.zeros(size, codes.dtype)
    gaps[ends] = distances - (fillers << bits) - 1
    coded[ends] = codes[places]
    return gaps, coded


def histograms(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each distance less one occurs between nonzero codes, however long, and each code."""
    distances = np.diff(np.flatnonzero(codes), prepend=-1) - 1
    return np.bincount(distances, minlength=1), np.bincount(codes, minlength=1)


def counts(distances: np.ndarray, codes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """How often `to_gaps` gives each distance, `(2^bits,)`, and each code, from the `histograms`."""
    sizes = np.arange(len(distances))
    within = np.bincount(sizes & (2**bits - 1), distances, minlength=2**bits).astype(np.int64)
    coded = codes.copy()
    coded[0] = (sizes >> bits) @ distances  # fillers
    within[-1] += coded[0]
    return within, coded


def from_gaps(gaps: np.ndarray, coded: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `to_gaps`, for `count` codes.

    Raises:
        ValueError: there are not as many gaps as codes, or they lead beyond the end.
    """
    if len(gaps) != len(coded):
        raise ValueError(f"{len(gaps)} gaps and {len(coded)} codes do not belong together.")
    places = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if len(places) and places[-1] >= count:
        raise ValueError(f"The gaps lead to entry {places[-1]} of {count}.")
    codes = np.zeros(count, coded.dtype)
    codes[places] = coded
    return codes
