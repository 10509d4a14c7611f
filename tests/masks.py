"""What tests of masks share: small models, random masks, and the weights that count worked out by hand."""

import keras
import numpy as np
from keras import layers

from tfcompress.layers import masked_weights


def network(optimizer=None, *, head_dtype=None, **compile_options) -> keras.Model:
    """Two convolutions, a normalization, dropout and a classifier of three classes."""
    keras.utils.set_random_seed(3)
    x = i = keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, use_bias=False, name="first")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.8, name="norm")(x))
    x = layers.Conv2D(8, 3, activation="relu", kernel_regularizer="l2", name="second")(x)
    x = layers.Dropout(0.1, name="dropout")(layers.Flatten(name="flatten")(x))
    model = keras.Model(i, layers.Dense(3, dtype=head_dtype, name="head")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), loss, **compile_options)
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


class StopAfter(keras.callbacks.Callback):
    """Kills the training at the end of an epoch."""

    def __init__(self, epoch: int):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt
