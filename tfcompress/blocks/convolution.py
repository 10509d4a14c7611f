"""What the blocks are made of: convolutions with normalization and activation function.

>>> import keras
>>> x = keras.Input((8, 8, 3))
>>> model = keras.Model(x, separable(x, 16, strides=2, name="a"))
>>> [layer.name for layer in model.layers[1:]]
['a_depthwise', 'a_depthwise_norm', 'a_depthwise_relu', 'a_pointwise', 'a_pointwise_norm', 'a_pointwise_relu']
"""

from typing import Any

import keras
from keras import layers

MOMENTUM = 0.99  # Keras's own


def convolution(
    x: Any,
    filters: int,
    size: int = 1,
    strides: int = 1,
    *,
    groups: int = 1,
    norm: bool = True,
    activation: str | None = "relu",
    padding: str = "same",
    name: str,
) -> Any:
    """A convolution, with normalization instead of a bias unless `norm=False`, and an activation function.

    Args:
        x: `(batch, height, width, channels)`.
        filters: outputs.
        size: of the kernel, in both directions.
        strides: likewise.
        groups: it must divide channels and filters.
        norm: whether BatchNormalization follows.
        activation: a name; None: none.
        padding: "same" or "valid".
        name: of the convolution; what follows is `name_norm` and `name_relu`.

    Raises:
        ValueError: the groups do not divide channels and filters.
    """
    channels = x.shape[-1]
    if channels % groups or filters % groups:
        raise ValueError(
            f"'{name}': {groups} groups do not divide {channels} channels and {filters} filters."
        )
    x = layers.Conv2D(filters, size, strides, padding, groups=groups, use_bias=not norm, name=name)(x)
    return finished(x, norm, activation, name)


def depthwise(
    x: Any,
    size: int = 3,
    strides: int = 1,
    *,
    norm: bool = True,
    activation: str | None = "relu",
    name: str,
) -> Any:
    """A filter for each channel; see `convolution` for the arguments."""
    x = layers.DepthwiseConv2D(size, strides, "same", use_bias=not norm, name=name)(x)
    return finished(x, norm, activation, name)


def separable(
    x: Any, filters: int, size: int = 3, strides: int = 1, *, activation: str | None = "relu", name: str
) -> Any:
    """A depthwise and a 1x1 convolution, each normalized and with an activation function.

    That is the unit of MobileNet (Howard et al. 2017). It takes `1 / filters + 1 / size^2` of the
    multiplications of a whole convolution.
    """
    x = depthwise(x, size, strides, activation=activation, name=f"{name}_depthwise")
    return convolution(x, filters, activation=activation, name=f"{name}_pointwise")


def finished(x: Any, norm: bool, activation: str | None, name: str) -> Any:
    """Behind a convolution: normalization and activation function, as far as wanted."""
    if norm:
        x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    if activation == "relu":
        return layers.ReLU(name=f"{name}_relu")(x)
    return x if activation is None else layers.Activation(activation, name=f"{name}_{activation}")(x)


def classifier(x: Any, classes: int, activation: str | None = "softmax") -> Any:
    """The mean over positions, and a dense layer."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(classes, activation=activation, name="head")(x)


def images(input_shape: tuple[int | None, int | None, int]) -> keras.KerasTensor:
    return keras.Input(input_shape, name="images")
