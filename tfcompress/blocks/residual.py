"""Residual blocks, basic and with a bottleneck, and nets of them (He et al. 2016, Xie et al. 2017)."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from tfcompress.blocks.convolution import classifier, convolution, images

EXPANSION = 4  # outputs of a bottleneck, over the filters of its name


def basic(x: Any, filters: int, strides: int = 1, *, name: str) -> Any:
    """Two 3x3 convolutions, and the input added (He et al. 2016, "Deep Residual Learning", fig. 5 left).

    Args:
        x: `(batch, height, width, channels)`.
        filters: outputs.
        strides: of the first convolution.
        name: what names of its layers begin with.
    """
    y = convolution(x, filters, 3, strides, name=f"{name}_conv1")
    y = convolution(y, filters, 3, activation=None, name=f"{name}_conv2")
    return joined(x, y, strides, name)


def bottleneck(x: Any, filters: int, strides: int = 1, *, outputs: int | None = None, name: str) -> Any:
    """1x1, 3x3 and 1x1 convolutions, and the input added (He et al. 2016, fig. 5 right).

    The 3x3 convolution has the stride, as in all later implementations; in the paper the first has it.

    Args:
        x: `(batch, height, width, channels)`.
        filters: of the first two convolutions.
        strides: of the 3x3 convolution.
        outputs: of the last one; None: four times the filters.
        name: what names of its layers begin with.
    """
    y = convolution(x, filters, name=f"{name}_conv1")
    y = convolution(y, filters, 3, strides, name=f"{name}_conv2")
    y = convolution(y, outputs or EXPANSION * filters, activation=None, name=f"{name}_conv3")
    return joined(x, y, strides, name)


def joined(x: Any, y: Any, strides: int, name: str) -> Any:
    """The sum of input and `y`, the input behind a 1x1 convolution where shapes differ (option B)."""
    if strides != 1 or x.shape[-1] != y.shape[-1]:
        x = convolution(x, y.shape[-1], strides=strides, activation=None, name=f"{name}_shortcut")
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


Block = Callable[..., Any]


def residual_net(
    block: Block,
    input_shape: tuple[int, int, int],
    classes: int,
    repeats: Sequence[int],
    *,
    activation: str | None = "softmax",
    name: str,
) -> keras.Model:
    """A net of residual blocks for large images: 7x7 convolution, pooling, stages of 64, 128, ... filters.

    Args:
        block: `block(x, filters, strides, name=...)`.
        input_shape: (height, width, channels).
        classes: units of the head.
        repeats: how many blocks each stage has.
        activation: of the head; None: logits.
        name: of the model.
    """
    inputs = images(input_shape)
    x = layers.ZeroPadding2D(3, name="stem_pad")(inputs)
    x = convolution(x, 64, 7, 2, padding="valid", name="stem")
    x = layers.MaxPooling2D(3, 2, "same", name="stem_pool")(x)
    for stage, repeat in enumerate(repeats):
        for number in range(repeat):
            strides = 2 if stage > 0 and number == 0 else 1
            x = block(x, 64 * 2**stage, strides, name=f"stage{stage + 1}_block{number + 1}")
    return keras.Model(inputs, classifier(x, classes, activation), name=name)


def resnet50(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    *,
    activation: str | None = "softmax",
) -> keras.Model:
    """ResNet-50 (He et al. 2016, table 1): 25,557,032 parameters, statistics of normalizations apart."""
    return residual_net(
        bottleneck, input_shape, classes, (3, 4, 6, 3), activation=activation, name="resnet50"
    )
