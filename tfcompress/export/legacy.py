"""A Keras 3 model built again in tf_keras, for tools that know no other.

Such tools change what they are given: make a new twin for each use.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import _calls
from tfcompress._arrays import to_numpy

EXTRA = "pip install 'tfcompress[tfmot]', in an environment of its own"
_OPERATIONS = {"Add": "Add", "Multiply": "Multiply", "Subtract": "Subtract", "Maximum": "Maximum"}
_LEFT_OUT = ("_initializer", "_regularizer", "_constraint")  # nothing that a trained model needs
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Twin:
    """The same model twice.

    Attributes:
        original: the Keras 3 model.
        model: the one in tf_keras, with equal weights.
        layers: path in the original -> layer of tf_keras.
    """

    original: keras.Model
    model: Any
    layers: dict[str, Any]


def twin(model: keras.Model) -> Twin:
    """The model in tf_keras, checked on random inputs.

    Raises:
        ImportError: tf_keras is not installed.
        ValueError: the model is subclassed or not built, or has parts that tf_keras lacks: the message lists
            all of them; or its twin computes something else.
    """
    tf_keras = _tf_keras()
    _calls.check_functional(model)
    paths = {id(operation): path for path, operation in _calls.walk(model)}
    made, refused = {}, {}
    for operation in _calls.calls(model):
        path = paths[id(operation)]
        try:
            made[path] = _made(operation, path, tf_keras)
        except (TypeError, ValueError) as error:
            refused[path] = f"{path} ({type(operation).__name__}): {error}"
    if refused:
        raise ValueError(f"'{model.name}' has no twin in tf_keras. {'; '.join(refused.values())}.")
    recipe = _calls.read(model)
    inputs = [
        tf_keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=f"input_{number}")
        for number, tensor in enumerate(keras.tree.flatten(_calls.input_of(model)))
    ]
    values = recipe.values(inputs, _caller(made, paths))
    new = tf_keras.Model(inputs, keras.tree.map_structure(values.get, recipe.outputs), name=model.name)
    operations = {path: operation for path, operation in _calls.walk(model) if path in made}
    for path, operation in operations.items():
        if getattr(operation, "weights", None):
            made[path].set_weights([to_numpy(weight) for weight in operation.weights])
    _check_equal(model, new)
    return Twin(model, new, made)


def _tf_keras() -> Any:
    try:
        import tf_keras
    except ImportError as error:
        raise ImportError(f"This needs tf_keras: {EXTRA}.") from error
    return tf_keras


def _made(operation: keras.Operation, path: str, tf_keras: Any) -> Any:
    """The layer of tf_keras for an operation."""
    name, kind = path.replace("/", "_"), type(operation).__name__
    if not isinstance(operation, keras.Layer):
        if kind not in _OPERATIONS:
            raise ValueError("an operation that is no layer")
        return getattr(tf_keras.layers, _OPERATIONS[kind])(name=name)
    cls = getattr(tf_keras.layers, kind, None)
    if cls is None or type(operation) is not getattr(keras.layers, kind, None):
        raise ValueError("tf_keras has no such layer")
    if _calls.wrapped_layers(operation):
        raise ValueError("a layer around another")
    config = {**_calls.config_of(operation), "name": name, "dtype": operation.compute_dtype}
    return cls(**{key: value for key, value in config.items() if key in _arguments(cls)})


def _arguments(cls: type) -> set[str]:
    """What the constructor takes, but for what a trained model needs no more."""
    names = {name for base in cls.__mro__ for name in inspect.signature(base.__init__).parameters}  # type: ignore[misc]
    return {name for name in names if not name.endswith(_LEFT_OUT)} | {"name", "dtype"}


def _caller(made: dict[str, Any], paths: dict[int, str]) -> Callable[[_calls.Call, Any, dict], Any]:
    def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
        if _calls.is_functional(step.operation):
            inner = _calls.read(step.operation)
            tensors = [one for one in keras.tree.flatten((args, kwargs)) if hasattr(one, "shape")]
            outputs = inner.run(tensors, call)
            return keras.tree.pack_sequence_as(inner.outputs, outputs)
        layer = made[paths[id(step.operation)]]
        if isinstance(step.operation, keras.Layer):
            return layer(*args, **kwargs)
        return layer(list(args))

    return call


def _check_equal(model: keras.Model, new: Any) -> None:
    rng = np.random.default_rng(0)
    tensors = keras.tree.flatten(_calls.input_of(model))
    arrays = [
        rng.normal(size=[size or 4 for size in tensor.shape]).astype(tensor.dtype) for tensor in tensors
    ]
    with keras.device("cpu:0"):
        ours = model(keras.tree.pack_sequence_as(_calls.input_of(model), arrays), training=False)
        theirs = new(arrays, training=False)
    pairs = zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True)
    for one, other in ((np.asarray(one), np.asarray(other)) for one, other in pairs):
        error = np.abs(one - other).max(initial=0) / (np.abs(one).max(initial=0) or 1)
        if not error <= _TOLERANCE:
            raise ValueError(
                f"The twin of '{model.name}' in tf_keras computes something else: its outputs differ by "
                f"{error:.2g} of the largest."
            )
