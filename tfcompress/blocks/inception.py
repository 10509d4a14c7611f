"""Inception: kernels of several sizes side by side (Szegedy et al. 2015)."""

from typing import Any

from keras import layers

from tfcompress.blocks.convolution import convolution


def inception(
    x: Any,
    filters1: int,
    filters3: tuple[int, int],
    filters5: tuple[int, int],
    pooled: int,
    *,
    norm: bool = False,
    name: str,
) -> Any:
    """1x1; 1x1 and 3x3; 1x1 and 5x5; 3x3 maxima and 1x1, put beside each other in this order.

    The module of GoogLeNet (Szegedy et al. 2015, "Going Deeper with Convolutions", fig. 2 b).

    Args:
        x: `(batch, height, width, channels)`.
        filters1: of the 1x1 convolution.
        filters3: of the 1x1 one before the 3x3 one, and of that.
        filters5: likewise, with 5x5.
        pooled: of the 1x1 convolution behind the pooling.
        norm: whether every convolution has BatchNormalization instead of a bias, which the paper has not.
        name: what names of its layers begin with.
    """
    branches = [convolution(x, filters1, norm=norm, name=f"{name}_1x1")]
    for size, (before, filters) in ((3, filters3), (5, filters5)):
        y = convolution(x, before, norm=norm, name=f"{name}_{size}x{size}_reduce")
        branches.append(convolution(y, filters, size, norm=norm, name=f"{name}_{size}x{size}"))
    y = layers.MaxPooling2D(3, 1, "same", name=f"{name}_pool")(x)
    branches.append(convolution(y, pooled, norm=norm, name=f"{name}_pool_proj"))
    return layers.Concatenate(name=f"{name}_concat")(branches)
