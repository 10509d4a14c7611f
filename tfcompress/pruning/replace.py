"""Swap the convolutions of a trained model for cheaper designs."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras
import numpy as np

from tfcompress import _calls, _names
from tfcompress.analysis.grouping import check_finite
from tfcompress.pruning.designs import DEPTHWISE, Made, designs
from tfcompress.pruning.replaced import Block, Replaced, entries, exchange


@dataclass(frozen=True)
class Redesigned(Replaced):
    """Which convolutions `replace` replaced, and which not. Print it for a table.

    Attributes:
        layers: layer path -> (entries of the kernel, entries of those in its place).
        untouched: layer path -> why it stayed as it is.
        lost: layer path -> the share of its kernel's squares that those in its place do not have; NaN for
            Fire modules, which have a ReLU in their middle.
        outputs: path of a new layer -> (path of the layer it stands in for, which outputs of that it makes).
    """

    title = "Replaced convolutions"
    columns: ClassVar[tuple[str, ...]] = ("before", "after", "lost")
    lost: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, tuple[str, np.ndarray]] = field(default_factory=dict)

    def cells(self, path: str) -> list[str]:
        lost = self.lost[path]
        return [*super().cells(path), "" if np.isnan(lost) else f"{lost:.0%}"]


def replace(
    model: keras.Model,
    by: str = "separable",
    *,
    include: _names.Patterns = None,
    exclude: _names.Patterns = None,
    **settings: Any,
) -> keras.Model:
    """Returns a copy in which cheaper designs stand in for convolutions, with what these have learned.

    `"separable"` is a depthwise convolution and a 1x1 one, `"grouped"` a convolution with groups and a 1x1
    one. A kernel is cut into parts, one for each channel or group of channels, `(taps * channels, filters)`,
    and each part becomes the nearest matrix of lower rank: its first factor is the filters over the window,
    its second one their share in each output. With all ranks that is the same function, for separable ones
    with `rank=9` at 3x3 (Guo et al. 2018, "Network Decoupling", theorem 1; with groups Peng et al. 2018,
    "Extreme Network Compression via Filter Group Approximation"; `groups=1` is a factorization of the whole
    kernel). Nothing is normalized or cut off between the two, unlike in the unit of MobileNet: that could not
    begin where the layer was.

    `"fire"` is the module of SqueezeNet (Iandola et al. 2016). It has a ReLU in its middle, so that no
    decomposition gives the layer, and it begins further away: the squeeze has the kernel's first singular
    vectors over channels, and the first filters keep their middle tap.

    The last layer in a convolution's place has its name, so that the original is easily distilled from.
    Before that, `reconstruct(small, model, images)` fits what the new layers say, and
    `reestimate_batch_norm` the statistics behind them. Biases, activation functions and regularizers stay;
    constraints of kernels are those of the last layer.

    Args:
        model: a built functional or Sequential model. It is not changed. Convolutions over one and two axes,
            with windows of more than one position, are replaced where their kernels get smaller by it.
        by: `"separable"`, `"grouped"` or `"fire"`.
        include: layer names or regular expressions; only these layers.
        exclude: likewise, not those. The first and the last convolution lose most, as a rule.
        settings: `rank` (1) of `"separable"`; `groups` (4) and `rank` of `"grouped"`, by default as many
            filters as the layer has; a rank below 1 is the share of the kernel's squares to keep, by as few
            filters as that takes. `squeezed` (0.125) and `expanded` (0.5) of `"fire"`: shares of filters.

    Returns:
        The new model, compiled as the old one was. Its attribute `redesigned` says which layers were
        replaced, and why others were not.

    Raises:
        ValueError: the model is subclassed or not built, the design or a name is unknown, a setting is out of
            range, or a weight is NaN.

    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(16, 3, activation="relu", name="stem")(x)
    >>> y = keras.layers.Conv2D(32, 3, activation="relu", name="second")(y)
    >>> y = keras.layers.GlobalAveragePooling2D()(y)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="head")(y))
    >>> small = replace(model, "separable", rank=2, exclude="stem")
    >>> dict(small.redesigned.layers)
    {'second': (4608, 1312)}
    >>> from tfcompress import distillation
    >>> losses = [distillation.SoftTargets(4.0), distillation.Hints("second")]
    >>> distiller = distillation.Distiller(model, small, losses)
    """
    _calls.check_functional(model)
    check_finite(model)
    design = designs.get({"name": by, **settings})
    taken = {operation.name for _, operation in _calls.walk(model)}
    made: dict[str, Made] = {}

    def free(name: str) -> str:
        taken.add(name := _names.free(name, taken))
        return name

    def make(path: str, layer: Any) -> Block | str:
        reason = _unsuited(layer)
        found = reason or design.make(layer, free)
        if isinstance(found, str):
            return found
        before, after = layer.kernel.shape, entries(found.block)
        if after >= np.prod(before):
            return f"its kernel would get {after} entries instead of {np.prod(before)}"
        made[path] = found
        return found.block

    small, report = exchange(model, make, include, exclude, functools.partial(_report, made))
    small.redesigned = report
    return small


def _unsuited(layer: Any) -> str:
    """Why a layer cannot be replaced; empty if it can."""
    if type(layer) not in DEPTHWISE:
        return f"no convolution over one or two axes, but {type(layer).__name__}"
    if len(layer.weights) != 1 + layer.use_bias:
        return "it has other weights than a kernel and a bias: it is quantized, or has LoRA"
    return "" if max(layer.kernel_size) > 1 else "it looks at one position"


def _report(made: Mapping[str, Made], sizes: Mapping, untouched: Mapping) -> Redesigned:
    outputs = {
        "/".join([*path.split("/")[:-1], name]): (path, own)
        for path, found in made.items()
        for name, own in found.outputs.items()
    }
    return Redesigned(sizes, untouched, {path: found.lost for path, found in made.items()}, outputs)
