"""Xception: separable convolutions without anything in between, and residuals (Chollet 2017)."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from tfcompress.blocks.convolution import classifier, convolution, images

ENTRY = (128, 256, 728)


def xception_module(
    x: Any, filters: Sequence[int], *, pool: bool = False, first_relu: bool = True, name: str
) -> Any:
    """ReLU and separable convolution, several times; added to the input, or to a 1x1 convolution of it.

    A module of Xception (Chollet 2017, "Xception", fig. 5). Between depthwise and 1x1 convolution there is no
    activation function, unlike in MobileNet.

    Args:
        x: `(batch, height, width, channels)`.
        filters: of each separable convolution.
        pool: whether maxima over 3x3 windows in steps of 2 end it, and the shortcut is a convolution.
        first_relu: whether a ReLU comes first, which the first module of the net has not.
        name: what names of its layers begin with.

    Raises:
        ValueError: without a pool its outputs are not as many as its inputs.
    """
    if not pool and filters[-1] != x.shape[-1]:
        raise ValueError(
            f"'{name}' adds its input of {x.shape[-1]} channels, and so has as many, not {filters[-1]}."
        )
    y = x
    for number, width in enumerate(filters, 1):
        if number > 1 or first_relu:
            y = layers.ReLU(name=f"{name}_relu{number}")(y)
        y = separable_norm(y, width, name=f"{name}_sepconv{number}")
    if pool:
        y = layers.MaxPooling2D(3, 2, "same", name=f"{name}_pool")(y)
        x = convolution(x, filters[-1], strides=2, activation=None, name=f"{name}_shortcut")
    return layers.Add(name=f"{name}_add")([x, y])


def separable_norm(x: Any, filters: int, *, name: str) -> Any:
    """A separable 3x3 convolution, normalized."""
    x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(name=f"{name}_norm")(x)


def xception(
    input_shape: tuple[int, int, int] = (299, 299, 3),
    classes: int = 1000,
    *,
    middle: int = 8,
    activation: str | None = "softmax",
) -> keras.Model:
    """Xception (Chollet 2017, fig. 5): 22,910,480 parameters.

    Args:
        input_shape: (height, width, channels).
        classes: units of the head.
        middle: how many modules lie in the middle.
        activation: of the head; None: logits.
    """
    inputs = images(input_shape)
    x = convolution(inputs, 32, 3, 2, padding="valid", name="stem1")
    x = convolution(x, 64, 3, padding="valid", name="stem2")
    for number, width in enumerate(ENTRY, 1):
        x = xception_module(x, (width, width), pool=True, first_relu=number > 1, name=f"entry{number}")
    for number in range(1, middle + 1):
        x = xception_module(x, (728,) * 3, name=f"middle{number}")
    x = xception_module(x, (728, 1024), pool=True, name="exit1")
    for number, width in enumerate((1536, 2048), 2):
        x = layers.ReLU(name=f"exit{number}_relu")(separable_norm(x, width, name=f"exit{number}"))
    return keras.Model(inputs, classifier(x, classes, activation), name="xception")
