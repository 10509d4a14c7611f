"""Layers and operations with a rule of their own."""

import inspect
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from tfcompress import _calls
from tfcompress.channels.ids import Ids, Keep
from tfcompress.channels.rules import each, nested, visit
from tfcompress.channels.specs import ChannelSpec
from tfcompress.channels.visits import (
    Visit,
    channel_axis,
    each_channel,
    lock,
    mixing_activation,
    note_axes,
    opaque,
    produce,
    read,
    unknown,
    works_elementwise,
)

_GATES = {keras.layers.LSTM: 4, keras.layers.GRU: 3, keras.layers.SimpleRNN: 1}


def depthwise(v: Visit) -> list[Ids | None]:
    """DepthwiseConv1D/2D: each channel makes `depth_multiplier` of its own."""
    if not works_elementwise(v):
        return opaque(v, mixing_activation(v))
    spec = ChannelSpec("each", axes={"kernel": ("in", "-"), "bias": ("out",)})
    return [each_channel(v, spec, v.inputs[0], copies=v.operation.depth_multiplier)]


def normalization_by_group(v: Visit) -> list[Ids | None]:
    """GroupNormalization: exact with one channel per group, else like LayerNormalization."""
    axes: dict[str, tuple[str, ...]] = {"gamma": ("in",), "beta": ("in",)}
    source = v.inputs[0]
    channels = source.shape[channel_axis(v.operation, len(source.shape))]
    groups = channels if v.operation.groups == -1 else v.operation.groups
    spec = ChannelSpec("each", axes=axes, spans=groups != channels)
    made = each(v, spec)
    if len(source.varying) == 1 and (v.approximate or groups == channels):
        ids = source.array.ravel()
        if groups == channels:
            v.ledger.edit(v.path, lambda keep: {"groups": int(keep[ids].sum())})
        else:
            v.ledger.balances.append(tuple(ids.reshape(groups, -1)))
    return made


def across_channels(v: Visit) -> list[Ids | None]:
    """Layers whose result for one channel depends on the others."""
    return opaque(v, f"'{v.path}' looks across channels")


def rescaling(v: Visit) -> list[Ids | None]:
    """Rescaling by numbers; by lists it would need one number per channel."""
    if np.ndim(v.operation.scale) or np.ndim(v.operation.offset):
        return opaque(v, f"'{v.path}' rescales each channel by a constant of its own")
    return [v.inputs[0]]


def constant_like(v: Visit) -> list[Ids | None]:
    """keras.ops.zeros_like and ones_like, with which Keras makes masks: nothing of the channels is left."""
    made = v.ledger.fixed(f"a constant from '{v.path}'")
    return [None if shape is None else Ids.constant(made, shape) for shape in v.shapes]


def reduction(v: Visit) -> list[Ids | None]:
    """keras.ops.mean, max, sum, any over axes that hold no channels."""
    config, source = _calls.config_of(v.operation), v.inputs[0]
    rank = len(source.shape)
    axes = config.get("axis")
    axes = range(1, rank + 1) if axes is None else [axes] if isinstance(axes, int) else axes
    reduced = {axis % (rank + 1) - 1 for axis in axes}
    if -1 in reduced or reduced & set(source.varying):
        return opaque(v, f"'{v.path}' adds up over the channels")
    array = source.array
    if not config.get("keepdims", False):
        array = array.reshape([size for axis, size in enumerate(array.shape) if axis not in reduced])
    return [None if v.shapes[0] is None else Ids(array, v.shapes[0])]


def padding(v: Visit) -> list[Ids | None]:
    """keras.ops.pad: padding beside channels adds fixed zeros; padding of other axes adds nothing."""
    source, widths = v.inputs[0], _calls.config_of(v.operation)["pad_width"]
    widths = [(w, w) if isinstance(w, int) else tuple(w) for w in widths][1:]
    if len(widths) != len(source.shape):
        return opaque(v, f"'{v.path}' pads all axes alike")
    array = source.array
    for axis in source.varying:
        array = np.pad(array, [w if a == axis else (0, 0) for a, w in enumerate(widths)])
    return [None if v.shapes[0] is None else Ids(array, v.shapes[0])]


def embedding(v: Visit) -> list[Ids | None]:
    """Embedding: new channels for each word; the words themselves are not channels."""
    lock(v, f"'{v.path}' looks up words by it", v.inputs)
    spec = ChannelSpec("mix", width="output_dim", axes={"embeddings": ("out",)})
    return [produce(v, spec, np.zeros(0, int))]


def recurrent(v: Visit) -> list[Ids | None]:
    """LSTM, GRU, SimpleRNN: the units, which also read themselves."""
    gates = _GATES[type(v.operation)]
    spec = ChannelSpec(
        "mix",
        width="units",
        axes={
            "recurrent_kernel": ("reads out", f"{gates} out"),
            "kernel": ("reads in", f"{gates} out"),
            "bias": (f"{gates} out",),
        },
    )
    given = _arguments(v)
    produce(replace(v, shapes=[None]), spec, read(v, given["sequences"]))
    made = v.ledger.producers[v.path]
    for state in _states(given):
        v.ledger.tie(state.array.ravel(), made)
    return [None if shape is None else Ids.along(made, len(shape) - 1, shape) for shape in v.shapes]


def bidirectional(v: Visit) -> list[Ids | None]:
    """Both directions; their outputs concatenated, combined or left apart.

    They keep equal numbers of units, because Keras works out all shapes from the forward one's.
    """
    layer, inner = v.operation, _calls.wrapped_layers(v.operation)
    if not all(type(direction) in _GATES for direction in inner):
        return unknown(v)
    given = _arguments(v)
    states = _states(given)
    half = len(states) // 2
    for direction, own in zip(inner, (states[:half], states[half:]), strict=True):
        kwargs = {"initial_state": own} if own else {}
        recurrent(replace(v.inside(direction), args=[given["sequences"]], kwargs=kwargs, shapes=[None]))
    forward, backward = (v.ledger.producers[v.ledger.paths[id(direction)]] for direction in inner)
    if layer.merge_mode in ("sum", "mul", "ave"):
        v.ledger.tie(forward, backward)
    v.ledger.balances.append((forward, backward))
    joined = np.concatenate([forward, backward]) if layer.merge_mode == "concat" else forward
    heads = [forward, backward] if layer.merge_mode is None else [joined]
    count = 2 if isinstance(layer.forward_layer, keras.layers.LSTM) else 1
    vectors = heads + [forward] * count + [backward] * count
    return [
        None if shape is None else Ids.along(ids, len(shape) - 1, shape)
        for ids, shape in zip(vectors, v.shapes, strict=False)
    ]


def _arguments(v: Visit) -> dict[str, Any]:
    """The arguments of the call by their names."""
    return dict(inspect.signature(v.operation.call).bind(*v.args, **v.kwargs).arguments)


def _states(given: dict[str, Any]) -> list[Ids]:
    return [ids for ids in keras.tree.flatten(given.get("initial_state")) if isinstance(ids, Ids)]


def time_distributed(v: Visit) -> list[Ids | None]:
    """The wrapped layer, at every step alike."""
    source, inner = v.inputs[0], v.operation.layer
    if source.array.shape[0] > 1:
        return opaque(v, f"'{v.path}' runs over the channels")
    step = Ids(source.array[0], source.shape[1:])
    shapes = [shape and shape[1:] for shape in v.shapes]
    inside = replace(v.inside(inner), args=[step], kwargs={}, shapes=shapes)
    outputs = nested(inside) if _calls.is_functional(inner) else visit(inside)
    return [
        None if ids is None or shape is None else Ids(ids.array[None], shape)
        for ids, shape in zip(outputs, v.shapes, strict=True)
    ]


def attention(v: Visit) -> list[Ids | None]:
    """MultiHeadAttention: whole heads inside; features in and out are mixed like Dense."""
    config, given = _calls.config_of(v.operation), _arguments(v)
    query, value = given["query"], given["value"]
    key = given.get("key")
    others = [ids for ids in v.inputs if all(ids is not tensor for tensor in (query, value, key))]
    lock(v, f"'{v.path}' uses it as a mask", others)
    heads = v.ledger.produce(f"{v.path}:heads", config["num_heads"])
    old = config["output_shape"] or (query.shape[-1],)
    made = v.ledger.produce(v.path, old[-1])
    features = read(v, query)
    note_axes(
        v,
        ATTENTION,
        {
            "query": features,
            "key": read(v, value if key is None else key),
            "value": read(v, value),
            "heads": heads,
            "out": made,
        },
    )

    def change(keep: Keep) -> dict:
        size = int(keep[made].sum())
        by_default = config["output_shape"] is None and size == int(keep[features].sum())
        wide = {} if by_default else {"output_shape": (*old[:-1], size)}
        return {"num_heads": int(keep[heads].sum()), **wide}

    v.ledger.edit(v.path, change)
    if len(v.shapes) > 1 and len(config["attention_axes"] or query.shape[:-1]) < len(query.shape) - 1:
        v.ledger.lock(heads, f"the scores of '{v.path}' have another shape than Keras tells")
    return [
        None if shape is None else Ids.along(ids, axis, shape)
        for ids, axis, shape in zip((made, heads), (len(query.shape) - 1, 0), v.shapes, strict=False)
    ]


_PROJECTIONS = {"query": "query", "key": "key", "value": "value", "gate": "query"}
ATTENTION = ChannelSpec(
    "mix",
    axes={
        **{f"{name}/kernel": (f"reads {source}", "heads", "-") for name, source in _PROJECTIONS.items()},
        **{f"{name}/bias": ("heads", "-") for name in _PROJECTIONS},
        "attention_output/kernel": ("reads heads", "-", "out"),
        "attention_output/bias": ("out",),
    },
)
