"""Remove what training has made zero: channels, filters, and branches of residual networks."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress import _calls, _cloning, channels
from tfcompress.channels import ChannelGraph, fold
from tfcompress.channels.constants import Seen, watch
from tfcompress.channels.ids import Ids
from tfcompress.pruning.prune import untouched
from tfcompress.pruning.removed import Removed, removals
from tfcompress.pruning.rewired import Change, rewired


@dataclass(frozen=True)
class Branch:
    """A branch that ended in an addition and added nothing, or always the same.

    Attributes:
        addition: path of the `Add` layer or operation that lost it.
        layers: paths of the layers that went with it.
        constant: whether it added a constant that is not zero, which a small layer now adds.
    """

    addition: str
    layers: tuple[str, ...]
    constant: bool


def remove_zeroed(model: keras.Model, *, approximate: bool = False) -> keras.Model:
    """Returns a smaller model with equal outputs, without what has become zero.

    It is the other half of group lasso (`regularizers.GroupLasso`), and removes

    * branches of a residual network that are constant, as they are where a whole kernel is zero: the
      addition at their end goes, and every layer that nothing else reads. BatchNormalization behind
      a zero kernel still makes a constant; a small layer adds it (a depthwise 1x1 convolution, or
      `Rescaling` where there are no maps).
    * channels that nothing reads, as `shrink_silenced` does;
    * filters that are all zero, whose channel is a constant: it moves into the biases of the layers
      that read it. Where several layers make the channel, as in a residual network, all of them must
      be zero there.

    What is constant is found out with layers that say random numbers wherever their filters are not
    zero, so what only looks constant on some data stays. A layer that pads its input sees the
    constant end at the border, and no bias can stand in for that, so such channels stay, too.

    Attributes of the result: `removed` says which channels went and what stayed why, `branches` is a
    tuple of the `Branch`es that were cut. Compile state and the optimizer's slots of all that stays are
    carried over.

    Args:
        model: a built functional or Sequential model. It is not changed.
        approximate: remove also those channels that a padded layer reads. The mean of what they
            contributed goes into the bias, and a warning says how far the border is off.

    Raises:
        ValueError: the model is subclassed or unbuilt.

    Wei Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016. Departs from it in
    that its networks have no BatchNormalization behind the branches it cuts.

    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(16, 3, activation="relu", name="stem")(x)
    >>> y = keras.layers.GlobalAveragePooling2D()(y)
    >>> model = keras.Model(x, keras.layers.Dense(2)(y))
    >>> stem = model.get_layer("stem")
    >>> stem.set_weights([stem.get_weights()[0] * (np.arange(16) < 10), np.ones(16)])
    >>> remove_zeroed(model).get_layer("stem").filters
    10
    """
    _calls.check_functional(model)
    cut, branches = _without_branches(model)
    graph = channels.trace(cut)
    seen = _seen(cut, graph)
    keep, kept_constants = _keep(cut, graph, seen, approximate)
    folded = _folded(cut, graph, keep, seen)
    small = channels.shrink(folded, channels.trace(folded), keep)
    small.removed = Removed(tuple(removals(graph, keep)), untouched(graph, keep) | kept_constants)
    small.branches = branches
    return small


# ------------------------------------------------------------------ branches


class _Cut(NamedTuple):
    """One call of an addition of which some inputs are constant: what stays, and their sum."""

    rest: list[int]
    constant: np.ndarray


def _without_branches(model: keras.Model) -> tuple[keras.Model, tuple[Branch, ...]]:
    cuts = _cuts(model)
    if not cuts:
        return model, ()
    whole: set[tuple[str, int]] = set()
    changes = {key: _change(cut, key, whole) for key, cut in cuts.items()}
    new = rewired(model, calls=changes)
    gone = dict(_calls.walk(model)).keys() - dict(_calls.walk(new)).keys()
    branches = (
        Branch(path, _behind(model, path, index, cut.rest, gone), bool(cut.constant.any()))
        for (path, index), cut in cuts.items()
        if (path, index) not in whole
    )
    return new, tuple(branches)


def _cuts(model: keras.Model) -> dict[tuple[str, int], _Cut]:
    seen: dict[tuple[str, int], list[Seen]] = {}
    for call in watch(model, _is_addition, through=True):
        seen.setdefault((call.path, call.number), []).append(call)
    open_sizes = any(size is None for tensor in model.inputs for size in tensor.shape[1:])
    found = {key: _cut(calls) for key, calls in seen.items()}
    return {
        key: cut
        for key, cut in found.items()
        if cut is not None and not (open_sizes and _per_channel(cut.constant) is None)
    }


def _is_addition(operation: Any) -> bool:
    """`keras.layers.Add`, or what `keras.ops.add` and `+` make, a class that Keras does not export."""
    if isinstance(operation, keras.layers.Layer):
        return type(operation) is keras.layers.Add
    return type(operation).__name__ == "Add"


def _cut(calls: list[Seen]) -> _Cut | None:
    """What can be cut, if all calls agree: those inside a model that is itself called several times."""
    first = calls[0]
    constant = [
        all(call.same[place].all() and np.array_equal(call.values[place], value) for call in calls)
        for place, value in enumerate(first.values)
    ]
    rest = [place for place, same in enumerate(constant) if not same]
    if all(constant) or not any(constant):
        return None
    shape = np.broadcast_shapes(*(value.shape for value in first.values))
    if np.broadcast_shapes(*(first.values[place].shape for place in rest)) != shape:
        return None
    total = sum(value for value, same in zip(first.values, constant, strict=True) if same)
    return _Cut(rest, np.broadcast_to(total, shape))


def _change(cut: _Cut, key: tuple[str, int], whole: set[tuple[str, int]]) -> Change:
    """What stands in for an addition; it notes in `whole` if that has to be the addition itself."""
    path, index = key

    def change(addition: Any, tensors: list) -> Any:
        layer = isinstance(addition, keras.layers.Layer)
        masks = [_mask(tensor) for tensor in tensors]
        if any(mask is not (masks[0] if layer else None) for mask in masks):
            # Behind it there is no mask, or another than the rest would hand on.
            whole.add(key)
            return addition(tensors) if layer else addition(*tensors)
        rest = [tensors[place] for place in cut.rest]
        made = rest[0] if len(rest) == 1 else addition(rest)
        name = f"{path.split('/')[-1]}_constant" + (f"_{index}" if index else "")
        dtype = getattr(addition, "dtype_policy", made.dtype)
        return _plus(made, cut.constant, name, dtype) if cut.constant.any() else made

    return change


def _mask(tensor: Any) -> Any:
    """Which steps of a sequence count, where Keras knows; it has no public name for that."""
    return getattr(tensor, "_keras_mask", None)


_ADDERS = {2: keras.layers.DepthwiseConv1D, 3: keras.layers.DepthwiseConv2D}


def _plus(tensor: Any, constant: np.ndarray, name: str, dtype: Any) -> Any:
    """A stock layer that adds the constant: one that has channels to prune, where there is one."""
    per_channel = _per_channel(constant)
    if per_channel is None or constant.ndim not in _ADDERS or _mask(tensor) is not None:
        return keras.layers.Rescaling(1.0, offset=_compressed(constant), dtype=dtype, name=name)(tensor)
    layer = _ADDERS[constant.ndim](1, data_format="channels_last", dtype=dtype, name=name)
    made = layer(tensor)
    layer.set_weights([np.ones(layer.kernel.shape), per_channel])
    return made


def _per_channel(constant: np.ndarray) -> np.ndarray | None:
    """`(channels,)` if nothing but the last axis matters, else None."""
    rows = constant.reshape(-1, constant.shape[-1])
    return rows[0] if (rows == rows[0]).all() else None


def _compressed(constant: np.ndarray) -> np.ndarray:
    """Length 1 along every axis that does not matter."""
    for axis in range(constant.ndim):
        first = constant.take([0], axis)
        constant = first if (constant == first).all() else constant
    return constant


def _behind(model: keras.Model, path: str, index: int, rest: list[int], gone: set[str]) -> tuple[str, ...]:
    """The layers that went with the branches of one addition: those its constant inputs come from."""
    prefix, _, name = path.rpartition("/")
    recipe = _calls.read(dict(_calls.walk(model))[prefix] if prefix else model)
    made_by = {(call.name, call.index): call for call in recipe.calls}
    waiting = [ref for place, ref in enumerate(made_by[name, index].inputs) if place not in rest]
    found: dict[str, None] = {}
    while waiting:
        call = made_by.get((waiting[0].operation, waiting.pop(0).call))
        if call is not None and call.name not in found:
            found[call.name] = None
            waiting += call.inputs
    return tuple(
        sorted(f"{prefix}/{inner}".lstrip("/") for inner in found if f"{prefix}/{inner}".lstrip("/") in gone)
    )


# ------------------------------------------------------------------ channels


class _Reading(NamedTuple):
    """What a layer reads, entry by entry of one axis of its kernel.

    `removable` entries are constants that need no bias or that its bias can hold; `constant` ones
    are removable at best approximately, for the `reason`.
    """

    ids: np.ndarray
    constant: np.ndarray
    removable: np.ndarray
    reason: str


@dataclass(frozen=True)
class _AllSeen:
    """What each call reads, by layer path.

    `holders` are layers that can hold constants in their bias, `others` those in which only zeros are known
    to make no difference: recurrent layers, attention, layers inside TimeDistributed.
    """

    holders: Mapping[str, list[Seen]]
    others: Mapping[str, list[Seen]]


def _seen(model: keras.Model, graph: ChannelGraph) -> _AllSeen:
    holders: dict[str, list[Seen]] = {}
    others: dict[str, list[Seen]] = {}
    for seen in watch(model, fold._reads(model, graph), through=False):
        calls = holders if type(seen.operation) in fold._READERS else others
        calls.setdefault(seen.path, []).append(seen)
    return _AllSeen(holders, others)


def _zeros(graph: ChannelGraph, calls: list[Seen]) -> np.ndarray:
    """Of every channel whether these calls are given it, and given nothing but zeros: bool `(ids,)`."""
    given, zero = np.zeros(len(graph.class_of), bool), np.ones(len(graph.class_of), bool)
    for call in calls:
        tensors = graph.ledger.tensors[call.path, call.number]
        for ids, values, same in zip(tensors, call.values, call.same, strict=True):
            if not isinstance(ids, Ids):
                continue
            given[ids.array] = True
            fits = all(values.shape[axis] == ids.array.shape[axis] for axis in ids.varying)
            moved = np.broadcast_to(ids.array, values.shape)[~(same & (values == 0))] if fits else ids.array
            zero[moved] = False
    return given & zero


def _keep(
    model: keras.Model, graph: ChannelGraph, seen: _AllSeen, approximate: bool
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What to keep, by group, and why channels that are constant are kept; by group, too."""
    keep = channels.silenced(model, graph)
    classes = int(graph.class_of.max()) + 1
    read, varies, stays = (np.zeros(classes, bool) for _ in range(3))
    reasons: dict[int, str] = {}
    for reading in _readings(graph, seen, approximate):
        of = graph.class_of[reading.ids]
        read[of] = True
        varies[of[~reading.constant]] = True
        stays[of[~reading.removable]] = True
        reasons |= dict.fromkeys(of[reading.constant & ~reading.removable].tolist(), reading.reason)
    kept = {}
    for group in graph.free:
        gone = read & ~varies & ~stays
        mask = keep.get(group.name, np.ones(group.size, bool)) & ~gone[group.classes]
        if not mask.all():
            keep[group.name] = mask if mask.any() else np.arange(group.size) == 0
        inexact = [int(c) for c in group.classes if read[c] and stays[c] and not varies[c]]
        if inexact:
            kept[group.name] = f"{len(inexact)} constant channels stay: {reasons[inexact[0]]}"
    return _balanced(graph, keep), kept


def _balanced(graph: ChannelGraph, keep: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the groups that a grouped convolution would read unequal numbers of."""
    for balance in graph.balances:
        if len(set(balance.counts(keep))) > 1:
            concerned = {name for block in balance.blocks for name in block}
            return _balanced(graph, {name: mask for name, mask in keep.items() if name not in concerned})
    return keep


def _readings(graph: ChannelGraph, seen: _AllSeen, approximate: bool) -> Iterator[_Reading]:
    zeros = {path: _zeros(graph, calls) for path, calls in seen.others.items()}
    for path, axis in _reading_axes(graph):
        reader = next((outer for outer in zeros if f"{path}/".startswith(f"{outer}/")), None)
        if reader is None:
            yield _reading(axis.ids, path, seen.holders.get(path, []), approximate)
        else:
            ids = axis.ids.ravel()
            yield _Reading(ids, zeros[reader][ids], zeros[reader][ids], "")


def _reading_axes(graph: ChannelGraph) -> Iterator[tuple[str, Any]]:
    for (path, _), axes in graph.ledger.axes.items():
        yield from ((path, axis) for axis in axes.values() if axis.reads)


def _reading(ids: np.ndarray, path: str, calls: list[Seen], approximate: bool) -> _Reading:
    flat = ids.ravel()
    if not calls:
        nothing = np.zeros(len(flat), bool)
        return _Reading(flat, nothing, nothing, "")
    constant = np.all([_over_positions(call, call.same[0]) for call in calls], axis=0)
    zero = np.all([_over_positions(call, call.values[0] == 0) for call in calls], axis=0)
    foldable = np.full(len(zero), len(calls) == 1 and ids.ndim == 1)
    exact = _even(calls[0]) & _pads_nothing(calls[0].operation)
    removable = constant & (zero | (foldable & (exact | approximate)))
    # A depth multiplier repeats each input in the kernel that reads it.
    copies = len(flat) // len(zero)
    reason = (
        f"'{path}' pads what it reads, so that no bias can stand in for them; approximate=True removes them"
        if foldable.any()
        else f"'{path}' has no bias that could stand in for them alone"
    )
    return _Reading(flat, np.repeat(constant, copies), np.repeat(removable, copies), reason)


def _by_channel(call: Seen, array: np.ndarray) -> np.ndarray:
    """`(channels, positions)`."""
    first = getattr(call.operation, "data_format", None) == "channels_first"
    return np.moveaxis(array, 0 if first else -1, 0).reshape(array.shape[0 if first else -1], -1)


def _over_positions(call: Seen, flags: np.ndarray) -> np.ndarray:
    return np.asarray(_by_channel(call, flags).all(axis=1))


def _even(call: Seen) -> np.ndarray:
    """Which channels have one value at all positions."""
    values = _by_channel(call, call.values[0])
    return np.asarray((values == values[:, :1]).all(axis=1))


def _pads_nothing(layer: Any) -> bool:
    """Whether every output is made from whole windows, so that a constant adds the same everywhere."""
    if isinstance(layer, keras.layers.Dense):
        return True
    transposed = "Transpose" in type(layer).__name__
    return not transposed and (layer.padding == "valid" or all(size == 1 for size in layer.kernel_size))


def _folded(
    model: keras.Model, graph: ChannelGraph, keep: Mapping[str, np.ndarray], seen: _AllSeen
) -> keras.Model:
    """A copy in which biases hold what the constant channels contributed that are about to go.

    As `channels.fold_constants` does, but from what has been watched already.
    """
    kept = graph.keep_ids(keep)
    shares: dict[str, np.ndarray] = {}
    for path, axis in _reading_axes(graph):
        if axis.ids.ndim == 1 and len(seen.holders.get(path, [])) == 1:
            share = _share(seen.holders[path][0], ~kept[axis.ids])
            shares |= {} if share is None else {path: share}
    layers = {path: seen.holders[path][0].operation for path in shares}
    lacking = {path: _biased(layer) for path, layer in layers.items() if not layer.use_bias}
    copy = rewired(model, layers=lacking)
    targets = dict(_calls.walk(copy))
    for path, share in shares.items():
        _cloning.add(copy, targets[path].bias, share)
    return copy


def _share(call: Seen, removed: np.ndarray) -> np.ndarray | None:
    """What a layer makes of the constants among the removed channels, `(outputs,)`; None for nothing."""
    constant, values = _over_positions(call, call.same[0]), call.values[0]
    gone = removed[:: len(removed) // len(constant)] & constant & ~_over_positions(call, values == 0)
    if not gone.any():
        return None
    axis = 0 if getattr(call.operation, "data_format", None) == "channels_first" else -1
    alone = np.moveaxis(np.moveaxis(values, axis, -1) * gone, -1, axis)
    made = fold.contribution(call.operation, alone[None])
    mean = made.mean(axis=tuple(range(made.ndim - 1)))
    off = float(np.abs(made - mean).max())
    exact = _pads_nothing(call.operation) and _even(call)[gone].all()
    if not exact and off > 1e-6 * max(1.0, float(np.abs(mean).max())):
        warnings.warn(
            f"Constants folded into the bias of '{call.path}' are exact only on average over positions: "
            f"its padding makes them differ by up to {off:.2g} at the border.",
            stacklevel=4,
        )
    return mean


def _biased(layer: Any) -> keras.layers.Layer:
    config = _calls.config_of(layer) | {"use_bias": True, "activation": layer.activation}
    made = type(layer).from_config(config)
    made.build_from_config(layer.get_build_config())
    made.set_weights([*layer.get_weights(), np.zeros(made.bias.shape)])
    return made
