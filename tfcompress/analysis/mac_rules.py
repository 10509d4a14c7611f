"""Where each kind of layer multiplies: one table, open to user code.

>>> import keras
>>> from tfcompress import analysis
>>> class Mix(keras.layers.Layer):  # each pixel: channels times a square matrix
...     def build(self, shape):
...         self.matrix = self.add_weight(shape=(shape[-1], shape[-1]), name="matrix")
...     def call(self, x):
...         return x @ self.matrix
>>> analysis.register(Mix, analysis.MacRule({"matrix": analysis.at_outputs}))
>>> x = keras.Input((8, 8, 3))
>>> analysis.macs(keras.Model(x, Mix()(x)))
576
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress.analysis.steps import Step, elements

Count = Callable[[Step], int]


@dataclass(frozen=True)
class MacRule:
    """Where a layer multiplies, in one call for one image.

    Args:
        positions: end of a weight's path -> function of the `Step` that returns at how many
            positions the weight is applied. Weights left out multiply nothing, or cost nothing
            by convention: biases, normalization.
        products: function of the `Step` that returns the MACs between two activations, as in
            attention: those that belong to no weight.
    """

    positions: dict[str, Count] = field(default_factory=dict)
    products: Count | None = None


# ------------------------------------------------------------------ where kernels are applied


def at_outputs(step: Step) -> int:
    """Once for every place of the output: convolutions, Dense on any rank."""
    return _places(step.outputs[0], step.operation)


def at_inputs(step: Step) -> int:
    """Once for every place of the input: transposed convolutions."""
    return _places(step.inputs[0], step.operation)


def at_time_steps(step: Step) -> int:
    """Once per time step: recurrent layers, input and state alike."""
    return step.inputs[0].shape[1]


def at_outputs_and_time_steps(step: Step) -> int:
    """Convolutional recurrent layers; their output has a time axis or has not."""
    made = step.outputs[0]
    steps = 1 if len(made.shape) == len(step.inputs[0].shape) else at_time_steps(step)
    return elements(made) // step.operation.filters * steps


def at_einsum(step: Step) -> int:
    """Once for every combination of the input's indices that the kernel does not have."""
    source, kernel = step.operation.equation.replace(" ", "").split("->")[0].split(",")
    shape = step.inputs[0].shape
    head, *tail = source.split("...")
    labels = head + "." * (len(shape) - len(head + "".join(tail))) + "".join(tail)
    return math.prod(size for label, size in zip(labels, shape, strict=True) if label not in kernel)


def at_pairs(step: Step) -> int:
    """Once for every pair of query and key: additive attention."""
    query, key, _ = _attended(step)
    return query.shape[1] * key.shape[1]


def _at_queries(step: Step) -> int:
    return _places(_attended(step)[0])


def _at_keys(step: Step) -> int:
    return _places(_attended(step)[1])


def _at_values(step: Step) -> int:
    return _places(_attended(step)[2])


def _places(tensor: keras.KerasTensor, layer: Any = None) -> int:
    """The elements of a tensor beside its channels."""
    axis = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
    return elements(tensor) // tensor.shape[axis]


# ------------------------------------------------------------------ products of two activations


def multi_head_products(step: Step) -> int:
    """Queries by keys, then scores by values: `heads * queries * keys * (key_dim + value_dim)`."""
    query, key, _ = _attended(step)
    config = step.operation.get_config()
    axes = config["attention_axes"] or range(1, len(key.shape) - 1)
    scores = config["num_heads"] * _places(query) * math.prod(key.shape[axis] for axis in axes)
    return scores * (config["key_dim"] + (config["value_dim"] or config["key_dim"]))


def grouped_query_products(step: Step) -> int:
    """As for multi-head attention, with the heads of the queries."""
    config = step.operation.get_config()
    return at_pairs(step) * config["num_query_heads"] * 2 * config["head_dim"]


def attention_products(step: Step) -> int:
    """Queries by keys, unless they are only added up; then scores by values."""
    query, _, value = _attended(step)
    by_keys = query.shape[-1] if step.operation.get_config().get("score_mode") == "dot" else 0
    return at_pairs(step) * (by_keys + value.shape[-1])


def dot_products(step: Step) -> int:
    """The layer `Dot`."""
    axes = step.operation.get_config()["axes"]
    axis = axes if isinstance(axes, int) else axes[0]
    return elements(step.outputs[0]) * step.inputs[0].shape[axis]


def matmul_products(step: Step) -> int:
    """`keras.ops.matmul`, the operator `@`."""
    return elements(step.outputs[0]) * np.shape(step.args[0])[-1]


def _attended(step: Step) -> list[keras.KerasTensor]:
    """Query, key and value of an attention layer; the value serves as key where none is given."""
    given = inspect.signature(step.operation.call).bind(*step.args, **step.kwargs).arguments
    if "inputs" in given:
        query, value, *rest = given["inputs"]
        return [query, rest[0] if rest else value, value]
    key = given.get("key")
    return [given["query"], given["value"] if key is None else key, given["value"]]


# ------------------------------------------------------------------ the table

_RULES: dict[Any, MacRule] = {}


def register(layer: type, rule: MacRule) -> None:
    """Teaches the counts a layer class.

    Args:
        layer: a `keras.layers.Layer` subclass. Its own subclasses count like it while they
            inherit its `call`.
        rule: where its weights multiply.

    Raises:
        ValueError: `layer` is no layer class, or `rule` no `MacRule`.
    """
    if not (isinstance(layer, type) and issubclass(layer, keras.layers.Layer)):
        raise ValueError(f"Expected a layer class, got {layer!r}.")
    if not isinstance(rule, MacRule):
        raise ValueError(f"Expected a MacRule, got {rule!r}.")
    _RULES[layer] = rule


def lookup(operation: Any) -> MacRule | None:
    """The rule of an operation, or None if there is none."""
    if not isinstance(operation, keras.layers.Layer):
        return _RULES.get(_ops_name(operation))
    kind: Any = type(operation)
    for cls in kind.__mro__:
        if cls in _RULES:
            return _RULES[cls] if cls.call is kind.call else None
    return _RULES.get(_applications_name(operation))


def has_unruled_products(operation: Any) -> bool:
    """Whether a `keras.ops` operation multiplies tensors in a way that no rule counts."""
    return not isinstance(operation, keras.layers.Layer) and _ops_name(operation) in _UNRULED_PRODUCTS


def _ops_name(operation: Any) -> str:
    """`keras.ops.matmul` makes operations of class `Matmul`."""
    return "ops." + type(operation).__name__.lower()


def _applications_name(layer: Any) -> str:
    """Keras does not export the layer classes that only `keras.applications` use."""
    cls = type(layer)
    return f"applications.{cls.__name__.lower()}" if ".applications." in cls.__module__ else ""


TABLE = [
    (
        MacRule({"kernel": at_outputs}),
        "Conv1D Conv2D Conv3D DepthwiseConv1D DepthwiseConv2D Dense",
    ),
    (
        MacRule({"depthwise_kernel": at_outputs, "pointwise_kernel": at_outputs}),
        "SeparableConv1D SeparableConv2D",
    ),
    (MacRule({"kernel": at_inputs}), "Conv1DTranspose Conv2DTranspose Conv3DTranspose"),
    (MacRule({"kernel": at_time_steps, "recurrent_kernel": at_time_steps}), "LSTM GRU SimpleRNN"),
    (
        MacRule({"kernel": at_outputs_and_time_steps, "recurrent_kernel": at_outputs_and_time_steps}),
        "ConvLSTM1D ConvLSTM2D ConvLSTM3D",
    ),
    (MacRule({"kernel": at_einsum}), "EinsumDense"),
    (
        MacRule(
            {
                "query/kernel": _at_queries,
                "key/kernel": _at_keys,
                "value/kernel": _at_values,
                "attention_output/kernel": _at_queries,
            },
            multi_head_products,
        ),
        "MultiHeadAttention",
    ),
    (
        MacRule(
            {
                "query/kernel": _at_queries,
                "key/kernel": _at_keys,
                "value/kernel": _at_values,
                "gate/kernel": _at_queries,
                "attention_output/kernel": _at_queries,
            },
            grouped_query_products,
        ),
        "GroupQueryAttention",
    ),
    (MacRule(products=attention_products), "Attention"),
    (MacRule({"scale": at_pairs}, attention_products), "AdditiveAttention"),
    (MacRule(products=dot_products), "Dot"),
    (
        MacRule(),
        "BatchNormalization LayerNormalization GroupNormalization RMSNormalization Normalization"
        " SpectralNormalization PReLU Embedding",
    ),
]
for _rule, _names in TABLE:
    for _name in _names.split():
        register(getattr(keras.layers, _name), _rule)
_RULES["ops.matmul"] = MacRule(products=matmul_products)
_RULES["applications.layerscale"] = MacRule()

_UNRULED_PRODUCTS = frozenset(
    f"ops.{name}"
    for name in "conv convtranspose depthwiseconv separableconv dot dotproductattention einsum inner"
    " tensordot vdot".split()
)
