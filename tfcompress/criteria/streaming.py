"""One forward pass over the data for all layers and all criteria."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _data
from tfcompress.criteria.criterion import ActivationCriterion, checked
from tfcompress.criteria.sites import owners, site


def score_together(
    model: keras.Model,
    criteria: Mapping[str, ActivationCriterion],
    layers: Sequence[str],
    data: Any,
) -> dict[str, dict[str, np.ndarray]]:
    """Scores `layers` by several criteria in one pass; memory does not grow with the data.

    Returns:
        Criterion key -> layer path -> `(channels,)` scores.

    Raises:
        ValueError: there is no data, it does not fit the model, labels are missing, or an
            activation is NaN.
    """
    probe = _Probe(model, criteria, layers)
    states: dict[tuple[str, str], Any] = {}
    for statistics in _stream(model, probe, criteria, data):
        for key, by_layer in statistics.items():
            for path, value in by_layer.items():
                states[key, path] = criteria[key].update(states.get((key, path)), value)
    return {
        key: {p: checked(p, criterion.result(states[key, p])) for p in layers if (key, p) in states}
        for key, criterion in criteria.items()
    }


def _stream(model: keras.Model, probe: "_Probe", criteria: Mapping, data: Any) -> Iterator[dict]:
    wanting = [criterion.name for criterion in criteria.values() if criterion.needs_labels]
    if data is None:
        names = [criterion.name for criterion in criteria.values()]
        raise ValueError(f"Criterion {names} looks at activations: pass data, e.g. a few hundred images.")
    for inputs, labels in _data.batches(data):
        _data.check_inputs(model, inputs)
        if wanting and labels is None:
            raise ValueError(f"Criterion {wanting} needs labels: pass data as (inputs, labels).")
        yield probe.statistics(inputs, labels)


class _Probe(keras.Model):
    """Runs a model's own layers and returns statistics of their activations."""

    def __init__(
        self, model: keras.Model, criteria: Mapping[str, ActivationCriterion], layers: Sequence[str]
    ):
        super().__init__(name="probe")
        self.watched = model
        self._criteria = dict(criteria)
        self._taps = _taps(model, layers)

    def statistics(self, inputs: Any, labels: Any) -> dict[str, dict[str, Any]]:
        """Criterion key -> layer path -> that criterion's statistics of one batch."""
        return self.predict_on_batch(
            {"inputs": inputs} if labels is None else {"inputs": inputs, "labels": labels}
        )

    def call(self, batch: dict) -> dict:
        labels = batch.get("labels")
        activations = _activations(self.watched, keras.tree.flatten(batch["inputs"]), self._taps)
        return {
            key: {path: criterion.statistics(outputs, labels) for path, outputs in activations.items()}
            for key, criterion in self._criteria.items()
        }


def _taps(model: keras.Model, layers: Sequence[str]) -> dict:
    """(operation id, call number) -> (path, channel axis) of each layer that call shows."""
    found: dict[tuple[int, int], list[tuple[str, int]]] = {}
    places = owners(model)
    operations = dict(_calls.walk(model))
    for path in layers:
        if path in places:
            recipe, name = places[path]
            ref = site(recipe, name)
            key = (id(recipe.operations[ref.operation]), ref.call)
            found.setdefault(key, []).append((path, _channel_axis(operations[path], recipe.operations[name])))
    return found


def _channel_axis(layer: Any, seen_at: Any) -> int:
    if getattr(layer, "data_format", None) != "channels_first":
        return -1
    return 1 if layer is seen_at else 2  # behind the time axis of a TimeDistributed


def _activations(model: keras.Model, inputs: list, taps: dict) -> dict[str, Any]:
    """Runs the model and returns layer path -> activations `(batch, ..., channels)` in float32."""
    seen: dict[str, Any] = {}

    def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
        if _calls.is_functional(step.operation):
            return _calls.read(step.operation).run(_calls.tensors(args, kwargs), call)
        outputs = step.operation(*args, **kwargs)
        for path, axis in taps.get((id(step.operation), step.index), ()):
            first = keras.ops.cast(keras.tree.flatten(outputs)[0], "float32")
            seen[path] = first if axis == -1 else keras.ops.moveaxis(first, axis, -1)
        return outputs

    _calls.read(model).run(inputs, call)
    return seen
