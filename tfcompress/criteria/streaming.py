"""One pass over the data for all layers and all criteria, with gradients where a criterion wants them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress import _data, _losses
from tfcompress._gradients import gradients
from tfcompress.criteria.criterion import (
    ActivationCriterion,
    GradientCriterion,
    Groups,
    StreamingCriterion,
    checked,
)
from tfcompress.criteria.sites import Site, operations, owners, site
from tfcompress.criteria.taps import Tap, Taps, channel_axis, channels_of

Scores = dict[str, dict[str, np.ndarray]]
Slope = tuple[Any, Any]  # derivatives `(images, channels)`, and over how many positions the gate acts


def score_together(
    model: keras.Model,
    criteria: Mapping[str, StreamingCriterion],
    layers: Sequence[str],
    data: Any,
) -> Scores:
    """Scores `layers` by several criteria in one pass; memory does not grow with the data.

    Criteria that look at gradients are served by one backward pass over each batch. They must agree on the
    loss.

    Returns:
        Criterion key -> layer path -> `(channels,)` scores.

    Raises:
        ValueError: there is no data, it does not fit the model, labels are missing, an activation is NaN,
            a criterion says nothing of any of the layers, or gradient criteria have different losses.
    """
    return score_groups_together(model, criteria, {path: {path: None} for path in layers}, data)


def score_groups_together(
    model: keras.Model, criteria: Mapping[str, StreamingCriterion], groups: Groups, data: Any
) -> Scores:
    """As `score_together`, for groups of coupled layers.

    A criterion that looks at activations scores each layer for itself, and gives layer path -> scores; one
    that looks at gradients scores a group as a whole, and gives group name -> scores.
    """
    for key, criterion in criteria.items():
        if not isinstance(criterion, StreamingCriterion):
            raise ValueError(
                "One pass serves criteria that look at activations or gradients; "
                f"{key!r} is {criterion!r}: use its score()."
            )
    probe = _Probe(model, criteria, groups)
    states: dict[str, dict[str, Any]] = {key: {} for key in criteria}
    for statistics in _stream(model, probe, criteria, data):
        for key, by_name in statistics.items():
            for name, value in by_name.items():
                states[key][name] = criteria[key].update(states[key].get(name), value)
    order = dict.fromkeys(
        [*groups, *(path for group in groups.values() for path in group)]
    )  # JAX sorts names
    return {
        key: {
            name: checked(name, criterion.result(states[key][name])) for name in order if name in states[key]
        }
        for key, criterion in criteria.items()
    }


def _stream(
    model: keras.Model, probe: "_Probe", criteria: Mapping[str, StreamingCriterion], data: Any
) -> Iterator[dict[str, dict[str, Any]]]:
    wanting = [criterion.name for criterion in criteria.values() if criterion.needs_labels]
    if data is None:
        names = [criterion.name for criterion in criteria.values()]
        raise ValueError(f"Criterion {names} looks at activations: pass data, e.g. a few hundred images.")
    batches = (
        _data.labelled(model, data, f"Criterion {wanting}") if wanting else _data.batches_for(model, data)
    )
    for inputs, labels in batches:
        yield probe.statistics(inputs, labels)


class _Probe(keras.Model):
    """Runs a model's own layers and returns statistics of activations and of derivatives.

    A gate is a factor of 1 on one channel of one image. The derivative by it of the sum of all losses is
    that of its own image's loss, since images have no say in each other's while a model does not train.
    """

    def __init__(self, model: keras.Model, criteria: Mapping[str, StreamingCriterion], groups: Groups):
        super().__init__(name="probe")
        self.watched = model
        self._criteria, self._groups = dict(criteria), dict(groups)
        paths = list(dict.fromkeys(path for group in groups.values() for path in group))
        layers, places = operations(model, paths), owners(model)
        places = {path: places[path] for path in paths if path in places}
        sites = {path: site(place) for path, place in places.items()}
        self._looks_at = {key: _looks_at(one, sites) for key, one in self._of(ActivationCriterion).items()}
        self._taps = Taps()
        for path, place in places.items():
            axis = channel_axis(layers[path], place.operation)
            tap = Tap(path, axis, channels_of(place, axis))
            if self._looks_at:
                self._taps.add(sites[path], tap)
            if self._of(GradientCriterion):
                self._taps.add(site(place, merged=False), dataclasses.replace(tap, gates=True))
        self._loss_of = _losses_for(model, self._of(GradientCriterion))

    def _of(self, kind: type) -> dict[str, Any]:
        return {key: one for key, one in self._criteria.items() if isinstance(one, kind)}

    def statistics(self, inputs: list[np.ndarray], labels: Any) -> dict[str, dict[str, Any]]:
        """Criterion key -> layer path or group name -> that criterion's statistics of one batch."""
        return self.predict_on_batch(
            {"inputs": inputs} if labels is None else {"inputs": inputs, "labels": labels}
        )

    def call(self, batch: dict) -> dict[str, dict[str, Any]]:
        labels = batch.get("labels")
        maps, slopes = self._run(keras.tree.flatten(batch["inputs"]), labels)
        looks = {
            key: {path: one.statistics(maps[path], labels) for path in self._looks_at[key]}
            for key, one in self._of(ActivationCriterion).items()
        }
        return looks | {
            key: {
                name: one.statistics(_joined(one, slopes, group))
                for name, group in self._groups.items()
                if slopes.keys() & group.keys()
            }
            for key, one in self._of(GradientCriterion).items()
        }

    def _run(self, inputs: list, labels: Any) -> tuple[dict[str, Any], dict[str, Slope]]:
        """By layer path: activations, and derivatives by the gates where a criterion wants them."""
        if self._loss_of is None:
            return self._taps.run(self.watched, inputs, {}).maps, {}

        def total(gates: dict[str, Any]) -> tuple[Any, Any]:
            seen = self._taps.run(self.watched, inputs, gates)
            return keras.ops.sum(self._loss_of(labels, seen.outputs)), (seen.maps, seen.positions)

        gates = self._taps.gates(keras.ops.shape(inputs[0])[0])
        (maps, positions), found = gradients(total, gates)
        return maps, {path: (slope, positions[path]) for path, slope in found.items()}


def _looks_at(criterion: ActivationCriterion, sites: Mapping[str, Site]) -> list[str]:
    """The layers of which the criterion can say something; `ValueError` if there are none."""
    found = [path for path, site in sites.items() if site.activated or not criterion.needs_activation]
    if sites and not found:
        raise ValueError(
            f"Criterion '{criterion.name}' looks behind activation functions, but none follows the layers "
            f"{list(sites)}. Use another criterion for them, or leave them out."
        )
    return found


def _losses_for(model: keras.Model, criteria: Mapping[str, GradientCriterion]) -> Any:
    """The losses of single examples that the criteria agree on; None if no criterion wants one."""
    if not criteria:
        return None
    first, *others = criteria.values()
    for other in others:
        if other.loss != first.loss:
            raise ValueError(
                f"One pass has one loss, but criterion '{first.name}' has {first.loss!r} and "
                f"'{other.name}' has {other.loss!r}. Score them one after the other."
            )
    return _losses.per_example(model, first.loss)


def _joined(criterion: GradientCriterion, slopes: Mapping[str, Slope], group: Mapping[str, Any]) -> Any:
    """`(images, size)`: derivatives by the entries of a group, the mean over its layers."""
    terms = []
    for path, outputs in group.items():
        if path in slopes:
            slope, positions = slopes[path]
            slope = slope / keras.ops.cast(positions, "float32") if criterion.per_position else slope
            terms.append(slope if outputs is None else _entries(slope, outputs))
    return sum(terms[1:], start=terms[0]) / len(terms)


def _entries(slope: Any, outputs: np.ndarray) -> Any:
    """From `(images, channels)` to `(images, size)`; `outputs` `(size, n)` are the channels of each entry."""
    taken = keras.ops.take(slope, outputs.ravel(), axis=1)
    return keras.ops.sum(keras.ops.reshape(taken, (-1, *outputs.shape)), axis=-1)
