"""Layers and operations with a rule of their own."""

import inspect
from dataclasses import replace

import keras
import numpy as np

from tfcompress import _calls
from tfcompress.channels.ids import Ids
from tfcompress.channels.rules import each, nested, visit
from tfcompress.channels.specs import ChannelSpec
from tfcompress.channels.visits import (
    Visit,
    channel_axis,
    each_channel,
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
        return opaque(v, f"the activation of '{v.path}' looks across channels")
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


def reduction(v: Visit) -> list[Ids | None]:
    """keras.ops.mean, max, sum over axes that hold no channels."""
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
    for words in v.inputs:
        v.ledger.lock(words.array, f"'{v.path}' looks up words by it")
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
    given = inspect.signature(v.operation.call).bind(*v.args, **v.kwargs).arguments
    produce(replace(v, shapes=[None]), spec, read(v, given["sequences"]))
    made = v.ledger.producers[v.path]
    for state in keras.tree.flatten(given.get("initial_state")):
        if isinstance(state, Ids):
            v.ledger.tie(state.array.ravel(), made)
    return [None if shape is None else Ids.along(made, len(shape) - 1, shape) for shape in v.shapes]


def bidirectional(v: Visit) -> list[Ids | None]:
    """Both directions; their outputs concatenated, combined or left apart."""
    layer = v.operation
    if len(v.inputs) > 1 or not all(type(inner) in _GATES for inner in _calls.wrapped_layers(layer)):
        return unknown(v)
    visits = [replace(v.inside(inner), shapes=[None]) for inner in _calls.wrapped_layers(layer)]
    for inside in visits:
        recurrent(inside)
    forward, backward = (v.ledger.producers[inside.path] for inside in visits)
    if layer.merge_mode in ("sum", "mul", "ave"):
        v.ledger.tie(forward, backward)
    joined = np.concatenate([forward, backward]) if layer.merge_mode == "concat" else forward
    heads = [forward, backward] if layer.merge_mode is None else [joined]
    states = 2 if isinstance(layer.forward_layer, keras.layers.LSTM) else 1
    vectors = heads + [forward] * states + [backward] * states
    return [
        None if shape is None else Ids.along(ids, len(shape) - 1, shape)
        for ids, shape in zip(vectors, v.shapes, strict=False)
    ]


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
    given = inspect.signature(v.operation.call).bind(*v.args, **v.kwargs).arguments
    query, value = given["query"], given["value"]
    key = given.get("key")
    for other in v.inputs:
        if all(other is not tensor for tensor in (query, value, key)):
            v.ledger.lock(other.array, f"'{v.path}' uses it as a mask")
    heads = v.ledger.produce(f"{v.path}:heads", _calls.config_of(v.operation)["num_heads"])
    made = v.ledger.produce(v.path, v.shapes[0][-1] if v.shapes[0] else query.shape[-1])
    note_axes(
        v,
        ChannelSpec(
            "mix",
            axes={
                "query/kernel": ("reads query", "heads", "-"),
                "key/kernel": ("reads key", "heads", "-"),
                "value/kernel": ("reads value", "heads", "-"),
                "query/bias": ("heads", "-"),
                "key/bias": ("heads", "-"),
                "value/bias": ("heads", "-"),
                "attention_output/kernel": ("reads heads", "-", "out"),
                "attention_output/bias": ("out",),
            },
        ),
        {
            "query": read(v, query),
            "key": read(v, value if key is None else key),
            "value": read(v, value),
            "heads": heads,
            "out": made,
        },
    )
    v.ledger.edit(v.path, lambda keep: {"num_heads": int(keep[heads].sum())})
    v.ledger.edit(v.path, lambda keep: {} if keep[made].all() else {"output_shape": int(keep[made].sum())})
    scores = [
        None if shape is None else Ids.constant(v.ledger.fixed("attention scores"), shape)
        for shape in v.shapes[1:]
    ]
    return [None if v.shapes[0] is None else Ids.along(made, len(v.shapes[0]) - 1, v.shapes[0]), *scores]
