"""What `replace` puts in the place of a convolution: designs that are cheaper, one class each."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from tfcompress import _cloning
from tfcompress._arrays import to_numpy
from tfcompress._checks import check_number, check_whole, is_number, is_whole
from tfcompress._registry import Registry
from tfcompress.pruning.low_rank import Factors
from tfcompress.pruning.replaced import Block

designs = Registry("design")

DEPTHWISE = {layers.Conv1D: layers.DepthwiseConv1D, layers.Conv2D: layers.DepthwiseConv2D}
# What only the layer has that makes the outputs.
_INSIDE = {
    "use_bias": False,
    "activation": None,
    "bias_regularizer": None,
    "activity_regularizer": None,
    "kernel_constraint": None,
    "bias_constraint": None,
}


class Made(NamedTuple):
    """What stands in for a layer.

    Attributes:
        block: it.
        outputs: name of a layer in it -> the numbers of the outputs of the replaced layer that it makes.
        lost: the share of the kernel's squares that it does not have; NaN where that means nothing.
    """

    block: Block
    outputs: dict[str, np.ndarray]
    lost: float


Free = Callable[[str], str]


@designs.register("grouped")
@dataclass(frozen=True)
class Grouped:
    """A convolution with groups, and a 1x1 one.

    Args:
        groups: of channels, each of which the first convolution looks at alone.
        rank: how many filters it has for each group; below 1, the share of the kernel's squares to keep, by
            as few of them as that takes; None: as many as the layer has filters, over all groups.
    """

    groups: int = 4
    rank: float | None = None

    def __post_init__(self) -> None:
        check_whole("groups", self.groups)
        _check_rank(self.rank)

    def make(self, layer: Any, free: Free) -> Made | str:
        """What stands in for a convolution, or why there is none."""
        own, channels = layer.groups, layer.groups * layer.kernel.shape[-2]
        if channels % self.groups or self.groups % own:
            return f"{self.groups} groups do not divide its {channels} channels, or not by its {own} groups"
        factors = Factors.of(to_numpy(layer.kernel), self.groups, own)
        rank = _rank(self.rank or max(1, layer.filters // self.groups), factors)
        inside = _INSIDE | {"groups": self.groups, "filters": self.groups * rank}
        first = type(layer).from_config(
            _cloning.settings(layer) | inside | {"name": free(f"{layer.name}_grouped")}
        )
        return _two(layer, first, factors, rank)


@designs.register("separable")
@dataclass(frozen=True)
class Separable:
    """A depthwise convolution and a 1x1 one.

    Args:
        rank: how many filters each channel has; below 1, the share of the kernel's squares to keep, by as few
            of them as that takes. With as many as the window has taps nothing is lost.
    """

    rank: float = 1

    def __post_init__(self) -> None:
        _check_rank(self.rank)

    def make(self, layer: Any, free: Free) -> Made | str:
        """What stands in for a convolution, or why there is none."""
        if layer.padding == "causal" or len(set(layer.strides)) > 1:
            return "depthwise convolutions have no causal padding, and equal strides; take 'grouped'"
        channels = layer.groups * layer.kernel.shape[-2]
        factors = Factors.of(to_numpy(layer.kernel), channels, layer.groups)
        rank = _rank(self.rank, factors)
        first = DEPTHWISE[type(layer)](
            layer.kernel_size,
            layer.strides,
            layer.padding,
            rank,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            depthwise_regularizer=layer.kernel_regularizer,
            trainable=layer.trainable,
            dtype=layer.dtype_policy,
            name=free(f"{layer.name}_depthwise"),
        )
        return _two(layer, first, factors, rank)


@designs.register("fire")
@dataclass(frozen=True)
class Fire:
    """A 1x1 convolution to few channels with ReLU, then 1x1 ones and whole windows side by side.

    Args:
        squeezed: channels of the first convolution, as a share of the layer's filters.
        expanded: the share of the filters that keep the window: the last ones.
    """

    squeezed: float = 0.125
    expanded: float = 0.5

    def __post_init__(self) -> None:
        for name, share in dataclasses.asdict(self).items():
            check_number(name, share, "(0, 1)")

    def make(self, layer: Any, free: Free) -> Made | str:
        """What stands in for a convolution, or why there is none."""
        if layer.groups > 1 or layer.padding == "valid" or layer.filters < 2:
            return "a Fire module has no groups, keeps the size of maps, and has two filters at least"
        points = layer.filters - min(max(1, round(self.expanded * layer.filters)), layer.filters - 1)
        kernel = to_numpy(layer.kernel).astype("float64")
        squeeze, rest = _squeezed(kernel, max(1, round(self.squeezed * layer.filters)))
        centre = tuple(
            size - 1 if layer.padding == "causal" else (size - 1) // 2 for size in layer.kernel_size
        )
        kernels = {
            "expand1": rest[(*map(slice, centre, np.add(centre, 1)), slice(None), slice(points))],
            f"expand{_size(layer.kernel_size)}": rest[..., points:],
        }
        return self._made(layer, free, squeeze, kernels)

    def _made(self, layer: Any, free: Free, squeeze: np.ndarray, kernels: dict[str, np.ndarray]) -> Made:
        config = _cloning.settings(layer)
        last = {"activation": None, "activity_regularizer": None}
        width = squeeze.shape[-1]
        named = {"name": free(f"{layer.name}_squeeze"), "filters": width}
        inside = _INSIDE | _pointwise(layer) | {"use_bias": True, "activation": "relu"}
        first = _built(type(layer), config | inside | named, _shape(layer), [squeeze, np.zeros(width)])
        shape = first.compute_output_shape(_shape(layer))
        sides, outputs, begin = [], {}, 0
        for suffix, kernel in kernels.items():
            own = np.arange(begin, begin := begin + kernel.shape[-1])
            bias = [to_numpy(layer.bias)[own]] if layer.use_bias else []
            named = {
                "name": free(f"{layer.name}_{suffix}"),
                "filters": len(own),
                "kernel_size": kernel.shape[:-2],
            }
            side = _built(type(layer), config | last | named, shape, [kernel, *bias])
            outputs[side.name] = own
            sides.append(side)
        return Made(Block([first, *sides], _joined(layer, first, sides, free)), outputs, float("nan"))


def _joined(layer: Any, first: Any, sides: list, free: Free) -> Callable[[Any], Any]:
    """The function of a Fire module; the last layer has the name of the one it stands in for."""
    plain = layer.activation is keras.activations.linear and layer.activity_regularizer is None
    end = layers.Activation(
        layer.activation,
        activity_regularizer=layer.activity_regularizer,
        dtype=layer.dtype_policy,
        name=layer.name,
    )
    concat = layers.Concatenate(
        1 if layer.data_format == "channels_first" else -1,
        dtype=layer.dtype_policy,
        name=layer.name if plain else free(f"{layer.name}_concat"),
    )

    def call(x: Any) -> Any:
        x = first(x)
        y = concat([side(x) for side in sides])
        return y if plain else end(y)

    return call


def _two(layer: Any, first: Any, factors: Factors, rank: int) -> Made:
    """The first convolution, given its kernel, and the 1x1 one that has the layer's name."""
    kernel, pointwise = factors.kernels(rank)
    first.build(_shape(layer))
    first.set_weights([kernel.reshape(first.kernel.shape)])
    bias = layer.get_weights()[1:]
    config = _cloning.settings(layer) | _pointwise(layer)
    last = _built(type(layer), config, first.compute_output_shape(_shape(layer)), [pointwise, *bias])
    return Made(
        Block([first, last], lambda x: last(first(x))),
        {layer.name: np.arange(layer.filters)},
        factors.lost(rank),
    )


def _pointwise(layer: Any) -> dict[str, Any]:
    """Of a convolution of the layer's kind that looks at one position."""
    one = [1] * len(layer.kernel_size)
    return {"kernel_size": one, "strides": one, "dilation_rate": one, "padding": "valid"}


def _size(window: tuple[int, ...]) -> str:
    return str(window[0]) if len(set(window)) == 1 else "x".join(map(str, window))


def _built(kind: Any, config: dict[str, Any], shape: Any, weights: list[np.ndarray]) -> Any:
    made: Any = kind.from_config(config)
    made.build(shape)
    made.set_weights(weights)
    return made


def _shape(layer: Any) -> tuple:
    return tuple(layer.get_build_config()["input_shape"])


def _squeezed(kernel: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest that few channels allow, by singular values, with as much as can be above zero.

    What channels see is not negative behind a ReLU, so that kernels of positive sum are cut least by the
    next one.
    """
    *window, channels, filters = kernel.shape
    factors = Factors.of(np.moveaxis(kernel, -2, 0).reshape(1, channels, -1), 1)
    width = min(width, factors.rank)
    signs = np.where(factors.left[0, :, :width].sum(0) < 0, -1.0, 1.0)
    squeeze, rest = (each[0] for each in factors.kernels(width))
    rest = np.moveaxis((rest * signs[:, None]).reshape(width, *window, filters), 0, -2)
    return (squeeze * signs).reshape([1] * len(window) + [channels, width]), rest


def _check_rank(rank: Any) -> None:
    if rank is not None and not is_whole(rank) and not is_number(rank, "(0, 1)"):
        raise ValueError(
            f"rank must be a whole number of at least 1, or the share of a kernel's squares to keep, between "
            f"0 and 1; got {rank!r}."
        )


def _rank(rank: float, factors: Factors) -> int:
    return factors.rank_for(rank) if rank < 1 else int(min(rank, factors.rank))
