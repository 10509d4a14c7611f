"""How channels pass through an operation: four general rules, and a few layers that need their own.

A rule takes a `Visit` (one call of one operation during a trace), notes in the ledger what it
learns, and returns the ids of the outputs.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfcompress import _calls
from tfcompress.channels import specs
from tfcompress.channels.ids import Axis, Ids, Keep, Ledger, known_shape
from tfcompress.channels.specs import ChannelSpec


@dataclass(frozen=True)
class Visit:
    """One call of one operation.

    `args` and `kwargs` are those of the call, with `Ids` where tensors were; `shapes` are the
    outputs' shapes without batch axis, None for an output that nothing reads.
    """

    ledger: Ledger
    operation: Any
    path: str
    call: int
    args: Any
    kwargs: dict
    shapes: list[tuple[int, ...] | None]
    approximate: bool = False

    @property
    def inputs(self) -> list[Ids]:
        return [x for x in keras.tree.flatten((self.args, self.kwargs)) if isinstance(x, Ids)]

    @property
    def weights(self) -> list[keras.Variable]:
        return getattr(self.operation, "weights", [])

    def inside(self, layer: Any) -> "Visit":
        """The same call, seen by a layer inside this one."""
        return replace(self, operation=layer, path=self.ledger.paths[id(layer)])


def visit(v: Visit) -> list[Ids | None]:
    """Applies the rule of the visited operation."""
    spec = specs.lookup(v.operation)
    if spec is None:
        return unknown(v)
    if not isinstance(spec, ChannelSpec):
        return spec(v)
    odd = _unexpected_weights(v, spec)
    if odd:
        return opaque(v, f"'{v.path}' holds weights that no rule covers: {', '.join(odd)}")
    return _RULES[spec.kind](v, spec)


def unknown(v: Visit) -> list[Ids | None]:
    """An operation nobody registered: what it touches stays as it is, and it is listed."""
    kind = type(v.operation).__name__
    v.ledger.unknown[v.path] = kind
    return opaque(v, f"touched by '{v.path}', a layer of unknown kind ({kind})")


def opaque(v: Visit, reason: str) -> list[Ids | None]:
    """Locks all inputs and outputs."""
    for ids in v.inputs:
        v.ledger.lock(ids.array, reason)
    made = v.ledger.fixed(reason)
    return [None if shape is None else Ids.constant(made, shape) for shape in v.shapes]


# ------------------------------------------------------------------ the four kinds


def mix(v: Visit, spec: ChannelSpec) -> list[Ids | None]:
    """Every output channel is made from all input channels."""
    groups = _calls.config_of(v.operation).get("groups", 1) if v.weights else 1
    if groups > 1:
        return grouped(v, spec, groups)
    source = v.inputs[0] if v.inputs else None
    return [_produce(v, spec, _read(v, source), source)]


def grouped(v: Visit, spec: ChannelSpec, groups: int) -> list[Ids | None]:
    """A grouped convolution: equal numbers stay in each group, of inputs and of outputs.

    With one input per group it is a depthwise convolution, whose groups vanish one by one.
    """
    source = v.inputs[0]
    blocks = _read(v, source).reshape(groups, -1)
    if blocks.shape[1] == 1:
        return _depthwise_by_groups(v, spec, blocks[:, 0])
    v.ledger.balances.append(tuple(blocks))
    made = _produce(v, spec, blocks, source)
    v.ledger.balances.append(tuple(v.ledger.producers[v.path].reshape(groups, -1)))
    return [made]


def each(v: Visit, spec: ChannelSpec) -> list[Ids | None]:
    """Output channel i comes from input channel i alone."""
    source = v.inputs[0]
    if spec.spans and not v.approximate:
        kind = type(v.operation).__name__
        return opaque(v, f"'{v.path}' ({kind}) looks across channels; trace(approximate=True) frees them")
    if not _elementwise(v):
        return opaque(v, f"the activation of '{v.path}' looks across channels")
    if spec.pointwise:
        _note_aligned_axes(v, source)
        return [source]
    return [_each_channel(v, spec, source, copies=1)]


def merge(v: Visit, spec: ChannelSpec) -> list[Ids | None]:
    """The inputs are combined element by element, with broadcasting."""
    tensors = v.inputs
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

    args, kwargs = keras.tree.map_structure(full, (v.args, v.kwargs))
    moved = [np.asarray(x) for x in keras.tree.flatten(v.operation(*args, **kwargs))]
    if any(len(array) != 1 for array in moved):
        return opaque(v, f"'{v.path}' moves the batch axis")
    outputs = [_separable(v, Ids.compressed(array[0])) for array in moved]
    if spec.rewrite is not None:
        for ids in v.inputs:
            _same_at_every_call(v, ids)
        if not _REWRITES[spec.rewrite](v, outputs):
            return opaque(v, f"'{v.path}' takes single channels by number")
    return [*outputs]


# ------------------------------------------------------------------ pieces of the rules


def channel_axis(layer: Any, rank: int) -> int:
    """The axis, batch not counted, on which the layer expects channels."""
    axis = getattr(layer, "axis", None)
    if isinstance(axis, (list, tuple)) and len(axis) == 1:
        axis = axis[0]
    if isinstance(axis, int):
        return axis % (rank + 1) - 1
    return 0 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def _read(v: Visit, source: Ids | None) -> np.ndarray:
    """The ids along the axis that the layer mixes; ids that vary along another one are locked."""
    if source is None:
        return np.zeros(0, int)
    axis = channel_axis(v.operation, len(source.shape))
    if set(source.varying) <= {axis}:
        return source.vector(axis)
    reason = f"'{v.path}' reads across another axis than the channels'"
    v.ledger.lock(source.array, reason)
    return np.full(source.shape[axis], v.ledger.fixed(reason))


def _produce(v: Visit, spec: ChannelSpec, read: np.ndarray, source: Ids | None) -> Ids | None:
    """New channels, `spec.width` many."""
    width = int(_calls.config_of(v.operation)[spec.width])
    made = v.ledger.produce(v.path, width)
    if not _elementwise(v):
        v.ledger.lock(made, f"the activation of '{v.path}' looks across channels")
    v.ledger.edit(v.path, lambda keep: {spec.width: int(keep[made].sum())})
    middle = np.repeat(read, getattr(v.operation, "depth_multiplier", None) or 1)
    _note_axes(v, spec, {"in": read, "out": made, "mid": middle})
    if v.shapes[0] is None:
        return None
    return Ids.along(made, channel_axis(v.operation, len(v.shapes[0])), v.shapes[0])


def _depthwise_by_groups(v: Visit, spec: ChannelSpec, read: np.ndarray) -> list[Ids | None]:
    """A convolution with one input per group, written as Conv2D(groups=channels)."""
    source, config = v.inputs[0], _calls.config_of(v.operation)
    if not _elementwise(v):
        return opaque(v, f"the activation of '{v.path}' looks across channels")
    made = np.repeat(read, config[spec.width] // len(read))
    v.ledger.edit(v.path, lambda k: {"groups": int(k[read].sum()), spec.width: int(k[made].sum())})
    _note_axes(v, ChannelSpec("each", axes={"kernel": ("out",), "bias": ("out",)}), {"out": made})
    axis = channel_axis(v.operation, len(source.shape))
    return [None if v.shapes[0] is None else Ids.along(made, axis, v.shapes[0])]


def _each_channel(v: Visit, spec: ChannelSpec, source: Ids, copies: int) -> Ids | None:
    axis = channel_axis(v.operation, len(source.shape))
    if not set(source.varying) <= {axis}:
        return opaque(v, f"'{v.path}' works across another axis than the channels'")[0]
    ids = source.vector(axis)
    made = np.repeat(ids, copies)
    if spec.width is not None:
        v.ledger.edit(v.path, lambda keep: {spec.width: int(keep[ids].sum())})
    _note_axes(v, spec, {"in": ids, "out": made})
    shape = v.shapes[0]
    if shape is None:
        return None
    return Ids.along(
        made, axis if len(shape) == len(source.shape) else channel_axis(v.operation, len(shape)), shape
    )


def _note_axes(v: Visit, spec: ChannelSpec, vectors: dict[str, np.ndarray]) -> None:
    """Writes down what each axis of each weight runs over."""
    for index, weight in enumerate(v.weights):
        roles = _roles(weight, spec)
        for axis, role in zip(range(-len(roles), 0), roles, strict=True):
            *words, name = role.split()
            if name == "-" or weight.shape[axis] == 1 != vectors[name].shape[-1]:
                continue
            ids = vectors[name]
            for word in words:
                ids = np.tile(ids, int(word)) if word.isdigit() else ids
            v.ledger.role((v.path, index), Axis(axis, ids, reads="reads" in words))


def _note_aligned_axes(v: Visit, source: Ids) -> None:
    """The weights of a pointwise layer have the shape of its input, or length 1 where they are shared."""
    for index, weight in enumerate(v.weights):
        for axis in source.varying:
            if weight.shape[axis] != 1:
                v.ledger.role((v.path, index), Axis(axis, source.vector(axis), reads=False))


def _roles(weight: keras.Variable, spec: ChannelSpec) -> tuple[str, ...]:
    for name, roles in spec.axes.items():
        if f"/{weight.path}".endswith(f"/{name}"):
            return roles
    return ()


def _unexpected_weights(v: Visit, spec: ChannelSpec) -> list[str]:
    covered = tuple(f"/{name}" for name in spec.axes)
    return [w.path for w in v.weights if not f"/{w.path}".endswith(covered)] if v.weights else []


def _elementwise(v: Visit) -> bool:
    names = ("activation", "recurrent_activation")
    return all(specs.is_elementwise(getattr(v.operation, name, None)) for name in names)


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


# ------------------------------------------------------------------ recomputing what a config says


def _kept_sizes(ids: Ids, keep: Keep, sizes: Sequence) -> list:
    """`sizes`, the lengths of a tensor's axes, after the removal."""
    kept = int(keep[ids.array].sum())
    return [kept if axis in ids.varying else size for axis, size in enumerate(sizes)]


def _rewrite_shape(v: Visit, outputs: list[Ids]) -> bool:
    """Reshape: the target shape with the channel axis shortened."""
    ids = outputs[0]
    key = "target_shape" if "target_shape" in _calls.config_of(v.operation) else "newshape"
    old = list(_calls.config_of(v.operation)[key])
    batch = len(old) - len(ids.shape)

    def change(keep: Keep) -> dict:
        sizes = old[:batch] + _kept_sizes(ids, keep, old[batch:])
        return {key: tuple(-1 if was == -1 else size for was, size in zip(old, sizes, strict=True))}

    v.ledger.edit(v.path, change)
    return True


def _rewrite_split(v: Visit, outputs: list[Ids]) -> bool:
    """Split: the cuts fall after the channels that stay."""
    axis = _calls.config_of(v.operation)["axis"]
    source = v.inputs[0]
    axis = axis % (len(source.shape) + 1) - 1
    if source.varying != [axis]:
        return True
    v.ledger.parts.extend(ids.array.ravel() for ids in outputs)

    def change(keep: Keep) -> dict:
        sizes = [int(keep[ids.vector(axis)].sum()) for ids in outputs]
        return {"indices_or_sections": [int(cut) for cut in np.cumsum(sizes)[:-1]]}

    v.ledger.edit(v.path, change)
    return True


def _rewrite_item(v: Visit, outputs: list[Ids]) -> bool:
    """x[..., start:stop]: start and stop count the channels that stay."""
    source, key = v.inputs[0], v.args[1]
    if not source.varying:
        return True
    items = list(key) if isinstance(key, (list, tuple)) else [key]
    if Ellipsis in items:
        gap = items.index(Ellipsis)
        fill = len(source.shape) + 1 - (len(items) - 1 - items.count(None))
        items[gap : gap + 1] = [slice(None)] * fill
    axis = source.varying[0] + 1
    place = _place_of_axis(items, axis)
    if place is None or items[place] == slice(None):
        return True
    item = items[place]
    if not isinstance(item, slice) or item.step not in (None, 1):
        return False
    ids = source.vector(axis - 1)
    start, stop, _ = item.indices(len(ids))
    v.ledger.parts.append(ids[start:stop])

    def change(keep: Keep) -> tuple:
        begin = int(keep[ids[:start]].sum())
        part = slice(begin, begin + int(keep[ids[start:stop]].sum()))
        return tuple(items[:place] + [part] + items[place + 1 :])

    v.ledger.arguments[(v.path, v.call)] = change
    return True


def _place_of_axis(items: list, axis: int) -> int | None:
    """Where in an index expression the given axis is indexed; None if the expression ends before."""
    places = [place for place, item in enumerate(items) if item is not None]
    return places[axis] if axis < len(places) else None


def _rewrite_permutation(v: Visit, outputs: list[Ids]) -> bool:
    """ChannelShuffle: the surviving channels in the order the old permutation gives them."""
    source, made = v.inputs[0], outputs[0]
    before, after = source.array.ravel(), made.array.ravel()
    order = np.asarray(v.operation.permutation)

    def change(keep: Keep) -> dict:
        rank = np.cumsum(keep[before]) - 1
        return {"permutation": [int(rank[i]) for i in order if keep[before[i]]]}

    if len(before) == len(order) == len(after):
        v.ledger.edit(v.path, change)
    return True


# ------------------------------------------------------------------ layers with a rule of their own


def depthwise(v: Visit) -> list[Ids | None]:
    """DepthwiseConv1D/2D: each channel makes `depth_multiplier` of its own."""
    if not _elementwise(v):
        return opaque(v, f"the activation of '{v.path}' looks across channels")
    spec = ChannelSpec("each", axes={"kernel": ("in", "-"), "bias": ("out",)})
    return [_each_channel(v, spec, v.inputs[0], copies=v.operation.depth_multiplier)]


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
    source, *states = v.inputs
    _produce(replace(v, shapes=[None]), spec, _read(v, source), source)
    made = v.ledger.producers[v.path]
    for state in states:
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
    heads = v.ledger.produce(f"{v.path}:heads", _calls.config_of(v.operation)["num_heads"])
    made = v.ledger.produce(v.path, v.shapes[0][-1] if v.shapes[0] else query.shape[-1])
    _note_axes(
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
            "query": _read(v, query),
            "key": _read(v, value if key is None else key),
            "value": _read(v, value),
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


def nested(v: Visit) -> list[Ids | None]:
    """A model inside the model: its own calls."""
    return run(v.ledger, v.operation, v.inputs, v.approximate)


def run(ledger: Ledger, model: keras.Model, inputs: list[Ids], approximate: bool) -> list:
    """Visits every call of `model` and returns the ids of its outputs."""
    recipe = _calls.read(model)
    for ref, ids in zip(keras.tree.flatten(recipe.inputs), inputs, strict=True):
        _resize_input(ledger, recipe.operations[ref.operation], ids)

    def call(step: _calls.Call, args: Any, kwargs: dict) -> list[Ids | None]:
        path = ledger.paths[id(step.operation)]
        shapes = [shape and known_shape(shape) for shape in recipe.output_shapes(step)]
        v = Visit(ledger, step.operation, path, step.index, args, kwargs, shapes, approximate)
        return nested(v) if _calls.is_functional(step.operation) else visit(v)

    return recipe.run(inputs, call)


def _resize_input(ledger: Ledger, layer: keras.layers.InputLayer, ids: Ids) -> None:
    """The input of a nested model gets smaller with the channels it receives."""
    path = ledger.paths[id(layer)]
    old = tuple(layer.batch_shape)
    ledger.edit(path, lambda keep: {"batch_shape": (old[0], *_kept_sizes(ids, keep, old[1:]))})


_RULES: dict[str, Callable] = {"mix": mix, "each": each, "merge": merge, "move": move}
_REWRITES = {
    "shape": _rewrite_shape,
    "split": _rewrite_split,
    "item": _rewrite_item,
    "permutation": _rewrite_permutation,
}
_GATES = {keras.layers.LSTM: 4, keras.layers.GRU: 3, keras.layers.SimpleRNN: 1}
