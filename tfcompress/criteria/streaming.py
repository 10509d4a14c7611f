"""One forward pass over the data for all layers and all criteria."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _data
from tfcompress.criteria.criterion import ActivationCriterion, checked
from tfcompress.criteria.sites import Site, operations, owners, site


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
        ValueError: there is no data, it does not fit the model, labels are missing, an activation is NaN,
            or a criterion says nothing of any of the layers.
    """
    for key, criterion in criteria.items():
        if not isinstance(criterion, ActivationCriterion):
            raise ValueError(
                f"One pass serves activation criteria; {key!r} is {criterion!r}: use its score()."
            )
    sites = _sites(model, layers)
    looks_at = {key: _looks_at(criterion, sites) for key, criterion in criteria.items()}
    probe = _Probe(model, criteria, sites, looks_at)
    states: dict[tuple[str, str], Any] = {}
    for statistics in _stream(model, probe, criteria, data):
        for key, by_layer in statistics.items():
            for path, value in by_layer.items():
                states[key, path] = criteria[key].update(states.get((key, path)), value)
    return {
        key: {p: checked(p, criterion.result(states[key, p])) for p in layers if (key, p) in states}
        for key, criterion in criteria.items()
    }


def _looks_at(criterion: ActivationCriterion, sites: Mapping[str, Site]) -> list[str]:
    """The layers of which the criterion can say something; `ValueError` if there are none."""
    found = [path for path, site in sites.items() if site.activated or not criterion.needs_activation]
    if sites and not found:
        raise ValueError(
            f"Criterion '{criterion.name}' looks behind activation functions, but none follows the layers "
            f"{list(sites)}. Use another criterion for them, or leave them out."
        )
    return found


def _stream(model: keras.Model, probe: "_Probe", criteria: Mapping, data: Any) -> Iterator[dict]:
    wanting = [criterion.name for criterion in criteria.values() if criterion.needs_labels]
    if data is None:
        names = [criterion.name for criterion in criteria.values()]
        raise ValueError(f"Criterion {names} looks at activations: pass data, e.g. a few hundred images.")
    for inputs, labels in _data.batches_for(model, data):
        if wanting and labels is None:
            raise ValueError(f"Criterion {wanting} needs labels: pass data as (inputs, labels).")
        yield probe.statistics(inputs, labels)


class _Probe(keras.Model):
    """Runs a model's own layers and returns statistics of their activations."""

    def __init__(
        self,
        model: keras.Model,
        criteria: Mapping[str, ActivationCriterion],
        sites: Mapping[str, Site],
        looks_at: Mapping[str, Sequence[str]],
    ):
        super().__init__(name="probe")
        self.watched = model
        self._criteria, self._looks_at = dict(criteria), dict(looks_at)
        self._taps = _taps(model, sites)

    def statistics(self, inputs: list[np.ndarray], labels: Any) -> dict[str, dict[str, Any]]:
        """Criterion key -> layer path -> that criterion's statistics of one batch."""
        return self.predict_on_batch(
            {"inputs": inputs} if labels is None else {"inputs": inputs, "labels": labels}
        )

    def call(self, batch: dict) -> dict:
        labels = batch.get("labels")
        activations = _activations(self.watched, keras.tree.flatten(batch["inputs"]), self._taps)
        return {
            key: {path: criterion.statistics(activations[path], labels) for path in self._looks_at[key]}
            for key, criterion in self._criteria.items()
        }


def _sites(model: keras.Model, layers: Sequence[str]) -> dict[str, Site]:
    """layer path -> where to look, for the layers that have activations of their own."""
    operations(model, layers)
    places = owners(model)
    return {path: site(places[path]) for path in layers if path in places}


def _taps(model: keras.Model, sites: Mapping[str, Site]) -> dict:
    """(operation id, call number) -> (path, channel axis) of each layer that call shows."""
    found: dict[tuple[int, int], list[tuple[str, int]]] = {}
    places = owners(model)
    by_path = operations(model, list(sites))
    for path, seen in sites.items():
        axis = _channel_axis(by_path[path], places[path].operation)
        found.setdefault((id(seen.operation), seen.call), []).append((path, axis))
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
            recipe = _calls.read(step.operation)
            given = _calls.tensors(args, kwargs)[
                : len(keras.tree.flatten(recipe.inputs))
            ]  # a mask may follow
            return recipe.run(given, call)
        outputs = step.operation(*args, **kwargs)
        for path, axis in taps.get((id(step.operation), step.index), ()):
            first = keras.ops.cast(keras.tree.flatten(outputs)[0], "float32")
            seen[path] = first if axis == -1 else keras.ops.moveaxis(first, axis, -1)
        return outputs

    _calls.read(model).run(inputs, call)
    return seen
