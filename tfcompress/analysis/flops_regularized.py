"""Scores less what a channel costs (Molchanov et al. 2017)."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, channels
from tfcompress._checks import check_choice, check_number
from tfcompress.analysis import grouping
from tfcompress.analysis.costs import costs
from tfcompress.analysis.steps import InputShape
from tfcompress.criteria import Criterion

UNITS = {"FLOPs": 1.0, "MFLOPs": 1e-6, "GFLOPs": 1e-9}


@dataclass(frozen=True)
class FlopsRegularized(Criterion):
    """Any criterion, with a preference for removing what is expensive.

    `Theta - weight * flops`, where flops are those of one filter, in all layers coupled to it, at two per
    multiply-accumulate (Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", eq. 11). Meant for a ranking over all layers, `Selection(scope="global", scale="none")`, and
    for scores that compare between layers, as `Taylor` normalises them.

    Args:
        criterion: see `tfcompress.prune`.
        weight: lambda. The paper has 1e-3 for FLOPs in millions, and networks of some 30 GFLOPs: for others
            it has to be chosen anew.
        unit: of the FLOPs, `"FLOPs"`, `"MFLOPs"` or `"GFLOPs"`.
        pool: how scores of coupled layers become one, see `Selection`.
        input_shape: the size of one image, where the model leaves it open.

    Raises:
        ValueError: an argument is out of range.
    """

    criterion: Any
    weight: float = 1e-3
    unit: str = "MFLOPs"
    pool: str = "mean"
    input_shape: InputShape | None = None

    def __post_init__(self) -> None:
        grouping.criterion_of(self.criterion)
        check_number("weight", self.weight, "[0, inf)")
        check_choice("unit", self.unit, UNITS)

    def score(self, model: keras.Model, layers: Sequence[str], data: Any = None) -> dict[str, np.ndarray]:
        criterion = grouping.criterion_of(self.criterion)
        score = criterion.score if hasattr(criterion, "score") else criterion
        flops = _flops_per_filter(model, self.input_shape)
        return {
            path: np.asarray(values) - self._factor * flops.get(path, 0.0)
            for path, values in score(model, layers, data).items()
        }

    def score_groups(
        self, model: keras.Model, groups: Mapping[str, Mapping[str, np.ndarray]], data: Any = None
    ) -> dict[str, np.ndarray]:
        """Group name -> `(size,)` scores; the groups are those of `channels.trace(model)`."""
        graph, criterion = channels.trace(model), grouping.criterion_of(self.criterion)
        found = grouping.scores(model, graph, [graph[name] for name in groups], criterion, data, self.pool)
        flops = _flops_per_filter(model, self.input_shape)
        return {
            name: values
            - self._factor
            * sum(flops.get(path, 0.0) * outputs.shape[1] for path, outputs in groups[name].items())
            for name, values in found.items()
        }

    @property
    def _factor(self) -> float:
        return self.weight * UNITS[self.unit]


def _flops_per_filter(model: keras.Model, input_shape: InputShape | None) -> dict[str, float]:
    """Layer path -> two per multiply-accumulate that it spends on one of its outputs."""
    layers, macs = dict(_calls.walk(model)), Counter[str]()
    for (path, index), positions in costs(model, input_shape).positions.items():
        macs[path] += positions * math.prod(layers[path].weights[index].shape)
    widths = Counter[str]()
    for group in channels.trace(model):
        for path, outputs in group.layers.items():
            widths[path] += outputs.size
    return {path: 2 * macs[path] / width for path, width in widths.items()}
