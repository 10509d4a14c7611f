"""Small networks for the examples."""

from keras import Input, Model, layers


def resnet20(input_shape: tuple[int, int, int], classes: int, width: int = 16) -> Model:
    """ResNet-20 for CIFAR (He et al. 2016, section 4.2): 3 stages of 3 basic blocks.

    The shortcuts that change size are 1x1 convolutions (option B).

    Args:
        input_shape: (height, width, channels).
        classes: units of the softmax.
        width: filters of the first stage, 16 in the paper; the later ones have 2 and 4 times as many.
    """
    images = Input(input_shape)
    x = _conv_norm(images, width, 3, 1, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage in range(3):
        for block in range(3):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _basic_block(x, width * 2**stage, stride, f"stage{stage + 1}_block{block + 1}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return Model(images, layers.Dense(classes, activation="softmax", name="head")(x), name="resnet20")


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


def vgg(input_shape: tuple[int, int, int], classes: int, width: int = 64) -> Model:
    """A small network in the style of VGG (Simonyan & Zisserman 2015), with batch normalization.

    Three stages of two 3x3 convolutions and a pooling, then two Dense layers.

    Args:
        input_shape: (height, width, channels).
        classes: units of the softmax.
        width: filters of the first stage, 64 in the paper; the later ones have 2 and 4 times as many.
    """
    images = x = Input(input_shape)
    for stage in range(3):
        for number in (1, 2):
            name = "stem" if (stage, number) == (0, 1) else f"stage{stage + 1}_conv{number}"
            x = _conv_norm(x, width * 2**stage, 3, 1, name)
            x = layers.ReLU(name=f"{name}_relu")(x)
        x = layers.MaxPooling2D(name=f"stage{stage + 1}_pool")(x)
    x = layers.Dense(8 * width, activation="relu", name="hidden")(layers.Flatten(name="flatten")(x))
    return Model(images, layers.Dense(classes, activation="softmax", name="head")(x), name="vgg")


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
