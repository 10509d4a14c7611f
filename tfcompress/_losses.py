"""The loss of every single example, from whatever a user gives `compile` as a loss.

>>> import keras, numpy as np
>>> x = keras.Input((2,))
>>> model = keras.Model(x, keras.layers.Dense(1, name="head")(x))
>>> losses = per_example(model, "mse")(np.zeros(3), [np.array([[1.0], [2.0], [3.0]])])
>>> keras.ops.convert_to_numpy(losses)
array([1., 4., 9.], dtype=float32)
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfcompress._checks import near_miss

Losses = Callable[[Any, list], Any]


def per_example(model: keras.Model, loss: Any = None) -> Losses:
    """Returns `(labels, outputs in flat order) -> (batch,)` losses, summed over the outputs.

    Args:
        model: the model whose outputs they are.
        loss: as for `keras.Model.compile`: a name, a function, a `keras.losses.Loss`, or a list or dict of
            these for several outputs; of a `Loss` the reduction has no say. None: the one that the model
            was compiled with, and its weights of several outputs.

    Raises:
        ValueError: there is none, or it does not fit the outputs.
    """
    names, weights = output_names(model), None
    if loss is None:
        loss, weights = getattr(model, "loss", None), _compiled_weights(model, names)
    if loss is None:
        raise ValueError(
            f"'{model.name}' is not compiled with a loss. Compile it, or say loss=..., such as "
            "loss='sparse_categorical_crossentropy'."
        )
    functions = [None if one is None else each(one) for one in _spread(loss, names, "loss")]
    factors = [1.0] * len(names) if weights is None else _spread(weights, names, "loss weight")

    def losses(labels: Any, outputs: list) -> Any:
        given = by_output(labels, names)
        terms = [
            factor * function(label, output)
            for factor, function, label, output in zip(factors, functions, given, outputs, strict=True)
            if function is not None
        ]
        return sum(terms[1:], start=terms[0])

    return losses


def each(loss: Any) -> Callable:
    """From labels and one output to `(batch,)` losses; a name, a function, or a `keras.losses.Loss`."""
    return _Each(_function(loss))


class _Each(keras.losses.Loss):
    """The means over all but the batch axis; Keras makes labels of shape (batch,) and (batch, 1) alike."""

    def __init__(self, function: Callable):
        super().__init__(name="loss_of_each", reduction=None, dtype="float32")
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        values = self.function(y_true, y_pred)
        others = tuple(range(1, len(values.shape)))
        return keras.ops.mean(values, axis=others) if others else values


def _function(loss: Any) -> Callable:
    found = keras.losses.get(loss)
    return found.call if isinstance(found, keras.losses.Loss) else found


def by_output(labels: Any, names: list[str]) -> list:
    """What is given for outputs, as one thing, a list or a dict, as a list; None where a dict has nothing."""
    return _spread(labels, names, "label")


def _compiled_weights(model: keras.Model, names: list[str]) -> Any:
    """The weights of outputs that the model was compiled with; of a single one they do not matter."""
    if len(names) == 1:
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        return model.get_compile_config().get("loss_weights")


def output_names(model: keras.Model) -> list[str]:
    """The names of the outputs, in flat order."""
    outputs = None if isinstance(model, keras.Sequential) else model.output
    return sorted(outputs) if isinstance(outputs, Mapping) else list(model.output_names)


def _spread(given: Any, names: list[str], kind: str) -> list:
    """What was given as one thing, a list or a dict, as a list by output."""
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(near_miss("output", unknown[0], names))
        return [given.get(name) for name in names]
    listed = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if len(listed) != len(names):
        raise ValueError(f"The model has {len(names)} outputs, {names}, but there are {len(listed)} {kind}s.")
    return listed
