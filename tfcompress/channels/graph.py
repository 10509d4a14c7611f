"""Which channels of a model live and die together.

>>> import keras
>>> x = keras.Input((8, 8, 3))
>>> y = keras.layers.Conv2D(4, 3, name="stem")(x)
>>> y = keras.layers.GlobalAveragePooling2D()(y)
>>> model = keras.Model(x, keras.layers.Dense(2, name="head")(y))
>>> graph = trace(model)
>>> graph["stem"].size, graph["stem"].locked
(4, None)
>>> graph["head"].locked
"it makes the model's output"
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import keras
import numpy as np

from tfcompress import _calls
from tfcompress._checks import near_miss
from tfcompress.channels import rules
from tfcompress.channels.ids import Ids, Keep, Ledger, known_shape


@dataclass(frozen=True)
class Group:
    """Channels of coupled layers: entry *i* of every layer is removed together, or not at all.

    Attributes:
        name: the first of its layers; with `/2`, `/3` where one layer's channels are in several
            groups. It stays the same when some of the group's channels have been removed.
        layers: layer path -> `(size, n)` int array, the outputs of that layer in each entry.
        locked: why none of it can be removed; None if it can.
    """

    name: str
    layers: Mapping[str, np.ndarray]
    locked: str | None = None
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False)

    @property
    def size(self) -> int:
        return max(len(outputs) for outputs in self.layers.values())


@dataclass(frozen=True)
class Balance:
    """Blocks of channels that must keep equal numbers.

    Such are the groups of a grouped convolution, and the two directions of a `Bidirectional`. Each block
    maps group name -> `(size,)` int array: how many of the block's channels each entry
    of that group holds. `fixed` is the number of locked channels in each block.
    """

    blocks: tuple[Mapping[str, np.ndarray], ...]
    fixed: tuple[int, ...]

    def counts(self, keep: Mapping[str, np.ndarray]) -> list[int]:
        """How many channels each block keeps; groups missing from `keep` stay whole."""
        return [
            fixed
            + int(
                sum(
                    weights[keep[name]].sum() if name in keep else weights.sum()
                    for name, weights in block.items()
                )
            )
            for fixed, block in zip(self.fixed, self.blocks, strict=True)
        ]


@dataclass(frozen=True)
class ChannelGraph:
    """What `trace` found. Index it by group name; iterate over its groups in order of the layers.

    Attributes:
        groups: every `Group`, locked ones included.
        balances: numbers that must stay equal (see `Balance`).
        unknown: layer path -> class name, for layers nobody registered.
        approximate: whether it was traced so.
    """

    groups: tuple[Group, ...]
    balances: tuple[Balance, ...]
    unknown: Mapping[str, str]
    ledger: Ledger = field(repr=False)
    class_of: np.ndarray = field(repr=False)
    shapes: Mapping[tuple[str, int], tuple] = field(repr=False)
    approximate: bool = False

    def __getitem__(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        raise ValueError(near_miss("channel group", name, [group.name for group in self.groups]))

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    @property
    def free(self) -> list[Group]:
        """The groups that can be pruned."""
        return [group for group in self.groups if group.locked is None]

    @property
    def output_layers(self) -> set[str]:
        """The layers whose channels are those of an output of the model, or coupled to them."""
        classes = self.class_of[np.concatenate(self.ledger.outputs)]
        producers = self.ledger.producers.items()
        return {path for path, ids in producers if np.isin(self.class_of[ids], classes).any()}

    def summary(self) -> str:
        """A table of every group: its layers, its size, and why it is locked if it is."""
        rows = [("group", "size", "layers", "locked because")]
        rows += [(g.name, str(g.size), ", ".join(g.layers), g.locked or "") for g in self.groups]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
            for row in rows
        ]
        if self.unknown:
            lines.append(
                "Left alone, of unknown kind: " + ", ".join(f"{p} ({k})" for p, k in self.unknown.items())
            )
        return "\n".join(lines)

    def keep_ids(self, keep: Mapping[str, np.ndarray]) -> Keep:
        """Checks `keep` and spreads it from the entries of groups to all channel ids.

        Args:
            keep: group name -> bool array `(size,)`, True where the channel stays. Groups left
                out stay whole.

        Raises:
            ValueError: an unknown or locked group, a wrong shape, a group that would be empty, or
                blocks that would keep unequal numbers.
        """
        keep = {name: self._checked(self[name], mask) for name, mask in keep.items()}
        self._check_balances(keep)
        by_class = np.ones(self.class_of.max() + 1, bool)
        for name, mask in keep.items():
            by_class[self[name].classes] = mask if self[name].locked is None else True
        return by_class[self.class_of]

    def shapes_after(self, keep: Mapping[str, np.ndarray]) -> dict[tuple[str, int], tuple[int, ...]]:
        """(layer path, index in `layer.weights`) -> the shape that `shrink` would leave."""
        kept = self.keep_ids(keep)
        shapes = {key: list(shape) for key, shape in self.shapes.items()}
        for key, axes in self.ledger.axes.items():
            for axis in axes.values() if key in shapes else ():
                ids = axis.ids if axis.ids.ndim == 1 else axis.ids[0]
                shapes[key][axis.axis] = int(kept[ids].sum())
        return {key: tuple(shape) for key, shape in shapes.items()}

    def _checked(self, group: Group, mask: np.ndarray) -> np.ndarray:
        mask = np.asarray(mask)
        if mask.shape != (group.size,) or mask.dtype != bool:
            raise ValueError(
                f"keep['{group.name}'] must be a bool array of shape ({group.size},), "
                f"got {mask.dtype} {mask.shape}."
            )
        if group.locked is not None and not mask.all():
            raise ValueError(f"Group '{group.name}' is locked: {group.locked}. Keep all of it.")
        if not mask.any():
            raise ValueError(f"keep['{group.name}'] removes every channel; at least one must stay.")
        return mask

    def _check_balances(self, keep: Mapping[str, np.ndarray]) -> None:
        for balance in self.balances:
            counts = balance.counts(keep)
            if len(set(counts)) > 1:
                names = sorted({name for block in balance.blocks for name in block})
                raise ValueError(
                    f"A grouped layer needs equal numbers from each of its blocks over the groups {names}, "
                    f"but they would keep {counts}. Selection().masks(scores, sparsity, graph.balances) of "
                    "tfcompress finds masks that fit."
                )


def trace(model: keras.Model, *, approximate: bool = False) -> ChannelGraph:
    """Follows every channel of a model from the layer that makes it to the layers that read it.

    Args:
        model: a functional or Sequential Keras model, built. It is not changed.
        approximate: free also the channels that pass LayerNormalization, RMSNormalization,
            GroupNormalization or LayerScale. Removing some of them changes the statistics over
            the rest, so that the smaller model equals the silenced one only approximately.

    Returns:
        The `ChannelGraph`. Channels that an unknown layer touches are locked, not an error.

    Raises:
        ValueError: the model is subclassed or not built.
    """
    _calls.check_functional(model)
    ledger = Ledger(paths={id(operation): path for path, operation in _calls.walk(model)})
    recipe = _calls.read(model)
    refs = keras.tree.flatten(recipe.inputs)
    shapes = [known_shape(recipe.shapes[ref]) for ref in refs]
    inputs = [
        Ids.constant(ledger.fixed(f"it is tied to the model's input '{ref.operation}'"), shape)
        for ref, shape in zip(refs, shapes, strict=True)
    ]
    for ids in rules.run(ledger, model, inputs, approximate):
        ledger.outputs.append(np.unique(ids.array))
        ledger.lock(ids.array, "it makes the model's output")
    return _assemble(ledger, weight_shapes(model), approximate)


def weight_shapes(model: keras.Model) -> dict[tuple[str, int], tuple]:
    """(layer path, index in `layer.weights`) -> shape, for every weight."""
    return {(path, index): tuple(weight.shape) for path, index, weight in _calls.weights(model)}


def _assemble(ledger: Ledger, shapes: dict, approximate: bool) -> ChannelGraph:
    """Sorts classes of channels into groups of the same layers."""
    class_of = ledger.classes()
    reasons = {int(class_of[id_]): reason for id_, reason in reversed(ledger.reasons.items())}
    members: dict[int, dict[str, list[int]]] = {}
    for path, ids in ledger.producers.items():
        for index, class_ in enumerate(class_of[ids].tolist()):
            members.setdefault(class_, {}).setdefault(path, []).append(index)
    labels = _labels(ledger, class_of)
    alike: dict[tuple, list[int]] = {}
    for class_, outputs in members.items():
        counts = tuple((path, len(indices)) for path, indices in outputs.items())
        key = (reasons[class_], tuple(outputs)) if class_ in reasons else (counts, labels.get(class_, ()))
        alike.setdefault(key, []).append(class_)
    names = _names(alike, members, reasons)
    groups = [_group(names[key], classes, members, reasons) for key, classes in alike.items()]
    balances = _balances(ledger, class_of, groups)
    return ChannelGraph(tuple(groups), balances, dict(ledger.unknown), ledger, class_of, shapes, approximate)


def _labels(ledger: Ledger, class_of: np.ndarray) -> dict[int, tuple]:
    """The parts of split tensors that each class is in: a part must not become empty."""
    labels: dict[int, tuple] = {}
    for number, part in enumerate(ledger.parts):
        for class_ in np.unique(class_of[part]).tolist():
            labels[class_] = (*labels.get(class_, ()), number)
    return labels


def _names(alike: dict[tuple, list[int]], members: dict, reasons: dict) -> dict[tuple, str]:
    """Names by the first layer, and numbers by what no removal changes, such as the part of a split."""
    by_layer: dict[str, list[tuple]] = {}
    for key, (class_, *_) in alike.items():
        by_layer.setdefault(next(iter(members[class_])), []).append(key)
    names = {}
    for first, keys in by_layer.items():
        for number, key in enumerate(sorted(keys, key=lambda key: (alike[key][0] in reasons, key[::-1])), 1):
            names[key] = first if number == 1 else f"{first}/{number}"
    return names


def _group(name: str, classes: list[int], members: dict, reasons: dict) -> Group:
    paths = list(members[classes[0]])
    rows = {path: [members[class_].get(path, []) for class_ in classes] for path in paths}
    if classes[0] not in reasons:
        return Group(name, {path: np.array(table) for path, table in rows.items()}, None, np.array(classes))
    layers = {path: np.sort(np.concatenate(table))[:, None] for path, table in rows.items()}
    return Group(name, layers, reasons[classes[0]])


def _balances(ledger: Ledger, class_of: np.ndarray, groups: list[Group]) -> tuple[Balance, ...]:
    """The ledger's balances over ids, said in entries of groups."""
    home = {class_: (group, entry) for group in groups for entry, class_ in enumerate(group.classes.tolist())}
    balances = []
    for blocks in ledger.balances:
        said = [_block(class_of[block], home) for block in blocks]
        if any(weights for weights, _ in said):
            balances.append(Balance(*zip(*said, strict=True)))
    return tuple(balances)


def _block(classes: np.ndarray, home: dict) -> tuple[dict[str, np.ndarray], int]:
    weights: dict[str, np.ndarray] = {}
    fixed = 0
    for class_ in classes.tolist():
        if class_ not in home:
            fixed += 1
            continue
        group, entry = home[class_]
        weights.setdefault(group.name, np.zeros(group.size, int))[entry] += 1
    return weights, fixed
