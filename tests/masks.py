"""What tests of masks share: small models, random masks, and the weights that count worked out by hand."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
from keras import layers

from tfcompress.layers import masked_weights

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def parts(head_dtype=None, dropout: float = 0.1) -> list[keras.Layer]:
    """Two convolutions, a normalization, dropout and a classifier of three classes; no unit can die."""
    keras.utils.set_random_seed(3)
    return [
        layers.Conv2D(8, 3, use_bias=False, name="first"),
        layers.BatchNormalization(momentum=0.8, name="norm"),
        layers.ReLU(name="relu"),
        layers.Conv2D(8, 3, activation="leaky_relu", kernel_regularizer="l2", name="second"),
        layers.Flatten(name="flatten"),
        layers.Dropout(dropout, name="dropout"),
        layers.Dense(3, dtype=head_dtype, name="head"),
    ]


def network(optimizer=None, *, head_dtype=None, dropout=0.1, **compile_options) -> keras.Model:
    """The parts in a functional model."""
    x = i = keras.Input((8, 8, 2))
    for layer in parts(head_dtype, dropout):
        x = layer(x)
    model = keras.Model(i, x)
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), LOSS, **compile_options)
    return model


class Subclassed(keras.Model):
    """The parts in a model that is Python code."""

    def __init__(self, head_dtype=None, dropout=0.1):
        super().__init__()
        self.parts = parts(head_dtype, dropout)

    def call(self, x, training=False):
        for layer in self.parts:
            differs = isinstance(layer, (layers.BatchNormalization, layers.Dropout))
            x = layer(x, training=training) if differs else layer(x)  # under JAX, fit() hands on nothing
        return x


def subclassed(optimizer=None, *, head_dtype=None, dropout=0.1, **compile_options) -> Subclassed:
    """The same weights as those of `network`."""
    model = Subclassed(head_dtype, dropout)
    model(np.zeros((1, 8, 8, 2), "float32"))
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), LOSS, **compile_options)
    return model


def data(size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 8, 8, 2)).astype("float32"), rng.integers(0, 3, size)


def fit(model: keras.Model, *callbacks, epochs: int = 1, **options) -> keras.callbacks.History:
    """Three steps an epoch, unless there is more data."""
    x, y = data()
    options = {"batch_size": 16, "verbose": 0, "shuffle": False, **options}
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **options)


def array(value) -> np.ndarray:
    return keras.ops.convert_to_numpy(value)


def arrays(model: keras.Model) -> list[np.ndarray]:
    return [array(variable) for variable in model.variables]


def optimizer_state(model: keras.Model) -> list[np.ndarray]:
    return [array(variable) for variable in model.optimizer.variables]


def assert_equal(expected: list[np.ndarray], got: list[np.ndarray]) -> None:
    """Bit for bit, as far as `==` tells."""
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_array_equal(a, b)


def assign_random_masks(model, seed: int = 0, sparsity: float = 0.5) -> None:
    rng = np.random.default_rng(seed)
    for masked in masked_weights(model):
        masked.mask.assign(rng.random(masked.weight.shape) >= sparsity)


def counting(model) -> list[np.ndarray]:
    """The trained weights of a model, `w * T` in place of `w`."""
    masks = {id(masked.weight): masked.kept for masked in masked_weights(model)}
    return [array(weight) * masks.get(id(weight), 1) for weight in model.trainable_variables]


def weights_of(model, name: str) -> np.ndarray:
    """The kernel of that layer of a model of the parts, wrapped or not."""
    return next(array(weight) for weight in model.weights if weight.path.endswith(f"{name}/kernel"))


def run_python(program: str, folder) -> str:
    """Runs a program in a process of its own that can import what tests import; returns what it printed."""
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class StopAfter(keras.callbacks.Callback):
    """Kills the training at the end of an epoch."""

    def __init__(self, epoch: int):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def constants(path, shapes: dict[str, tuple[int, ...]], half: bool) -> dict[str, np.ndarray]:
    """The kernels in a .tflite file, outputs first, by their shapes; half precision has float32 beside."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    by_shape = {}
    for tensor in interpreter.get_tensor_details():
        if tuple(tensor["shape"]) in shapes.values() and (tensor["dtype"] is np.float16) == half:
            by_shape[tuple(tensor["shape"])] = interpreter.get_tensor(tensor["index"])
    return {name: by_shape[shape] for name, shape in shapes.items()}
