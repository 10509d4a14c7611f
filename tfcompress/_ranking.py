"""The largest of many numbers, in linear time.

>>> import numpy as np
>>> largest(np.array([0.1, 3.0, 2.0, 2.0, 2.0]), 3)
array([False,  True,  True,  True, False])
"""

import numpy as np


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """The mask, of the shape of `values`, of the `count` largest; of equal ones those of lower index.

    The threshold comes from a partition instead of a sort, in linear time.
    """
    if count <= 0 or count >= values.size:
        return np.full(values.shape, count > 0)
    flat = _comparable(values.ravel())
    threshold = np.partition(flat, flat.size - count)[flat.size - count]
    mask = flat >= threshold
    surplus = np.count_nonzero(mask) - count
    if surplus > 0:
        mask[np.flatnonzero(flat == threshold)[-surplus:]] = False
    return mask.reshape(values.shape)


def _comparable(values: np.ndarray) -> np.ndarray:
    """Numbers in the order of the values: the bits of floats without a sign, which compare faster."""
    if values.dtype.itemsize not in (2, 4, 8) or np.issubdtype(values.dtype, np.integer):
        return values
    bits = values.view(f"i{values.dtype.itemsize}")
    return bits if bits.min() >= 0 else values
