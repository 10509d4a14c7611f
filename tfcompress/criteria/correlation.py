"""How a neuron goes along with each of its inputs (Sun, Wang and Tang 2016)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import layers

from tfcompress import _data
from tfcompress._checks import check_choice, check_whole
from tfcompress._unfold import CONVOLUTIONS, Window, inner
from tfcompress.criteria.criterion import Criterion, checked
from tfcompress.criteria.sites import Place, Site, operations, owners, site
from tfcompress.criteria.taps import channel_axis, run

BYTES = 2**28  # of activations that are held at once
NOISE = 1e-6  # a standard deviation below this share of the mean is none
SIGNS = ("absolute", "signed")


@dataclass(frozen=True)
class Correlation(Criterion):
    """The sum of a filter's correlations with its inputs: `sum_k |r_ik|`.

    The filter-level extension of neuron correlation (Sun, Wang and Tang 2016, "Sparsifying Neural Network
    Connections for Face Recognition"), where `r_ik` says how neuron *i* goes along with its input *k* (see
    `correlations`). The paper itself drops single connections: `tfcompress.prune_connections`. Layers
    other than Dense and convolutions are left out.

    Args:
        images: at most so many images are looked at, the first ones.
    """

    images: int = 512

    needs_data: ClassVar[bool] = True

    def __post_init__(self):
        check_images(self.images)

    def score(self, model: keras.Model, layers: Sequence[str], data: Any = None) -> dict[str, np.ndarray]:
        by_path, data = operations(model, layers), _data.repeatable(data)
        found = {
            path: correlations(model, path, data, images=self.images)
            for path in layers
            if why_not(by_path.get(path)) is None
        }
        axes = {path: tuple(range(r.ndim - 1)) for path, r in found.items()}
        return {path: checked(path, np.abs(r).sum(axis=axes[path])) for path, r in found.items()}


def check_images(images: Any) -> None:
    check_whole("images", images, 2)


def why_not(layer: Any) -> str | None:
    """Why a layer has no correlations here; None if it has."""
    layer = inner(layer)
    if type(layer) in (layers.Dense, *CONVOLUTIONS):
        return None
    return f"{type(layer).__name__} is no Dense layer and no convolution"


def correlations(
    model: keras.Model,
    layer: str,
    data: Any,
    *,
    images: int = 512,
    signs: str = "absolute",
    activated: bool = True,
) -> np.ndarray:
    """The correlation of each neuron of a layer with each of its inputs.

    `r_ik = E[(a_i - mu_ai)(b_ik - mu_bik)] / (sd_ai sd_bik)` over images, for neuron *i* and its K inputs
    *b_ik* (Sun, Wang and Tang 2016, eq. 1). Where weights are shared, as in a convolution, each of the M
    positions has its own means and deviations, and `r_ik` is the mean over positions. Inputs and neurons that
    never change have 0.

    The paper leaves open how signs are handled when positions are averaged: `"signed"` averages `r`;
    `"absolute"` averages `|r|` and gives it the sign of the mean of `r`.

    Args:
        model: a built functional or Sequential model.
        layer: the path of a Dense layer or a convolution, masked ones included.
        data: arrays or batches, as `tfcompress.prune` takes them.
        images: at most so many images are looked at, the first ones. No more than 256 MiB of activations
            are held: where maps are large, the data is read several times.
        signs: `"absolute"` or `"signed"`.
        activated: whether neurons are looked at behind their activation function.

    Returns:
        An array of the shape of the layer's kernel, in [-1, 1].

    Raises:
        ValueError: the layer is unknown or of another kind, an argument is wrong, or the data is missing,
            does not fit, or has fewer than two images.

    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, keras.layers.Dense(3, name="units")(x))
    >>> correlations(model, "units", np.random.rand(64, 4)).shape
    (4, 3)
    """
    operation = operations(model, [layer])[layer]
    if reason := why_not(operation):
        raise ValueError(f"Layer '{layer}' has no correlations: {reason}.")
    check_images(images)
    check_choice("signs", signs, SIGNS)
    if data is None:
        raise ValueError("Correlations look at activations: pass data, e.g. a few hundred images.")
    sums = _Sums(tuple(inner(operation).kernel.shape))
    for inputs, outputs in _Ends(model, layer, activated).bands(_data.repeatable(data), images):
        sums.add(inputs, outputs)
    return sums.mean(signs)


class _Ends(keras.Model):
    """What goes into a layer and what comes out, channels last."""

    def __init__(self, model: keras.Model, layer: str, activated: bool):
        super().__init__(name="ends")
        self.watched = model
        self._place: Place = owners(model)[layer]
        own = Site(self._place.operation, 0, False)
        self._site = site(self._place, merged=False) if activated else own
        self._layer = inner(operations(model, [layer])[layer])
        self._axis = channel_axis(self._layer, self._layer)
        self._window = Window.of(self._layer)

    def call(self, inputs: list) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def call(step: Any, args: Any, kwargs: dict) -> Any:
            outputs = keras.tree.flatten(step.operation(*args, **kwargs))
            if (step.operation, step.index) == (self._place.operation, 0):
                seen["inputs"], seen["outputs"] = args[0], outputs[0]
            if (step.operation, step.index) == (self._site.operation, self._site.call):
                seen["activated"] = outputs[0]
            return outputs

        run(self.watched, keras.tree.flatten(inputs), call)
        # Where a pooling comes before the activation function, there are fewer positions behind it.
        same = tuple(seen["activated"].shape) == tuple(seen["outputs"].shape)
        ends = {"inputs": seen["inputs"], "outputs": seen["activated" if same else "outputs"]}
        return {name: keras.ops.moveaxis(found, self._axis, -1) for name, found in ends.items()}

    def bands(self, data: Any, images: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields what neurons see and what they say, a few positions at a time.

        The first is `(images, positions, taps, channels)`, the second `(images, positions, filters)`.
        """
        start, rows = 0, 1
        while start < rows:
            inputs, outputs, rows = self._rows(data, images, start)
            yield from _slices(self._window, inputs, outputs)
            start += outputs.shape[1]

    def _rows(self, data: Any, images: int, start: int) -> tuple[np.ndarray, np.ndarray, int]:
        """As many rows of outputs from `start` on as can be held, what they see, and how many there are."""
        held: list[tuple[np.ndarray, np.ndarray]] = []
        rows, missing = 0, images
        for batch, _ in _data.batches_for(self.watched, data):
            ends = self.predict_on_batch(batch)
            inputs = self._window.padded(ends["inputs"][:missing])
            outputs = self._window.flat(ends["outputs"][:missing])
            rows = outputs.shape[1]
            bytes_per_row = 4 * images * (inputs[0].size + outputs[0].size) // rows
            stop = start + max(1, BYTES // bytes_per_row)
            held.append((self._window.rows(inputs, start, min(stop, rows)), outputs[:, start:stop]))
            missing -= len(outputs)
            if missing == 0:
                break
        if images - missing < 2:
            raise ValueError("Correlations need at least two images, the data has one.")
        inputs, outputs = (np.concatenate(parts) for parts in zip(*held, strict=True))
        return inputs, outputs, rows


def _slices(
    window: Window, inputs: np.ndarray, outputs: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of what neurons see and say, so few positions at a time that both are small."""
    positions = np.array(list(np.ndindex(*outputs.shape[1:-1])))
    inside = window.taps * inputs.shape[-1]
    at_once = max(1, BYTES // (16 * inside * (len(inputs) + outputs.shape[-1])))
    for first in range(0, len(positions), at_once):
        chosen = positions[first : first + at_once]
        yield window.at(inputs, chosen), outputs[(slice(None), *chosen.T)]


class _Sums:
    """Sums of correlations over positions, for a kernel of a shape `(*taps, channels, filters)`."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape, self.positions = shape, 0
        self.signed, self.absolute = np.zeros((2, math.prod(shape[:-1]), shape[-1]))

    def add(self, inputs: np.ndarray, outputs: np.ndarray) -> None:
        groups = inputs.shape[-1] // self.shape[-2]
        seen = np.split(inputs, groups, axis=-1)
        said = np.split(outputs, groups, axis=-1)
        self.positions += outputs.shape[1]
        each = [_correlated(b.reshape(*b.shape[:2], -1), a) for b, a in zip(seen, said, strict=True)]
        self.signed += np.concatenate([r.sum(axis=0) for r in each], axis=1)
        self.absolute += np.concatenate([np.abs(r).sum(axis=0) for r in each], axis=1)

    def mean(self, signs: str) -> np.ndarray:
        summed = self.signed if signs == "signed" else np.sign(self.signed) * self.absolute
        return (summed / self.positions).reshape(self.shape)


def _correlated(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """From `(images, positions, K)` and `(images, positions, filters)` to `(positions, K, filters)`."""
    b, a = (_standardized(x.astype("float64").transpose(1, 0, 2)) for x in (b, a))
    return b.transpose(0, 2, 1) @ a / b.shape[1]


def _standardized(x: np.ndarray) -> np.ndarray:
    """With mean 0 and deviation 1 over images, the second axis; 0 where it never changes."""
    mean = x.mean(axis=1, keepdims=True)
    centered = x - mean
    deviation = np.sqrt((centered**2).mean(axis=1, keepdims=True))
    constant = deviation <= NOISE * np.abs(mean)
    return np.where(constant, 0, centered / np.where(constant, 1, deviation))
