"""Networks of the papers, of plain Keras layers, to count. Their weights are zeros: drawing costs time."""

import keras
from keras import layers


def _conv(x, filters, size=1, strides=1, groups=1, activation=None):
    conv = layers.Conv2D(
        filters,
        size,
        strides,
        "same",
        groups=groups,
        use_bias=False,
        kernel_initializer="zeros",
    )
    x = layers.BatchNormalization()(conv(x))
    return layers.Activation(activation)(x) if activation else x


def _classifier(x):
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dense(1000, kernel_initializer="zeros")(x)


def resnext50(cardinality=32, width=4):
    """ResNeXt-50, form (C) of Xie et al. 2017: grouped convolutions; no bias before normalization."""
    image = keras.Input((224, 224, 3))
    x = _conv(image, 64, 7, 2, activation="relu")
    x = layers.MaxPooling2D(3, 2, "same")(x)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        planes = 64 * 2**stage
        inner = planes * width // 64 * cardinality
        for block in range(blocks):
            strides = 2 if stage and not block else 1
            y = _conv(x, inner, activation="relu")
            y = _conv(y, inner, 3, strides, cardinality, "relu")
            y = _conv(y, 4 * planes)
            shortcut = x if block else _conv(x, 4 * planes, 1, strides)
            x = layers.ReLU()(layers.Add()([shortcut, y]))
    return keras.Model(image, _classifier(x))


def shufflenet(groups):
    """ShuffleNet v1 1x of Zhang et al. 2018, for 1, 2, 3, 4 or 8 groups."""
    width = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}[groups]
    image = keras.Input((224, 224, 3))
    x = _conv(image, 24, 3, 2, activation="relu")
    x = layers.MaxPooling2D(3, 2, "same")(x)
    for stage, units in enumerate((4, 8, 4)):
        for unit in range(units):
            x = _shuffle_unit(x, width * 2**stage, groups, first=unit == 0, grouped=stage + unit > 0)
    return keras.Model(image, _classifier(x))


def _shuffle_unit(x, filters, groups, first, grouped):
    """`first`: the unit halves the map and its shortcut is concatenated. `grouped`: its first layer is."""
    y = _conv(x, filters // 4, groups=groups if grouped else 1, activation="relu")
    height, width, channels = y.shape[1:]
    y = layers.Reshape((height, width, groups, channels // groups))(y)
    y = layers.Reshape((height, width, channels))(layers.Permute((1, 2, 4, 3))(y))
    y = layers.DepthwiseConv2D(3, 2 if first else 1, "same", use_bias=False)(y)
    y = layers.BatchNormalization()(y)
    y = _conv(y, filters - x.shape[-1] if first else filters, groups=groups)
    if first:
        return layers.ReLU()(layers.Concatenate()([layers.AveragePooling2D(3, 2, "same")(x), y]))
    return layers.ReLU()(layers.Add()([x, y]))


FIRE = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))


def squeezenet(version):
    """SqueezeNet of Iandola et al. 2016, version "1.0" or "1.1"."""
    filters, size, pools = {"1.0": (96, 7, (0, 3, 7)), "1.1": (64, 3, (0, 2, 4))}[version]
    image = keras.Input((227, 227, 3))
    x = layers.Conv2D(filters, size, 2, activation="relu")(image)
    for number, (squeeze, expand) in enumerate(FIRE):
        if number in pools:
            x = layers.MaxPooling2D(3, 2)(x)
        s = layers.Conv2D(squeeze, 1, activation="relu")(x)
        one = layers.Conv2D(expand, 1, activation="relu")(s)
        three = layers.Conv2D(expand, 3, padding="same", activation="relu")(s)
        x = layers.Concatenate()([one, three])
    x = layers.Conv2D(1000, 1, activation="relu")(x)
    return keras.Model(image, layers.GlobalAveragePooling2D()(x))
