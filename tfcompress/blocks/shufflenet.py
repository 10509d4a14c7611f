"""ShuffleNet: grouped 1x1 convolutions, and channels shuffled between them (Zhang et al. 2018)."""

from typing import Any

import keras
from keras import layers

from tfcompress._checks import check_choice
from tfcompress.blocks.convolution import classifier, convolution, depthwise, images
from tfcompress.layers import ChannelShuffle

WIDTHS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # outputs of the second stage by groups
STEM = 24
REPEATS = (3, 7, 3)  # units of stride 1 behind the one of stride 2, by stage


def shuffle_unit(
    x: Any, outputs: int, strides: int = 1, *, groups: int = 3, first_groups: int | None = None, name: str
) -> Any:
    """Grouped 1x1 convolution, shuffle, 3x3 depthwise, grouped 1x1; added to the input, or beside its mean.

    With stride 1 the input is added; with stride 2 its means over 3x3 windows are put beside (Zhang et al.
    2018, "ShuffleNet", fig. 2 b and c). A quarter of the outputs lies between. Shuffling is the paper's, from
    (groups, n) to (n, groups); Megvii's code has the inverse, behind the depthwise convolution.

    Args:
        x: `(batch, height, width, channels)`.
        outputs: of the unit.
        strides: 1 or 2.
        groups: of the 1x1 convolutions.
        first_groups: of the first one; None: the same.
        name: what names of its layers begin with.

    Raises:
        ValueError: groups do not divide channels, or with stride 1 the outputs are not as many as the inputs.
    """
    channels = x.shape[-1]
    if strides == 1 and channels != outputs:
        raise ValueError(
            f"'{name}' adds its input of {channels} channels, and so has as many, not {outputs}."
        )
    made = outputs if strides == 1 else outputs - channels
    y = convolution(x, outputs // 4, groups=first_groups or groups, name=f"{name}_conv1")
    if groups > 1:
        y = ChannelShuffle(groups, name=f"{name}_shuffle")(y)
    y = depthwise(y, 3, strides, activation=None, name=f"{name}_depthwise")
    y = convolution(y, made, groups=groups, activation=None, name=f"{name}_conv2")
    if strides == 1:
        y = layers.Add(name=f"{name}_add")([x, y])
    else:
        x = layers.AveragePooling2D(3, strides, "same", name=f"{name}_pool")(x)
        y = layers.Concatenate(name=f"{name}_concat")([x, y])
    return layers.ReLU(name=f"{name}_relu")(y)


def shufflenet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    *,
    groups: int = 3,
    width: float = 1.0,
    activation: str | None = "softmax",
) -> keras.Model:
    """ShuffleNet v1 (Zhang et al. 2018, table 1).

    Args:
        input_shape: (height, width, channels).
        classes: units of the head.
        groups: 1, 2, 3, 4 or 8.
        width: what the numbers of channels are multiplied by; that of the stem only by whole numbers, or by
            less than 1, as in the authors' code, so that groups divide what is made beside it.
        activation: of the head; None: logits.

    Raises:
        ValueError: the groups are none of these, or do not divide the channels at this width.
    """
    check_choice("number of groups", groups, WIDTHS)
    inputs = images(input_shape)
    stem = _multiple(STEM * (width if width < 1 else int(width)), groups)
    x = convolution(inputs, stem, 3, 2, name="stem")
    x = layers.MaxPooling2D(3, 2, "same", name="stem_pool")(x)
    for stage, repeat in enumerate(REPEATS):
        outputs = _multiple(WIDTHS[groups] * 2**stage * width, 4 * groups)
        # The first 1x1 convolution of all sees so few channels that it is not grouped (section 3.2).
        first = 1 if stage == 0 else None
        x = shuffle_unit(x, outputs, 2, groups=groups, first_groups=first, name=f"stage{stage + 2}_unit1")
        for number in range(repeat):
            x = shuffle_unit(x, outputs, groups=groups, name=f"stage{stage + 2}_unit{number + 2}")
    return keras.Model(inputs, classifier(x, classes, activation), name="shufflenet")


def _multiple(channels: float, of: int) -> int:
    """The next multiple of `of`, at least one."""
    return max(of, round(channels / of) * of)
