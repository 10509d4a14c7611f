"""Dense layers and convolutions as matrices, and what these see of the data."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress import _calls, _data
from tfcompress._arrays import to_numpy
from tfcompress._unfold import CONVOLUTIONS, DEPTHWISE, Window, inner
from tfcompress.criteria.sites import owners
from tfcompress.criteria.taps import channel_axis, run

BATCH = 32
CHUNK = 2**25  # numbers that are unfolded at once


def why_not(layer: Any) -> str | None:
    """Why least squares cannot find the weights of a layer; None if it can."""
    layer = inner(layer)
    if type(layer) in (layers.Dense, *CONVOLUTIONS, *DEPTHWISE):
        return None
    return f"{type(layer).__name__} is no Dense layer and no convolution"


@dataclass(frozen=True)
class Unfolded:
    """A layer as one matrix per group, `(groups, columns, filters)`; with a bias, that is its last row.

    A group sees nothing of the channels of another one: convolutions have `groups` of them, depthwise ones
    one for each channel, and all else has one.
    """

    layer: Any

    @property
    def window(self) -> Window:
        return Window.of(self.layer)

    @property
    def axis(self) -> int:
        """Of the channels."""
        return channel_axis(self.layer, self.layer)

    @property
    def groups(self) -> int:
        if isinstance(self.layer, DEPTHWISE):
            return self.layer.kernel.shape[-2]
        return getattr(self.layer, "groups", 1)

    @property
    def biased(self) -> bool:
        return self.layer.bias is not None

    def fold(self, kernel: np.ndarray) -> np.ndarray:
        """The matrices of an array of the kernel's shape."""
        if isinstance(self.layer, DEPTHWISE):
            return kernel.reshape(-1, *kernel.shape[-2:]).transpose(1, 0, 2)
        rows = kernel.reshape(-1, self.groups, kernel.shape[-1] // self.groups)
        return rows.transpose(1, 0, 2)

    def unfold(self, matrices: np.ndarray) -> np.ndarray:
        """The inverse of `fold`."""
        return matrices.transpose(1, 0, 2).reshape(tuple(self.layer.kernel.shape))

    @property
    def outputs(self) -> int:
        """How many outputs the layer has at each position."""
        return self.groups * self.fold(to_numpy(self.layer.kernel)).shape[2]

    def output_numbers(self) -> np.ndarray:
        """An array of the kernel's shape: for each entry, the number of the output it helps to make."""
        matrices = self.fold(to_numpy(self.layer.kernel))
        numbers = np.arange(self.outputs).reshape(self.groups, 1, -1)
        return self.unfold(np.broadcast_to(numbers, matrices.shape))

    def weights(self) -> np.ndarray:
        """The matrices, with the bias."""
        matrices = self.fold(to_numpy(self.layer.kernel).astype("float64"))
        if not self.biased:
            return matrices
        bias = to_numpy(self.layer.bias).astype("float64").reshape(self.groups, 1, -1)
        return np.concatenate([matrices, bias], axis=1)

    def with_bias(self, matrices: np.ndarray) -> np.ndarray:
        """Where matrices may be nonzero, for bool ones without the row of the bias, which may."""
        if not self.biased:
            return matrices
        return np.concatenate([matrices, np.ones_like(matrices[:, :1])], axis=1)

    def assign(self, matrices: np.ndarray) -> None:
        """Gives the layer these weights."""
        if self.biased:
            self.layer.bias.assign(matrices[:, -1].reshape(-1))
            matrices = matrices[:, :-1]
        self.layer.kernel.assign(self.unfold(matrices))

    def positions(self, inputs: np.ndarray) -> int:
        """At how many positions the layer's neurons are, for such inputs, channels last."""
        return int(np.prod(self._places(self.window.padded(inputs[:1]))))

    def seen(self, inputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """`(groups, rows, columns)`: what the matrices are multiplied with.

        Args:
            inputs: of the layer, channels last.
            positions: the numbers of some positions. Rows are images by positions.
        """
        padded = self.window.padded(inputs)
        places = np.stack(np.unravel_index(positions, self._places(padded)), axis=-1)
        patches = self.window.at(padded, places)
        images, count, taps, channels = patches.shape
        rows = patches.reshape(images * count, taps, self.groups, channels // self.groups)
        columns = rows.transpose(2, 0, 1, 3).reshape(self.groups, images * count, -1)
        if not self.biased:
            return columns
        return np.concatenate([columns, np.ones_like(columns[:, :, :1])], axis=2)

    def _places(self, padded: np.ndarray) -> tuple[int, ...]:
        return self.window.seen(padded).shape[1 : 1 + len(self.window.size)]


class _Enough(Exception):
    """The rest of a model need not be run."""


class Inputs(keras.Model):
    """What goes into a layer of a model, channels last, call by call."""

    def __init__(self, model: keras.Model, path: str):
        super().__init__(name="inputs")
        self.watched, self._owner = model, owners(model)[path].operation
        self.unfolded = Unfolded(inner(self._owner))
        self._count = sum(operation is self._owner for operation in _calls.calls(model))

    def call(self, inputs: list) -> list:
        found: list = []

        def call(step: Any, args: Any, kwargs: dict) -> Any:
            if step.operation is self._owner:
                found.append(keras.ops.moveaxis(args[0], self.unfolded.axis, -1))
            if len(found) == self._count:
                raise _Enough
            return step.operation(*args, **kwargs)

        with contextlib.suppress(_Enough):
            run(self.watched, keras.tree.flatten(inputs), call)
        return found

    def batches(self, data: Any) -> Iterator[list[np.ndarray]]:
        for batch, _ in _data.batches_for(self.watched, data, BATCH):
            yield [np.asarray(maps, "float32") for maps in keras.tree.flatten(self.predict_on_batch(batch))]


def rows(
    sources: Sequence[Inputs], data: Any, drawn: int | None, seed: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields what the matrices of layers see at the same positions, `(groups, rows, columns)` each.

    Args:
        sources: of layers whose outputs have the same positions.
        data: images.
        drawn: of how many positions of every batch, drawn at random; None: of all.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    for calls in zip(*(source.batches(data) for source in sources), strict=True):
        for inputs in zip(*calls, strict=True):
            count = sources[0].unfolded.positions(inputs[0])
            every = drawn is None or drawn >= count
            chosen = np.arange(count) if every else np.sort(rng.choice(count, drawn, replace=False))
            sizes = [
                s.unfolded.window.taps * len(x) * x.shape[-1] for s, x in zip(sources, inputs, strict=True)
            ]
            at_once = max(1, CHUNK // max(sizes))
            for first in range(0, len(chosen), at_once):
                part = chosen[first : first + at_once]
                yield tuple(s.unfolded.seen(x, part) for s, x in zip(sources, inputs, strict=True))
