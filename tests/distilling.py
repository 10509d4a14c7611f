"""Teachers and students for the tests of distillation."""

import keras
import numpy as np
from keras import layers
from surgery import randomize

from tfcompress import distillation

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


EVERY = {
    "soft_targets": lambda: distillation.SoftTargets(),
    "decoupled": lambda: distillation.DecoupledTargets(),
    "attention": lambda: distillation.AttentionTransfer(),
    "hints": lambda: distillation.Hints("t_relu1", "s_relu1"),
    "similarity": lambda: distillation.SimilarityPreserving("t_pool", "s_pool"),
    "distance": lambda: distillation.RelationalDistance("t_pool", "s_pool"),
    "angle": lambda: distillation.RelationalAngle("t_pool", "s_pool"),
    "selectivity": lambda: distillation.NeuronSelectivity("t_relu0", "s_relu0"),
    "gradients": lambda: distillation.GradientAttention(),
}


def teacher(**arguments):
    return network((6, 8), name="t", seed=1, **arguments)


def student(**arguments):
    return network((3, 4), name="s", seed=2, **arguments)


def weights(model):
    return [weight.copy() for weight in model.get_weights()]


def assert_equal(ones, others):
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(one, other)


@keras.saving.register_keras_serializable("distilling")
class Counting(layers.Layer):
    """Counts its calls, by whether the model trained."""

    def build(self, shape):
        self.training = self.add_weight(shape=(), name="training", trainable=False, initializer="zeros")
        self.other = self.add_weight(shape=(), name="other", trainable=False, initializer="zeros")

    def call(self, x, training=False):
        (self.training if training else self.other).assign_add(1.0)
        return x


# On JAX a step drops what changes in a model that it does not train.
REMEMBERED = keras.backend.backend() != "jax"


def counting(base):
    x = i = keras.Input(base.input_shape[1:])
    x = Counting(name="counting")(x)
    return keras.Model(i, base(x))
