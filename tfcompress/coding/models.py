"""What of a model goes into a file: a description, and its weights by name."""

import json
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfcompress._arrays import to_numpy


def described(model: keras.Model) -> dict[str, Any]:
    """What a file says of a model, beside its weights.

    Raises:
        ValueError: the model has no config that tells all of it.
    """
    try:
        return {"keras": keras.__version__, "model": json.loads(model.to_json())}
    except (TypeError, NotImplementedError) as error:
        raise ValueError(f"'{model.name}' has no config that tells all of it: {error}") from error


def weights(model: keras.Model) -> Iterator[tuple[str, np.ndarray]]:
    """The weights by path, in order; zeros without a sign, which masks leave behind."""
    for weight in model.weights:
        yield weight.path, unsigned(to_numpy(weight))


def unsigned(array: np.ndarray) -> np.ndarray:
    """The array, in which no zero has a sign."""
    return np.where(array == 0, np.zeros((), array.dtype), array)
