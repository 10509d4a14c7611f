"""Batches out of whatever a Keras user holds data in.

>>> import numpy as np
>>> for x, y in batches((np.zeros((5, 2)), np.arange(5)), batch_size=4):
...     print(x.shape, y)
(4, 2) [0 1 2 3]
(1, 2) [4]
"""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np


def batches(data: Any, batch_size: int = 32, inputs: int | None = None) -> Iterator[tuple[Any, Any]]:
    """Yields (inputs, labels) batch by batch, as NumPy arrays; labels are None where there are none.

    Args:
        data: an array `(images, ...)`; a list or dict of arrays for a model with several inputs; a
            tuple (inputs, labels) of these; or anything that yields batches of inputs or of
            (inputs, labels): a `tf.data.Dataset`, a `keras.utils.PyDataset`, a loader, a generator.
        batch_size: images per batch, where `data` is arrays.
        inputs: how many inputs the model has: a list of another number of arrays is one of batches.

    Raises:
        ValueError: there is no data, or the arrays differ in length.
    """
    found = False
    for batch in _slices(data, batch_size) if _is_arrays(data, inputs) else _batches_of(data):
        images, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
        found = True
        yield _as_numpy(images), None if labels is None else _as_numpy(labels)
    if not found:
        raise ValueError("The data is empty: it yields no batch at all. A generator can be read only once.")


def batches_for(
    model: keras.Model, data: Any, batch_size: int = 32
) -> Iterator[tuple[list[np.ndarray], Any]]:
    """Yields (inputs, labels) batch by batch, the inputs in the order of `model.inputs`.

    Raises:
        ValueError: there is no data, or it does not fit the model.
    """
    for inputs, labels in batches(data, batch_size, len(model.inputs)):
        yield check_inputs(model, inputs), labels


def labelled(
    model: keras.Model, data: Any, wanting: str, batch_size: int = 32
) -> Iterator[tuple[list[np.ndarray], Any]]:
    """As `batches_for`; `ValueError` where there are no labels, which says what is `wanting` them."""
    for inputs, labels in batches_for(model, data, batch_size):
        if labels is None:
            raise ValueError(f"{wanting} needs labels: pass data as (inputs, labels).")
        yield inputs, labels


def repeatable(data: Any) -> Any:
    """The data itself, or a list of its batches where it can be read only once."""
    return list(data) if isinstance(data, Iterator) else data


def check_inputs(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """Returns a batch of inputs in the order of `model.inputs`; a dict goes by their names, as in Keras.

    Raises:
        ValueError: it does not fit what the model expects, or is not finite.
    """
    arrays, expected = _in_order(model, inputs), keras.tree.flatten(model.inputs)
    if len(arrays) != len(expected):
        raise ValueError(f"'{model.name}' has {len(expected)} inputs, the data gives {len(arrays)}.")
    for array, tensor in zip(arrays, expected, strict=True):
        _check(model, array, tensor)
    return arrays


def _in_order(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    if not isinstance(inputs, dict):
        return keras.tree.flatten(inputs)
    given = None if isinstance(model, keras.Sequential) else model.input
    names = sorted(given) if isinstance(given, dict) else [tensor.name for tensor in model.inputs]
    if set(names) != set(inputs):
        raise ValueError(f"The inputs of '{model.name}' are named {names}, the data has {list(inputs)}.")
    return keras.tree.flatten([inputs[name] for name in names])


def _check(model: keras.Model, array: np.ndarray, tensor: Any) -> None:
    """Raises `ValueError` unless the array can be fed to the model's input `tensor`."""
    sizes = zip(array.shape[1:], tensor.shape[1:], strict=False)
    if array.ndim != len(tensor.shape) or any(want not in (None, got) for got, want in sizes):
        raise ValueError(
            f"Input '{tensor.name}' of '{model.name}' wants batches of shape {tuple(tensor.shape)}, "
            f"the data has {array.shape}."
        )
    if array.dtype.kind in "OSU" and tensor.dtype != "string":
        raise ValueError(f"Input '{tensor.name}' of '{model.name}' wants numbers, the data holds text.")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise ValueError(f"The data for input '{tensor.name}' holds NaN or infinite values.")


def _as_numpy(struct: Any) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_numpy, struct)


def _is_arrays(data: Any, inputs: int | None) -> bool:
    """Whether `data` is one whole set of arrays, and not something that yields batches."""
    if isinstance(data, tuple):
        return _is_arrays(data[0], None) if data else True
    if isinstance(data, (list, dict)):
        leaves = list(data.values()) if isinstance(data, dict) else data
        arrays = not leaves or all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves)
        return arrays and (isinstance(data, dict) or inputs in (None, len(data)))
    return hasattr(data, "shape") and hasattr(data, "dtype")


def _slices(data: Any, batch_size: int) -> Iterator[Any]:
    data = data if isinstance(data, tuple) else (data,)  # Keras takes a list, too, for (inputs, labels)
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    lengths = {len(leaf) for leaf in leaves}
    if len(lengths) > 1:
        raise ValueError(f"The arrays hold different numbers of images: {sorted(lengths)}.")
    for start in range(0, max(lengths, default=0), batch_size):
        part = slice(start, start + batch_size)
        yield keras.tree.map_structure(lambda leaf, part=part: leaf if leaf is None else leaf[part], data)


def _batches_of(data: Iterable) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        return (data[index] for index in range(data.num_batches or len(data)))
    if not isinstance(data, Iterable):
        raise ValueError(
            "Expected arrays, a tuple (inputs, labels), a tf.data.Dataset, a PyDataset or an iterable of "
            f"batches, got {type(data).__name__}."
        )
    return iter(data)


def classes(labels: Any) -> np.ndarray:
    """Labels as integers `(images,)`, from integers `(images,)` or `(images, 1)`, or one-hot ones.

    Raises:
        ValueError: they are not one array of classes.
    """
    array = np.asarray(labels) if hasattr(labels, "shape") else None
    if array is not None and array.ndim == 2:
        array = array[:, 0] if array.shape[1] == 1 else array.argmax(axis=1)
    if array is None or array.ndim != 1 or not np.array_equal(array, np.round(array)):
        got = type(labels).__name__ if array is None else f"{array.dtype} of shape {np.shape(labels)}"
        raise ValueError(
            f"Expected one class per image, as integers (images,) or one-hot (images, classes), got {got}."
        )
    return array.astype(int)
