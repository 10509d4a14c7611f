"""Small networks for the examples."""

from collections.abc import Sequence

import tensorflow as tf
from keras import Input, Model, layers, models

from tfcompress import blocks


def resnet20(input_shape: tuple[int, int, int], classes: int, width: int = 16) -> Model:
    """ResNet-20 for CIFAR; see `resnet`."""
    return resnet(input_shape, classes, width, depth=20)


def resnet(input_shape: tuple[int, int, int], classes: int, width: int = 16, depth: int = 20) -> Model:
    """A residual network for CIFAR (He et al. 2016, section 4.2): 3 stages of basic blocks.

    The shortcuts that change size are 1x1 convolutions (option B).

    Args:
        input_shape: (height, width, channels).
        classes: units of the softmax.
        width: filters of the first stage, 16 in the paper; the later ones have 2 and 4 times as many.
        depth: 6 n + 2, with n blocks in each stage: 8, 14, 20, ...
    """
    images = Input(input_shape)
    x = _conv_norm(images, width, 3, 1, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage in range(3):
        for block in range((depth - 2) // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _basic_block(x, width * 2**stage, stride, f"stage{stage + 1}_block{block + 1}")
    return Model(images, _head(x, classes), name=f"resnet{depth}")


def _head(x, classes: int):
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(classes, activation="softmax", name="head")(x)


def small_mobilenet(input_shape: tuple[int, int, int], classes: int, width: int = 16) -> Model:
    """MobileNet's depthwise-separable units (Howard et al. 2017) for small images, which it halves twice.

    Args:
        input_shape: (height, width, channels).
        classes: units of the softmax.
        width: filters of the first layer; the last ones have 8 times as many.
    """
    images = Input(input_shape)
    x = blocks.convolution(images, width, 3, name="stem")
    for number, (times, strides) in enumerate(((2, 1), (4, 2), (4, 1), (8, 2), (8, 1)), 1):
        x = blocks.separable(x, times * width, strides=strides, name=f"unit{number}")
    return Model(images, _head(x, classes), name="small_mobilenet")


def small_shufflenet(
    input_shape: tuple[int, int, int], classes: int, width: int = 16, groups: int = 2
) -> Model:
    """ShuffleNet's units (Zhang et al. 2018) for small images, which it halves twice.

    Args:
        input_shape: (height, width, channels).
        classes: units of the softmax.
        width: filters of the first layer; the units have 4 and 8 times as many.
        groups: of the 1x1 convolutions.
    """
    images = Input(input_shape)
    x = blocks.convolution(images, width, 3, name="stem")
    for stage, times in ((2, 4), (3, 8)):
        for number, strides in ((1, 2), (2, 1)):
            name = f"stage{stage}_unit{number}"
            x = blocks.shuffle_unit(x, times * width, strides, groups=groups, name=name)
    return _quick(Model(images, _head(x, classes), name="small_shufflenet"))


class Conv2D(layers.Conv2D):
    """For groups: Keras compiles these with XLA, whose gradients take ten times as long on a CPU."""

    def convolution_op(self, inputs, kernel):
        return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate)


def _quick(model: Model) -> Model:
    def same(layer: layers.Layer) -> layers.Layer:
        grouped = isinstance(layer, layers.Conv2D) and layer.groups > 1
        return (Conv2D if grouped else type(layer)).from_config(layer.get_config())

    return models.clone_model(model, clone_function=same)


def _basic_block(x, filters: int, stride: int, name: str):
    y = _conv_norm(x, filters, 3, stride, f"{name}_conv1")
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = _conv_norm(y, filters, 3, 1, f"{name}_conv2")
    if stride != 1:
        x = _conv_norm(x, filters, 1, stride, f"{name}_shortcut")
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([x, y]))


def _conv_norm(x, filters: int, size: int, stride: int, name: str):
    x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)


def vgg(
    input_shape: tuple[int, int, int], classes: int, width: int = 64, hidden: Sequence[int] = ()
) -> Model:
    """A small network in the style of VGG (Simonyan & Zisserman 2015), with batch normalization.

    Three stages of two 3x3 convolutions and a pooling, then Dense layers.

    Args:
        input_shape: (height, width, channels).
        classes: units of the softmax.
        width: filters of the first stage, 64 in the paper; the later ones have 2 and 4 times as many.
        hidden: units of each Dense layer before the softmax; a single one of `8 * width` if there are none.
            The paper has two of 4096.
    """
    images = x = Input(input_shape)
    for stage in range(3):
        for number in (1, 2):
            name = "stem" if (stage, number) == (0, 1) else f"stage{stage + 1}_conv{number}"
            x = _conv_norm(x, width * 2**stage, 3, 1, name)
            x = layers.ReLU(name=f"{name}_relu")(x)
        x = layers.MaxPooling2D(name=f"stage{stage + 1}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate(hidden or (8 * width,), 1):
        name = "hidden" if number == 1 else f"hidden{number}"
        x = layers.Dense(units, activation="relu", name=name)(x)
    return Model(images, layers.Dense(classes, activation="softmax", name="head")(x), name="vgg")


def lenet300_100(input_shape: tuple[int, int, int], classes: int) -> Model:
    """Two hidden layers of 300 and 100 units (LeCun et al. 1998): 266,610 parameters for 28x28 images."""
    images = x = Input(input_shape)
    x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate((300, 100), 1):
        x = layers.Dense(units, activation="relu", name=f"ip{number}")(x)
    return Model(images, layers.Dense(classes, activation="softmax", name="ip3")(x), name="lenet300_100")


def lenet5(input_shape: tuple[int, int, int], classes: int) -> Model:
    """LeNet-5 as in Caffe's example for MNIST, the one that papers on pruning compress.

    For 28x28 images it has 431,080 parameters.
    """
    images = x = Input(input_shape)
    for number, filters in enumerate((20, 50), 1):
        x = layers.Conv2D(filters, 5, name=f"conv{number}")(x)
        x = layers.MaxPooling2D(name=f"pool{number}")(x)
    x = layers.Dense(500, activation="relu", name="ip1")(layers.Flatten(name="flatten")(x))
    return Model(images, layers.Dense(classes, activation="softmax", name="ip2")(x), name="lenet5")


def small_cnn(input_shape: tuple[int, int, int], classes: int) -> Model:
    """Three convolutions for 8x8 digits."""
    images = x = Input(input_shape)
    for number, filters in enumerate((32, 64, 64), 1):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"conv{number}_norm")(x)
        x = layers.ReLU(name=f"conv{number}_relu")(x)
        if number < 3:
            x = layers.MaxPooling2D(name=f"pool{number}")(x)
    x = layers.Flatten(name="flatten")(x)
    return Model(images, layers.Dense(classes, activation="softmax", name="head")(x), name="small_cnn")
