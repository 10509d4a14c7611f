"""What a config says of sizes, recomputed for the channels that stay.

A rewrite notes in the ledger how to change the config, or the arguments, of a layer that moves
channels. It returns False if the layer cannot be made to fit.
"""

from collections.abc import Sequence

import numpy as np

from tfcompress import _calls
from tfcompress.channels.ids import Ids, Keep
from tfcompress.channels.visits import Visit


def kept_sizes(ids: Ids, keep: Keep, sizes: Sequence) -> list:
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
        sizes = old[:batch] + kept_sizes(ids, keep, old[batch:])
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


REWRITES = {
    "shape": _rewrite_shape,
    "split": _rewrite_split,
    "item": _rewrite_item,
    "permutation": _rewrite_permutation,
}
