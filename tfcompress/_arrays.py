"""NumPy arrays out of Keras variables.

>>> import keras
>>> to_numpy(keras.Variable([1.0, 2.0]))
array([1., 2.], dtype=float32)
"""

import keras
import numpy as np


def to_numpy(variable: keras.Variable) -> np.ndarray:
    """The variable's value. Tensors convert quietly; variables do not know NumPy 2's `copy`."""
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))
