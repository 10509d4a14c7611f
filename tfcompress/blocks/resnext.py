"""ResNeXt: many equal paths, in three forms that compute the same (Xie et al. 2017)."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress._checks import check_choice, near_miss
from tfcompress.blocks.convolution import convolution, finished
from tfcompress.blocks.residual import EXPANSION, joined, residual_net

FORMS = ("split", "concatenated", "grouped")
_OF_A_PATH = re.compile(r"(.+)_path(\d+)_(conv[12](?:_norm)?|conv3)")


def aggregated(
    x: Any,
    outputs: int,
    strides: int = 1,
    *,
    cardinality: int = 32,
    width: int = 4,
    form: str = "grouped",
    name: str,
) -> Any:
    """`x + sum_i T_i(x)`: as many equal paths as `cardinality`, each 1x1, 3x3 and 1x1 convolutions.

    Forms of the same function (Xie et al. 2017, "Aggregated Residual Transformations", fig. 3): "split" (a)
    computes every path and adds them, "concatenated" (b) puts the paths together before one last 1x1
    convolution, "grouped" (c) is three convolutions, of which the second has groups. `carry` takes weights
    from one to another. Normalization follows the first two convolutions of a path, and the sum.

    Args:
        x: `(batch, height, width, channels)`.
        outputs: of the block.
        strides: of the 3x3 convolutions.
        cardinality: the number of paths.
        width: channels within each path.
        form: one of the above.
        name: what names of its layers begin with.

    Raises:
        ValueError: the form is unknown.
    """
    check_choice("form", form, FORMS)
    if form == "grouped":
        y = convolution(x, cardinality * width, name=f"{name}_conv1")
        y = convolution(y, cardinality * width, 3, strides, groups=cardinality, name=f"{name}_conv2")
        y = convolution(y, outputs, activation=None, name=f"{name}_conv3")
        return joined(x, y, strides, name)
    paths = []
    for number in range(cardinality):
        path = convolution(x, width, name=f"{name}_path{number}_conv1")
        paths.append(convolution(path, width, 3, strides, name=f"{name}_path{number}_conv2"))
    if form == "concatenated":
        y = layers.Concatenate(name=f"{name}_concat")(paths) if cardinality > 1 else paths[0]
        y = convolution(y, outputs, activation=None, name=f"{name}_conv3")
        return joined(x, y, strides, name)
    paths = [
        layers.Conv2D(outputs, 1, use_bias=False, name=f"{name}_path{number}_conv3")(path)
        for number, path in enumerate(paths)
    ]
    y = layers.Add(name=f"{name}_sum")(paths) if cardinality > 1 else paths[0]
    return joined(x, finished(y, True, None, f"{name}_conv3"), strides, name)


def carry(source: keras.Model, target: keras.Model) -> keras.Model:
    """Gives a model of `aggregated` blocks the weights of one with the same blocks in another form.

    Layers of equal names have equal weights; kernels and normalizations of paths are put together along
    their outputs, the last kernels along their inputs, or taken apart.

    Returns:
        `target`.

    Raises:
        ValueError: a layer of the target has no counterpart.
    """
    held = _merged({layer.name: layer.get_weights() for layer in source.layers if layer.weights})
    for layer in target.layers:
        if layer.weights:
            layer.set_weights(_found(held, layer))
    return target


def _merged(weights: Mapping[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """As of the grouped form: what paths have is put together under the name of the whole."""
    paths: dict[str, dict[int, list[np.ndarray]]] = {}
    found = {}
    for name, arrays in weights.items():
        whole, number = _path(name)
        if number is None:
            found[name] = list(arrays)
        else:
            paths.setdefault(whole, {})[number] = list(arrays)
    for whole, by_number in paths.items():
        axis = -2 if whole.endswith("_conv3") else -1
        columns = zip(*(by_number[number] for number in sorted(by_number)), strict=True)
        found[whole] = [np.concatenate(arrays, axis) for arrays in columns]
    return found


def _found(held: Mapping[str, list[np.ndarray]], layer: keras.Layer) -> list[np.ndarray]:
    whole, number = _path(layer.name)
    if whole not in held:
        raise ValueError(near_miss("layer of the source", whole, held))
    if number is None:
        return held[whole]
    axis = -2 if whole.endswith("_conv3") else -1
    sizes = [weight.shape[axis] for weight in layer.weights]
    return [
        np.take(array, np.arange(number * size, (number + 1) * size), axis)
        for array, size in zip(held[whole], sizes, strict=True)
    ]


def _path(name: str) -> tuple[str, int | None]:
    """From `block_path3_conv1_norm` to `block_conv1_norm` and 3; other names as they are."""
    found = _OF_A_PATH.fullmatch(name)
    return (f"{found[1]}_{found[3]}", int(found[2])) if found else (name, None)


def resnext(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    *,
    cardinality: int = 32,
    width: int = 4,
    form: str = "grouped",
    activation: str | None = "softmax",
) -> keras.Model:
    """ResNeXt-50 (Xie et al. 2017, table 1); 32 x 4d has 25,028,904 parameters, statistics apart.

    Args:
        input_shape: (height, width, channels).
        classes: units of the head.
        cardinality: the number of paths.
        width: channels of each path in the first stage, doubled in each that follows.
        form: see `aggregated`.
        activation: of the head; None: logits.
    """

    def block(x: Any, filters: int, strides: int, name: str) -> Any:
        return aggregated(
            x,
            EXPANSION * filters,
            strides,
            cardinality=cardinality,
            width=filters * width // 64,
            form=form,
            name=name,
        )

    made = functools.partial(residual_net, block, input_shape, classes, (3, 4, 6, 3))
    return made(activation=activation, name="resnext50")
