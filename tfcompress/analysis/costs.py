"""Multiply-accumulates (MACs) per image, layer by layer and weight by weight.

>>> import keras
>>> x = keras.Input((8, 8, 3))
>>> model = keras.Model(x, keras.layers.Conv2D(4, 3, padding="same", name="stem")(x))
>>> macs(model)  # 8*8 positions * 3*3*3*4 weights
6912
>>> macs_by_weight(model)
{('stem', 0): 64, ('stem', 1): 0}

One principle serves all layers: a weight of a kernel is multiplied once at each *position* where
the kernel is applied, so `MACs = positions * size of the kernel`. A table says for each layer class
where its kernels are applied. Zeros from padding count as inputs like any other. FLOPs are twice
the MACs; what papers call FLOPs are mostly MACs.
"""

import math
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress import _calls
from tfcompress.analysis.mac_rules import Count, MacRule, has_unruled_products, lookup
from tfcompress.analysis.steps import InputShape, Replay, Step, replay


@dataclass(frozen=True)
class Costs:
    """Where a model multiplies, per image.

    Args:
        positions: (layer path, index in `layer.weights`) -> at how many positions the weight is
            applied, over all calls of the layer; 0 for biases and other weights that multiply
            nothing. Each weight is listed with the innermost layer that owns it.
        products: layer path -> MACs between two activations.
        uncounted: layer path -> why its MACs are not known; they count as 0.
    """

    positions: dict[tuple[str, int], int]
    products: dict[str, int]
    uncounted: dict[str, str]


def macs(model: keras.Model, input_shape: InputShape | None = None) -> int:
    """Returns the MACs of a model per image, zeros in the weights included.

    Layers whose MACs are not known count as 0; `costs(model).uncounted` lists them.

    Args:
        model: a functional or Sequential Keras model, built.
        input_shape: the size of one image without batch axis, or a list, one for each of `model.inputs`.
            Needed where the model leaves its size open.

    Raises:
        ValueError: the model is subclassed or not built, its input size is open, or a layer does
            not accept the size given.
    """
    found = costs(model, input_shape)
    layers = dict(_calls.walk(model))
    by_weights = sum(
        positions * math.prod(layers[path].weights[index].shape)
        for (path, index), positions in found.positions.items()
    )
    return by_weights + sum(found.products.values())


def macs_by_weight(model: keras.Model, input_shape: InputShape | None = None) -> dict[tuple[str, int], int]:
    """Returns how often each weight is multiplied per image: the MACs per entry of the weight.

    After a pruning that changes the shapes of the weights, but not the sizes of the maps, the MACs
    are `sum(positions * new size)`. This holds for grouped convolutions too, whose kernel is
    (height, width, channels / groups, filters). The products of two activations in attention
    belong to no weight and are not here: see `costs(model).products`.

    Args:
        model: a functional or Sequential Keras model, built.
        input_shape: as for `macs`.

    Returns:
        (layer path, index in `layer.weights`) -> positions; 0 for biases. Weights inside nested
        models and wrappers are listed with the inner layer: `("bidirectional/forward_lstm", 0)`.

    Raises:
        ValueError: as for `macs`.

    >>> x = keras.Input((10, 8))
    >>> model = keras.Model(x, keras.layers.Bidirectional(keras.layers.GRU(4), name="both")(x))
    >>> macs_by_weight(model)[("both/forward_gru", 0)]  # once per time step
    10
    """
    return costs(model, input_shape).positions


def costs(model: keras.Model, input_shape: InputShape | None = None) -> Costs:
    """Returns where a model multiplies, and which of its layers no rule covers.

    Args:
        model: a functional or Sequential Keras model, built.
        input_shape: as for `macs`.

    Raises:
        ValueError: as for `macs`.

    >>> x = keras.Input((10, 8))
    >>> model = keras.Model(x, keras.layers.MultiHeadAttention(2, 4, name="attend")(x, x))
    >>> costs(model).products  # 2 heads * 10 queries * 10 keys * (4 + 4)
    {'attend': 1600}
    """
    return tally(model, replay(model, input_shape))


def tally(model: keras.Model, run: Replay) -> Costs:
    """Adds up the steps of a model."""
    layers = dict(_calls.walk(model))
    positions = {(path, index): 0 for path, layer in layers.items() for index in own_weights(layer)}
    products: dict[str, int] = {}
    called = {step.path for step in run.steps}
    uncounted = {path: "how its wrapper calls it is not known" for path, _ in positions if path not in called}
    for step in run.steps:
        reason = why_uncounted(step)
        rule = lookup(step.operation)
        if reason:
            uncounted[step.path] = reason
        elif rule:
            for index, count in counts(step, rule).items():
                positions[step.path, index] += count(step) * step.times
            if rule.products:
                products[step.path] = products.get(step.path, 0) + rule.products(step) * step.times
    return Costs(positions, products, uncounted)


def own_weights(layer: Any) -> dict[int, keras.Variable]:
    """Index in `layer.weights` -> weight, without those of the layers inside this one."""
    if _calls.is_functional(layer):
        return {}
    inner = {id(weight) for child in _calls.wrapped_layers(layer) for weight in child.weights}
    weights = getattr(layer, "weights", [])
    return {index: weight for index, weight in enumerate(weights) if id(weight) not in inner}


def counts(step: Step, rule: MacRule) -> dict[int, Count]:
    """Index of each weight that multiplies -> the function that counts its positions."""
    return {
        index: count
        for index, weight in own_weights(step.operation).items()
        for name, count in rule.positions.items()
        if f"/{weight.path}".endswith(f"/{name}")
    }


def why_uncounted(step: Step) -> str | None:
    """The reason why the MACs of a call are not known, or None."""
    kind, rule = type(step.operation).__name__, lookup(step.operation)
    if rule is None:
        multiplies = own_weights(step.operation) or has_unruled_products(step.operation)
        return f"no rule for {kind}; tfcompress.analysis.register takes one" if multiplies else None
    if any(None in tensor.shape[1:] for tensor in step.inputs + step.outputs):
        return "the shape of its input or output is open"
    if rule.positions and not counts(step, rule):
        return f"it holds no weight named {' or '.join(rule.positions)}"
    if getattr(step.operation, "quantization_mode", None) == "int4":
        return "its kernel is packed, two weights in one byte"
    return None
