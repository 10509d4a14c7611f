"""SqueezeNet: few channels, then 1x1 and 3x3 convolutions side by side (Iandola et al. 2016)."""

from typing import Any

import keras
from keras import layers

from tfcompress._checks import check_choice
from tfcompress.blocks.convolution import convolution, images

# filters of the stem, its size, and before which of fire2 ... fire9 maps are halved
VERSIONS = {"1.0": (96, 7, (2, 5, 9)), "1.1": (64, 3, (2, 4, 6))}
SQUEEZED = (16, 16, 32, 32, 48, 48, 64, 64)


def fire(x: Any, squeezed: int, expanded1: int, expanded3: int, *, name: str) -> Any:
    """A 1x1 convolution to few channels, then 1x1 and 3x3 ones side by side; each with bias and ReLU.

    The Fire module (Iandola et al. 2016, "SqueezeNet", section 3.2).

    Args:
        x: `(batch, height, width, channels)`.
        squeezed: filters of the first convolution.
        expanded1: filters of the 1x1 one behind it.
        expanded3: filters of the 3x3 one. Outputs are `expanded1 + expanded3`, in this order.
        name: what names of its layers begin with.
    """
    x = convolution(x, squeezed, norm=False, name=f"{name}_squeeze")
    both = [
        convolution(x, filters, size, norm=False, name=f"{name}_expand{size}")
        for filters, size in ((expanded1, 1), (expanded3, 3))
    ]
    return layers.Concatenate(name=f"{name}_concat")(both)


def squeezenet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    *,
    version: str = "1.0",
    activation: str | None = "softmax",
) -> keras.Model:
    """SqueezeNet (Iandola et al. 2016, table 1); 1,248,424 parameters in version 1.0, 1,235,496 in 1.1.

    Pooling windows may reach beyond the map, as in Caffe.

    Args:
        input_shape: (height, width, channels).
        classes: filters of the last convolution.
        version: "1.0", or "1.1", which is 2.4 times cheaper.
        activation: of the end; None: logits.

    Raises:
        ValueError: the version is unknown.
    """
    check_choice("version", version, VERSIONS)
    filters, size, pooled = VERSIONS[version]
    inputs = images(input_shape)
    x = convolution(inputs, filters, size, 2, norm=False, padding="valid", name="stem")
    for number, squeezed in enumerate(SQUEEZED, 2):
        if number in pooled:
            x = _pooled(x, name=f"pool{number}")
        x = fire(x, squeezed, 4 * squeezed, 4 * squeezed, name=f"fire{number}")
    x = layers.Dropout(0.5, name="dropout")(x)
    x = convolution(x, classes, norm=False, name="head")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if activation is not None:
        x = layers.Activation(activation, name=activation)(x)
    return keras.Model(inputs, x, name="squeezenet")


def _pooled(x: Any, name: str) -> Any:
    """Maxima over 3x3 windows in steps of 2, of which the last may reach beyond a map without negatives."""
    beyond = tuple((0, (size - 3) % 2 if size else 0) for size in x.shape[1:3])
    if any(after for _, after in beyond):
        x = layers.ZeroPadding2D(beyond, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(3, 2, name=name)(x)
