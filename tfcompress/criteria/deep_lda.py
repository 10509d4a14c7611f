"""LDA of the last convolution, and what earlier neurons give to those it keeps (Tian et al. 2017)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import layers

from tfcompress import _calls, _cloning, _data
from tfcompress._checks import check_choice, check_number
from tfcompress._gradients import gradients
from tfcompress.criteria.criterion import Criterion, checked
from tfcompress.criteria.lda import LDA, strongest
from tfcompress.criteria.sites import activates, operations, owners, site
from tfcompress.criteria.taps import channel_axis, run

OVER: dict[str, Callable] = {"mean": np.mean, "max": np.max}


@dataclass(frozen=True)
class DeepLDA(Criterion):
    """LDA scores the last convolution; earlier neurons are worth what they give to its best ones.

    1. Neurons of the layer `last` have their intraclass correlation (see `LDA`).
    2. From each of the `keep` best of them a deconvolution network goes back towards the image (Zeiler and
       Fergus 2014): it starts from the neuron at its maximum, all else zero, and at each layer unpools with
       the switches recorded on the way forward, rectifies, and convolves with the transposed filters.
       What arrives at an earlier neuron, its maximum over positions, is its utility for that image.

    A layer's scores are the utilities, over images and over kept neurons as the arguments say (Tian, Arbel
    and Clark 2017, "Deep LDA-Pruned Nets for Efficient Facial Gender Classification"). Normalizations scale
    what passes, additions hand it to both branches. Layers from which nothing reaches `last` are left out.

    The paper gives no numbers of how utilities are joined: the defaults are choices made here. The network
    is run once per kept neuron, forwards and backwards.

    Args:
        last: path of the layer; None: the last one that is scored.
        keep: how many of its neurons the utilities are for, or the share of them, below 1.
        over_images: `"mean"` or `"max"`.
        over_neurons: `"mean"` or `"max"`.
    """

    last: str | None = None
    keep: float = 0.1
    over_images: str = "mean"
    over_neurons: str = "max"

    needs_data: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True

    def __post_init__(self):
        check_number("keep, of neurons or a share below 1,", self.keep, "(0, inf)")
        check_choice("over_images", self.over_images, OVER)
        check_choice("over_neurons", self.over_neurons, OVER)

    def score(self, model: keras.Model, layers: Sequence[str], data: Any = None) -> dict[str, np.ndarray]:
        last = layers[-1] if self.last is None else self.last
        data = _data.repeatable(data)
        icc = LDA().score(model, [last], data)[last]
        count = max(1, round(self.keep if self.keep >= 1 else self.keep * len(icc)))
        best = np.sort(np.argsort(-icc, kind="stable")[:count])
        earlier = [path for path in layers if path != last]
        found = deconvolved(model, last, best, earlier, data, self.over_images, self.over_neurons)
        return {
            path: icc if path == last else found[path] for path in layers if path == last or path in found
        }


def deconvolved(
    model: keras.Model,
    last: str,
    neurons: Iterable[int],
    layers: Sequence[str],
    data: Any,
    over_images: str = "mean",
    over_neurons: str = "max",
) -> dict[str, np.ndarray]:
    """Layer path -> `(channels,)` utilities of earlier neurons for some of the layer `last`; see `DeepLDA`.

    Layers from which nothing reaches `last` are left out.
    """
    operations(model, [last, *layers])
    net, data = _Deconvolution(model, last, layers), _data.repeatable(data)
    found: dict[str, list[np.ndarray]] = {}
    for neuron in neurons:
        rows: dict[str, list[np.ndarray]] = {}
        for inputs, _ in _data.batches_for(model, data):
            for path, utilities in net.utilities(inputs, neuron).items():
                rows.setdefault(path, []).append(utilities)
        for path, parts in rows.items():
            found.setdefault(path, []).append(OVER[over_images](np.concatenate(parts), axis=0))
    joined = {path: checked(path, OVER[over_neurons](rows, axis=0)) for path, rows in found.items()}
    return {path: utilities for path, utilities in joined.items() if utilities.any()}


class _Deconvolution(keras.Model):
    """Runs a copy of a model, with activation functions that rectify what comes back through them."""

    def __init__(self, model: keras.Model, last: str, layers: Sequence[str]):
        super().__init__(name="deconvolution")
        self.watched = _cloning.clone(model)
        by_path, places = operations(self.watched, [last, *layers]), owners(self.watched)
        for _, operation in _calls.walk(self.watched):
            _rectify(operation)
        self._last = last
        self._axes = {
            path: channel_axis(by_path[path], places[path].operation)
            for path in (last, *layers)
            if path in places
        }
        self._end = site(places[last])
        self._sites = {path: site(places[path], merged=False) for path in layers if path in places}

    def utilities(self, inputs: list[np.ndarray], neuron: int) -> dict[str, np.ndarray]:
        """Layer path -> `(images, channels)`: what arrives from a neuron of the last layer."""
        return self.predict_on_batch({"inputs": inputs, "neuron": np.array([neuron], "int32")})

    def call(self, batch: dict) -> dict[str, Any]:
        inputs = keras.tree.flatten(batch["inputs"])

        def seed(shifts: dict[str, Any]) -> tuple[Any, Any]:
            end, _ = self._run(inputs, shifts)
            strength = strongest(self._channels_last(self._last, end))
            value = keras.ops.take(strength, batch["neuron"], axis=-1)
            return keras.ops.sum(value**2) / 2, None  # whose derivative is the value, where the maximum is

        _, maps = self._run(inputs, {})
        _, arriving = gradients(seed, {path: keras.ops.zeros_like(found) for path, found in maps.items()})
        return {
            path: strongest(keras.ops.relu(self._channels_last(path, signal)))
            for path, signal in arriving.items()
        }

    def _run(self, inputs: list, shifts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The activations of the last layer, and by path those of the others, with shifts added to them."""
        ends: list[Any] = []
        maps: dict[str, Any] = {}

        def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
            outputs = keras.tree.flatten(_rectifying(step.operation)(*args, **kwargs))
            for path, where in self._sites.items():
                if (where.operation, where.call) == (step.operation, step.index):
                    maps[path] = outputs[0]
                    outputs[0] = outputs[0] + shifts[path] if path in shifts else outputs[0]
            if (self._end.operation, self._end.call) == (step.operation, step.index):
                ends.append(outputs[0])
            return outputs

        run(self.watched, inputs, call)
        return ends[0], maps

    def _channels_last(self, path: str, found: Any) -> Any:
        return keras.ops.moveaxis(keras.ops.cast(found, "float32"), self._axes[path], -1)


# Their activation function is inside a recurrence, or has weights of its own.
_LEFT = (layers.RNN, layers.PReLU)


def _rectify(operation: keras.Operation) -> None:
    """Changes the activation function of a layer that has one of its own."""
    function = getattr(operation, "activation", keras.activations.linear)
    own = function is not keras.activations.linear and not activates(operation)
    if own and not isinstance(operation, _LEFT):
        operation.activation = _rectified(function)


def _rectifying(operation: keras.Operation) -> Callable:
    """The operation itself, or if it is an activation function, one that rectifies what comes back."""
    return _rectified(operation) if activates(operation) and not isinstance(operation, _LEFT) else operation


def _rectified(function: Callable) -> Callable:
    @keras.ops.custom_gradient
    def forward(x: Any) -> tuple[Any, Callable]:
        def back(*arguments: Any, upstream: Any = None) -> Any:
            return keras.ops.relu(arguments[0] if upstream is None else upstream)

        return function(x), back

    return forward
