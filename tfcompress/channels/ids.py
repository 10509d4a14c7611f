"""Integer names for channels, and the ledger of what a trace learns about them.

Every channel that a layer produces gets an id. The ids of a tensor are an array of the tensor's
shape without the batch axis: each entry says which channel that element belongs to.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

UNKNOWN_SIZE = 16  # stands in for an axis whose length the model leaves open


@dataclass(frozen=True)
class Ids:
    """The channel ids of one tensor.

    `array` has the tensor's rank without the batch axis, and length 1 along every axis on which
    the ids do not vary. `shape` has the real lengths.
    """

    array: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def along(cls, vector: np.ndarray, axis: int, shape: tuple[int, ...]) -> "Ids":
        """Ids that vary along `axis` only."""
        spread = [1] * len(shape)
        spread[axis] = len(vector)
        return cls(np.asarray(vector).reshape(spread), shape)

    @classmethod
    def constant(cls, id_: int, shape: tuple[int, ...]) -> "Ids":
        return cls(np.full([1] * len(shape), id_), shape)

    @classmethod
    def compressed(cls, full: np.ndarray) -> "Ids":
        """From an array of the real shape: keeps one entry of each axis that does not vary."""
        array = full
        for axis in range(full.ndim):
            first = array.take([0], axis)
            if (array == first).all():
                array = first
        return cls(array, full.shape)

    def resized(self, shape: tuple[int, ...] | None) -> "Ids":
        """Under the lengths that the trace gives this tensor; where one is open, others may have come out.

        The ids stay as they are if they vary along such an axis, or if `shape` is None.
        """
        if shape is None or any(self.shape[axis] != shape[axis] for axis in self.varying):
            return self
        return Ids(self.array, shape)

    @property
    def varying(self) -> list[int]:
        """The axes along which the ids differ."""
        return [axis for axis, size in enumerate(self.array.shape) if size > 1]

    def vector(self, axis: int) -> np.ndarray:
        """The ids along `axis`, which must be the only varying one."""
        return np.broadcast_to(self.array.ravel(), (self.shape[axis],))

    def full(self) -> np.ndarray:
        return np.broadcast_to(self.array, self.shape)


def known_shape(shape: tuple) -> tuple[int, ...]:
    """`shape` without its batch axis, open lengths filled in."""
    return tuple(UNKNOWN_SIZE if size is None else int(size) for size in shape[1:])


class Axis(NamedTuple):
    """What one axis of a weight runs over.

    `ids` is a vector as long as the axis; or, for the input axis of a grouped convolution, a matrix
    with one row per group of outputs. `reads` tells whether the weight reads these channels (its
    entries multiply their values) or belongs to them.
    """

    axis: int
    ids: np.ndarray
    reads: bool


Keep = np.ndarray  # bool per id: True where the channel stays


@dataclass
class Ledger:
    """What a trace has learned so far.

    `paths` gives the path of each operation by its `id()`, `tensors` what each call of each path is given:
    `Ids`, and tensors that are constants.
    """

    paths: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=lambda: {0: "zeros from padding"})
    producers: dict[str, np.ndarray] = field(default_factory=dict)
    axes: dict[tuple[str, int], dict[int, Axis]] = field(default_factory=dict)
    balances: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)
    outputs: list[np.ndarray] = field(default_factory=list)
    edits: dict[str, list[Callable[[Keep], dict]]] = field(default_factory=dict)
    arguments: dict[tuple[str, int], Callable[[Keep], Any]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    tensors: dict[tuple[str, int], list[Any]] = field(default_factory=dict)
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    count: int = 1

    def fixed(self, reason: str) -> int:
        """A new id that may never be removed."""
        self.reasons[self.count] = reason
        self.count += 1
        return self.count - 1

    def produce(self, path: str, size: int) -> np.ndarray:
        """The ids of the channels that the layer at `path` makes; the same ones at every call."""
        if path not in self.producers:
            self.producers[path] = np.arange(self.count, self.count + size)
            self.count += size
        return self.producers[path]

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """These channels live and die together, entry by entry."""
        first, second = np.broadcast_arrays(first, second)
        differ = first != second
        if differ.any():
            self.ties.append((first[differ], second[differ]))

    def lock(self, ids: np.ndarray, reason: str) -> None:
        """None of these channels may be removed."""
        self.tie(np.unique(ids), np.asarray(self.fixed(reason)))

    def role(self, key: tuple[str, int], axis: Axis) -> None:
        """Axis `axis.axis` of weight `key` (path, index in `layer.weights`) runs over these ids."""
        known = self.axes.setdefault(key, {})
        if axis.axis in known:
            self.tie(known[axis.axis].ids, axis.ids)
        else:
            known[axis.axis] = axis

    def edit(self, path: str, change: Callable[[Keep], dict]) -> None:
        """`change(keep)` gives the entries of the layer's config that a removal alters."""
        self.edits.setdefault(path, []).append(change)

    def classes(self) -> np.ndarray:
        """For every id, the number of the class of channels that it is tied to."""
        if not self.ties:
            return np.arange(self.count)
        first = np.concatenate([a.ravel() for a, _ in self.ties])
        second = np.concatenate([b.ravel() for _, b in self.ties])
        links = sparse.coo_array((np.ones(len(first), bool), (first, second)), (self.count, self.count))
        return csgraph.connected_components(links, directed=False)[1]
