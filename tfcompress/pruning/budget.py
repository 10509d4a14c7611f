"""Budgets: how much to remove so that the model fits a number of parameters, MACs or bytes."""

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras
import numpy as np

from tfcompress import _calls, channels
from tfcompress._arrays import to_numpy
from tfcompress._registry import near_miss
from tfcompress.analysis import grouping
from tfcompress.analysis.costs import macs_by_weight
from tfcompress.analysis.steps import InputShape
from tfcompress.channels import ChannelGraph
from tfcompress.selection import Scores, Selection

Shapes = Mapping[tuple[str, int], tuple[int, ...]]
Costs = Mapping[str, Callable[[Shapes], float]]


def _params(model: keras.Model, _: InputShape | None) -> Callable[[Shapes], float]:
    return lambda shapes: sum(int(np.prod(shape)) for shape in shapes.values())


def _macs(model: keras.Model, input_shape: InputShape | None) -> Callable[[Shapes], float]:
    if input_shape is None and any(None in tensor.shape[1:] for tensor in model.inputs):
        raise ValueError(
            f"'{model.name}' leaves its input size open, so its MACs are not known. Give "
            'budget=tfcompress.pruning.Budget({"macs": ...}, input_shape=(height, width, channels)).'
        )
    positions = macs_by_weight(model, input_shape)
    # MACs that belong to no weight (attention's products) are left as they are.
    return lambda shapes: sum(times * int(np.prod(shapes[key])) for key, times in positions.items())


def _bytes(model: keras.Model, _: InputShape | None) -> Callable[[Shapes], float]:
    sizes = {(path, index): to_numpy(weight).dtype.itemsize for path, index, weight in _calls.weights(model)}
    return lambda shapes: sum(sizes[key] * int(np.prod(shape)) for key, shape in shapes.items())


COSTS: dict[str, Callable] = {"params": _params, "macs": _macs, "bytes": _bytes}


@dataclass(frozen=True)
class Budget:
    """A limit on what a model costs.

    Args:
        limits: any of `"params"`, `"macs"` and `"bytes"` (of weights) -> the limit; at most 1 for a share
            of what the unpruned model costs, above 1 for an absolute number.
        input_shape: the size of one image without batch axis, for which MACs are counted, as
            `(224, 224, 3)`; a list of such shapes for several inputs. Needed where the model
            leaves its input size open.

    Raises:
        ValueError: an unknown cost, or a limit that is not positive.
    """

    limits: Mapping[str, float]
    input_shape: InputShape | None = None

    def __post_init__(self):
        if not isinstance(self.limits, Mapping) or not self.limits:
            raise ValueError(f"A budget is a dict such as {{'macs': 0.5}}, got {self.limits!r}.")
        for name, limit in self.limits.items():
            if name not in COSTS:
                raise ValueError(near_miss("budget", name, COSTS))
            if not isinstance(limit, numbers.Real) or not limit > 0:
                raise ValueError(
                    f"The budget for {name} must be a number and must be positive, got {limit!r}."
                )

    @classmethod
    def of(cls, budget: "Mapping[str, float] | Budget") -> "Budget":
        """The budget itself, or that of a dict of limits."""
        return budget if isinstance(budget, Budget) else cls(budget)

    def solve(
        self, model: keras.Model, graph: ChannelGraph, scores: Scores, selection: Selection
    ) -> dict[str, float]:
        """The least to remove from each group so that all limits hold.

        Bisection over the sizes after shrinking finds the smallest sparsity, the same for all
        groups (or for the ranking over all, by the selection's scope), that meets the limits. Where
        rounding makes that overshoot, groups get a step back, one after the other from the
        input side, as long as the limits hold.

        Returns:
            Group name -> share to remove.

        Raises:
            ValueError: even with every group at the selection's floor the model is too big; the
                message says how small it can get.
        """
        costs = self._costs(model)
        limits = self._absolute(costs, graph)
        counts = selection.counts(scores, 0.0)

        def excess(counts: Mapping[str, int]) -> dict[str, tuple[float, float]]:
            masks = selection.masks(scores, _shares(counts, scores), graph.balances)
            return limits._over(costs, graph.shapes_after(masks))

        if excess(counts):
            counts = self._bisect(scores, selection, excess)
        return _shares(counts, scores)

    def absolute(self, model: keras.Model) -> "Budget":
        """The budget with each share as that of what the model costs."""
        return self._absolute(self._costs(model), channels.trace(model))

    def excess(self, model: keras.Model) -> dict[str, tuple[float, float]]:
        """What of a model is too big: cost -> (value, limit). The limits must be absolute."""
        return self._over(self._costs(model), channels.trace(model).shapes_after({}))

    def _costs(self, model: keras.Model) -> Costs:
        return {name: COSTS[name](model, self.input_shape) for name in self.limits}

    def _absolute(self, costs: Costs, graph: ChannelGraph) -> "Budget":
        whole = graph.shapes_after({})
        return Budget(
            {
                name: limit * costs[name](whole) if limit <= 1 else limit
                for name, limit in self.limits.items()
            },
            self.input_shape,
        )

    def _over(self, costs: Costs, shapes: Shapes) -> dict[str, tuple[float, float]]:
        values = {name: cost(shapes) for name, cost in costs.items()}
        return {
            name: (value, self.limits[name]) for name, value in values.items() if value > self.limits[name]
        }

    @staticmethod
    def _bisect(scores: Scores, selection: Selection, excess: Callable) -> dict[str, int]:
        low, high = 0.0, 1.0 - 1e-9
        check_reachable(excess(selection.counts(scores, high)), selection)
        while high - low > 1e-3:
            middle = (low + high) / 2
            low, high = (middle, high) if excess(selection.counts(scores, middle)) else (low, middle)
        counts, generous = selection.counts(scores, high), selection.counts(scores, low)
        for name, count in generous.items():
            if count > counts[name] and not excess({**counts, name: count}):
                counts[name] = count
        return counts


def check_reachable(over: Mapping[str, tuple[float, float]], selection: Selection) -> None:
    """Raises `ValueError` if a model of which no more can be removed is still too big."""
    if over:
        reached = ", ".join(f"{name} {value:,.0f} > {limit:,.0f}" for name, (value, limit) in over.items())
        raise ValueError(
            f"The budget cannot be met: with a floor of {selection.floor:.0%} per group the least "
            f"is {reached}. Raise the budget, lower Selection(floor=...), or include more layers."
        )


def _shares(counts: Mapping[str, int], scores: Scores) -> dict[str, float]:
    return {name: 1 - count / len(scores[name]) for name, count in counts.items()}


def sparsity_for(
    model: keras.Model,
    budget: Mapping[str, float] | Budget,
    *,
    include: grouping.Patterns = None,
    exclude: grouping.Patterns = None,
    selection: Selection = Selection(),
) -> dict[str, float]:
    """How much to remove from each group, all groups alike, so that the model meets a budget.

    Args:
        model: a built functional or Sequential model.
        budget: see `prune`.
        include: see `prune`.
        exclude: see `prune`.
        selection: its rounding and floor count; its scope must be `"group"`.

    Returns:
        Group name -> share to remove: a `sparsity` for `prune` and `prune_layerwise`.

    Raises:
        ValueError: see `prune`.
    """
    if selection.scope != "group":
        raise ValueError("A sparsity that is the same for every group needs Selection(scope='group').")
    graph = channels.trace(model)
    even = {group.name: np.zeros(group.size) for group in grouping.chosen(graph, include, exclude)}
    return Budget.of(budget).solve(model, graph, even, selection)
