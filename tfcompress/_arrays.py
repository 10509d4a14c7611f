"""NumPy arrays out of Keras variables.

>>> import keras
>>> to_numpy(keras.Variable([1.0, 2.0]))
array([1., 2.], dtype=float32)
"""

import keras
import numpy as np


def to_numpy(variable: keras.Variable) -> np.ndarray:
    """The variable's value; `np.array(variable)` would warn, as Keras does not know NumPy 2's `copy`."""
    return variable.__array__()
