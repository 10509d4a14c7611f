"""Teachers and students for the tests of distillation."""

import keras
import numpy as np
from keras import layers
from surgery import randomize

CLASSES = 4


def network(widths=(6, 8), *, name="t", head="linear", size=8, seed=0, regularizer=None) -> keras.Model:
    """Convolutions `t0`, `t1`, ..., each half as large as the one before, and a head `t_head`."""
    keras.utils.set_random_seed(seed)
    x = i = keras.Input((size, size, 3))
    for number, width in enumerate(widths):
        convolution = layers.Conv2D(
            width, 3, strides=2, padding="same", name=f"{name}{number}", kernel_regularizer=regularizer
        )
        x = layers.BatchNormalization()(convolution(x))
        x = layers.ReLU(name=f"{name}_relu{number}")(x)
    x = layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
    outputs = layers.Dense(CLASSES, activation=head, name=f"{name}_head")(x)
    return randomize(keras.Model(i, outputs), seed)


def data(images=12, size=8, seed=0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(images, size, size, 3)).astype("float32"), rng.integers(0, CLASSES, images)


def loss_of_labels(head="linear"):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=head == "linear")


def numpy(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)
