"""How channels pass through an operation: four general rules.

A rule takes a `Visit` (one call of one operation during a trace), notes in the ledger what it
learns, and returns the ids of the outputs. Layers that need a rule of their own are in `special`.
"""

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import keras
import numpy as np

from tfcompress import _calls
from tfcompress.channels import specs
from tfcompress.channels.ids import Axis, Ids, Ledger, known_shape
from tfcompress.channels.rewrites import REWRITES, kept_sizes
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
    unexpected_weights,
    unknown,
    works_elementwise,
)


def run(ledger: Ledger, model: keras.Model, inputs: list[Ids], approximate: bool) -> list:
    """Visits every call of `model` and returns the ids of its outputs."""
    recipe = _calls.read(model)
    refs = keras.tree.flatten(recipe.inputs)
    inputs = [ids.resized(known_shape(recipe.shapes[ref])) for ref, ids in zip(refs, inputs, strict=True)]
    for ref, ids in zip(refs, inputs, strict=True):
        _resize_input(ledger, recipe.operations[ref.operation], ids)

    def call(step: _calls.Call, args: Any, kwargs: dict) -> list[Ids | None]:
        path = ledger.paths[id(step.operation)]
        shapes = [shape and known_shape(shape) for shape in recipe.output_shapes(step)]
        v = Visit(ledger, step.operation, path, step.index, args, kwargs, shapes, approximate)
        leaves = keras.tree.flatten((args, kwargs))
        ledger.tensors[path, step.index] = [
            leaf for leaf in leaves if isinstance(leaf, Ids) or keras.ops.is_tensor(leaf)
        ]
        return nested(v) if _calls.is_functional(step.operation) else visit(v)

    return recipe.run(inputs, call)


def visit(v: Visit) -> list[Ids | None]:
    """Applies the rule of the visited operation."""
    lock(v, f"'{v.path}' uses it as a mask", v.masks)
    spec = specs.lookup(v.operation)
    if spec is None:
        return unknown(v)
    return _RULES[spec.kind](v, spec) if isinstance(spec, ChannelSpec) else spec(v)


def nested(v: Visit) -> list[Ids | None]:
    """A model inside the model: its own calls."""
    made = run(v.ledger, v.operation, v.inputs, v.approximate)
    return [ids and ids.resized(shape) for ids, shape in zip_longest(made, v.shapes[: len(made)])]


def _resize_input(ledger: Ledger, layer: keras.layers.InputLayer, ids: Ids) -> None:
    """The input of a nested model gets smaller with the channels it receives."""
    path = ledger.paths[id(layer)]
    old = tuple(layer.batch_shape)
    ledger.edit(path, lambda keep: {"batch_shape": (old[0], *kept_sizes(ids, keep, old[1:]))})


def mix(v: Visit, spec: ChannelSpec) -> list[Ids | None]:
    """Every output channel is made from all input channels."""
    groups = _calls.config_of(v.operation).get("groups", 1) if v.weights else 1
    if groups > 1:
        return grouped(v, spec, groups)
    return [produce(v, spec, read(v, v.inputs[0]))]


def grouped(v: Visit, spec: ChannelSpec, groups: int) -> list[Ids | None]:
    """A grouped convolution: equal numbers stay in each group, of inputs and of outputs.

    With one input per group it is a depthwise convolution, whose groups vanish one by one.
    """
    source = v.inputs[0]
    blocks = read(v, source).reshape(groups, -1)
    if blocks.shape[1] == 1:
        return _depthwise_by_groups(v, spec, blocks[:, 0])
    v.ledger.balances.append(tuple(blocks))
    made = produce(v, spec, blocks)
    v.ledger.balances.append(tuple(v.ledger.producers[v.path].reshape(groups, -1)))
    return [made]


def each(v: Visit, spec: ChannelSpec) -> list[Ids | None]:
    """Output channel i comes from input channel i alone."""
    source = v.inputs[0]
    if spec.spans and not v.approximate:
        kind = type(v.operation).__name__
        return opaque(v, f"'{v.path}' ({kind}) looks across channels; trace(approximate=True) frees them")
    if not works_elementwise(v):
        return opaque(v, mixing_activation(v))
    if spec.pointwise:
        _note_aligned_axes(v, source)
        return [source]
    return [each_channel(v, spec, source, copies=1)]


def merge(v: Visit, spec: ChannelSpec) -> list[Ids | None]:
    """The inputs are combined element by element, with broadcasting."""
    tensors = v.inputs
    _lock_beside_weights(v, spec)
    if _holds_constant_array(v):
        return opaque(v, f"'{v.path}' combines it with a constant array")
    if len(_varying_from_end(tensors)) > 1:
        return opaque(v, f"'{v.path}' combines the channels of one tensor with another axis of another")
    shape = np.broadcast_shapes(*(ids.shape for ids in tensors))
    tied = [ids for ids in tensors if not _stretched_over_channels(v, ids, tensors, shape)]
    for other in tied[1:]:
        v.ledger.tie(*np.broadcast_arrays(tied[0].array, other.array))
    widest = max(tied, key=lambda ids: (ids.array.size, ids.array.ndim))
    array = widest.array.reshape([1] * (len(shape) - widest.array.ndim) + list(widest.array.shape))
    return [Ids(array, shape)]


def move(v: Visit, spec: ChannelSpec) -> list[Ids | None]:
    """Elements only change place: the operation itself, run on the ids, tells where to."""

    def full(leaf):
        return leaf.full()[None].astype("int32") if isinstance(leaf, Ids) else leaf

    _lock_beside_weights(v, spec)
    kwargs = {name: value for name, value in v.kwargs.items() if name != "mask"}
    args, kwargs = keras.tree.map_structure(full, (v.args, kwargs))
    try:
        moved = [np.asarray(x) for x in keras.tree.flatten(v.operation(*args, **kwargs))]
    except Exception:  # each backend has its own, where the stand-in for an open size does not fit
        return opaque(v, f"'{v.path}' cannot be followed from channel to channel")
    if any(len(array) != 1 for array in moved):
        return opaque(v, f"'{v.path}' moves the batch axis")
    if any(array.size == 0 for array in moved):
        return opaque(v, f"'{v.path}' takes a part of an axis whose size is open")
    outputs = [
        _separable(v, Ids.compressed(array[0])).resized(shape)
        for array, shape in zip_longest(moved, v.shapes[: len(moved)])
    ]
    if spec.rewrite is not None:
        for ids in v.inputs:
            _same_at_every_call(v, ids)
        if not REWRITES[spec.rewrite](v, outputs):
            return opaque(v, f"'{v.path}' takes single channels by number")
    return [*outputs]


def _lock_beside_weights(v: Visit, spec: ChannelSpec) -> None:
    """A layer that only combines or moves has no weights that could follow its channels."""
    odd = unexpected_weights(v, spec)
    if odd:
        lock(v, odd, v.inputs)


def _depthwise_by_groups(v: Visit, spec: ChannelSpec, read: np.ndarray) -> list[Ids | None]:
    """A convolution with one input per group, written as Conv2D(groups=channels)."""
    source, config = v.inputs[0], _calls.config_of(v.operation)
    if not works_elementwise(v):
        return opaque(v, mixing_activation(v))
    made = np.repeat(read, config[spec.width] // len(read))
    v.ledger.edit(v.path, lambda k: {"groups": int(k[read].sum()), spec.width: int(k[made].sum())})
    note_axes(v, ChannelSpec("each", axes={"kernel": ("out",), "bias": ("out",)}), {"out": made})
    axis = channel_axis(v.operation, len(source.shape))
    return [None if v.shapes[0] is None else Ids.along(made, axis, v.shapes[0])]


def _note_aligned_axes(v: Visit, source: Ids) -> None:
    """The weights of a pointwise layer have the shape of its input, or length 1 where they are shared."""
    for index, weight in enumerate(v.weights):
        for axis in source.varying:
            if weight.shape[axis] != 1:
                v.ledger.role((v.path, index), Axis(axis, source.vector(axis), reads=False))


def _varying_from_end(tensors: list[Ids]) -> set[int]:
    return {axis - len(ids.shape) for ids in tensors for axis in ids.varying}


def _stretched_over_channels(v: Visit, ids: Ids, tensors: list[Ids], shape: tuple) -> bool:
    """Whether `ids` has length 1 where others have channels; if so it is read by all and locked."""
    for axis in _varying_from_end(tensors):
        if -axis <= len(ids.shape) and ids.shape[axis] == 1 != shape[axis]:
            v.ledger.lock(ids.array, f"'{v.path}' spreads it over the channels of another tensor")
            return True
    return False


def _holds_constant_array(v: Visit) -> bool:
    leaves = keras.tree.flatten((v.args, v.kwargs))
    return any(not isinstance(leaf, Ids) and np.ndim(leaf) > 0 and np.size(leaf) > 1 for leaf in leaves)


def _separable(v: Visit, ids: Ids) -> Ids:
    """Leaves the ids varying along one axis: along the others, ties what must stay together.

    A tensor loses whole slices. Where a reshape has spread channels over two axes, the slices of
    the longer one remain, each made of channels that now live and die together.
    """
    varying = ids.varying
    if len(varying) <= 1:
        return ids
    kept = max(varying, key=lambda axis: (_distinct_slices(ids.array, axis), axis))
    array = ids.array
    for axis in varying:
        if axis != kept:
            first = array.take([0], axis)
            v.ledger.tie(array, first)
            array = first
    return Ids(array, ids.shape)


def _distinct_slices(array: np.ndarray, axis: int) -> int:
    return np.unique(array, axis=axis).shape[axis]


def _same_at_every_call(v: Visit, ids: Ids) -> None:
    """A layer whose config names sizes must lose the same channels at each of its calls."""
    if len(ids.varying) == 1:
        key = (v.path, -1 - v.inputs.index(ids))
        v.ledger.role(key, Axis(0, ids.array.ravel(), reads=False))


_RULES: dict[str, Callable] = {"mix": mix, "each": each, "merge": merge, "move": move}
