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
    flat = values.ravel()
    if count <= 0 or count >= flat.size:
        return np.full(values.shape, count > 0)
    threshold = np.partition(flat, flat.size - count)[flat.size - count]
    mask = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    mask[ties[: count - np.count_nonzero(mask)]] = True
    return mask.reshape(values.shape)
