"""MobileNet: depthwise-separable convolutions, and their inverted residuals (Howard 2017, Sandler 2018)."""

from typing import Any

import keras
from keras import layers

from tfcompress.blocks.convolution import classifier, convolution, depthwise, images, separable

# (filters, strides) of the units behind the stem of 32 filters; Howard et al. 2017, table 1. Its last unit is
# printed with a stride of 2, which would leave maps of 4 where the table goes on with 7.
UNITS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


def mobilenet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    *,
    width: float = 1.0,
    resolution: float = 1.0,
    activation: str | None = "softmax",
) -> keras.Model:
    """MobileNet v1 (Howard et al. 2017, "MobileNets", table 1).

    At 224 px it has 568.7 M multiplications and 4.25 M parameters. Unlike `keras.applications.MobileNet` it
    has ReLU and not ReLU6, the same padding on both sides, and a dense head.

    Args:
        input_shape: (height, width, channels) at resolution 1.
        classes: units of the head.
        width: alpha, what the filters of all layers are multiplied by.
        resolution: rho, what height and width of the images are multiplied by: the paper's second multiplier.
            (In Keras `depth_multiplier` is called so, which is another thing.)
        activation: of the head; None: logits.
    """
    height, width_, channels = input_shape
    inputs = images((round(height * resolution), round(width_ * resolution), channels))
    x = convolution(inputs, _scaled(32, width), 3, 2, name="stem")
    for number, (filters, strides) in enumerate(UNITS, 1):
        x = separable(x, _scaled(filters, width), strides=strides, name=f"unit{number}")
    return keras.Model(inputs, classifier(x, classes, activation), name="mobilenet")


def _scaled(filters: int, width: float) -> int:
    if width <= 0:
        raise ValueError(f"width is what numbers of filters are multiplied by, above 0; got {width!r}.")
    return max(1, int(filters * width))


def inverted_residual(
    x: Any, filters: int, strides: int = 1, expansion: float = 6, *, size: int = 3, name: str
) -> Any:
    """From few channels to many, a depthwise convolution, and back to few, without activation function.

    The block of MobileNetV2 (Sandler et al. 2018, table 1). Where stride and channels allow, its input is
    added.

    Args:
        x: `(batch, height, width, channels)`.
        filters: outputs.
        strides: of the depthwise convolution.
        expansion: how many times as many channels lie between; 1: no expansion.
        size: of the depthwise kernels.
        name: what names of its layers begin with.
    """
    channels = x.shape[-1]
    y = x
    if expansion != 1:
        y = convolution(y, round(channels * expansion), activation="relu6", name=f"{name}_expand")
    y = depthwise(y, size, strides, activation="relu6", name=f"{name}_depthwise")
    y = convolution(y, filters, activation=None, name=f"{name}_project")
    return layers.Add(name=f"{name}_add")([x, y]) if strides == 1 and channels == filters else y
