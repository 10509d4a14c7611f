"""Budgets: how much to remove so that the model fits what it may cost."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import channels
from tfcompress._checks import check_choice, check_number
from tfcompress.analysis import grouping
from tfcompress.analysis.energy import Hardware
from tfcompress.analysis.latency_table import LatencyTable
from tfcompress.analysis.steps import InputShape
from tfcompress.channels import ChannelGraph
from tfcompress.pruning.limits import COSTS, LATENCIES, Cost, table_of
from tfcompress.selection import Masks, Scores, Selection

Over = dict[str, tuple[float, float]]  # cost -> (value, limit), where the value is above it
ROUNDS = 6  # of predicting and measuring
NEAR = 0.92  # the share of a limit above which nothing larger is looked for
WIDTHS = (4, 8, 16)  # a width may run faster when widened to a multiple of these


@dataclass(frozen=True)
class Budget:
    """A limit on what a model costs.

    Args:
        limits: any of these -> the limit, at most 1 for a share of what the unpruned model costs, above 1 for
            an absolute number:

            * `"params"`, `"macs"`, and `"bytes"` (of weights);
            * `"energy"`, as `analysis.energy(model).total` gives it;
            * `"latency_ms"`, which is always in milliseconds, or `"latency"`, always a share: the median that
              `analysis.latency` measures in LiteRT, in float32 with batch 1, on this machine. Widths are
              chosen by a table of layers, which is measured where it is needed; then the smaller model is
              measured, and made smaller until it meets the limit by some per cent.
        input_shape: the size of one image without batch axis, as `(224, 224, 3)`; a list of such shapes for
            several inputs. Needed where the model leaves its input size open, for all but `"params"` and
            `"bytes"`.
        hardware: for energy, see `analysis.energy`.
        threads: for latency, how many LiteRT may use.
        table: for latency, an `analysis.LatencyTable`, or the path of a JSON file to keep one in; by default
            a table that lasts as long as the process.

    Raises:
        ValueError: an unknown cost, or a limit that is not positive.
    """

    limits: Mapping[str, float]
    input_shape: InputShape | None = None
    hardware: Hardware | Mapping[str, Any] | str | os.PathLike | None = None
    threads: int = 1
    table: LatencyTable | str | os.PathLike | None = None

    def __post_init__(self):
        if not isinstance(self.limits, Mapping) or not self.limits:
            raise ValueError(f"A budget is a dict such as {{'macs': 0.5}}, got {self.limits!r}.")
        for name, limit in self.limits.items():
            check_choice("budget", name, COSTS)
            check_number(f"The budget for {name}", limit, "(0, inf)")
        if self.limits.get("latency", 0) > 1:
            raise ValueError(
                f"A latency is a share of the model's own, at most 1, got {self.limits['latency']!r}; for "
                "milliseconds say latency_ms."
            )

    @classmethod
    def of(cls, budget: "Mapping[str, float] | Budget") -> "Budget":
        """The budget itself, or that of a dict of limits."""
        return budget if isinstance(budget, Budget) else cls(budget)

    def solve(
        self,
        model: keras.Model,
        graph: ChannelGraph,
        scores: Scores,
        selection: Selection,
    ) -> dict[str, float]:
        """The least to remove from each group so that all limits hold.

        Bisection over the sizes after shrinking finds the smallest sparsity, the same for all
        groups (or for the ranking over all, by the selection's scope), that meets the limits. Where
        rounding makes that overshoot, groups get a step back, one after the other from the
        input side, as long as the limits hold. Under a limit on latency, a group becomes wider again where
        that is no slower. What can be measured is, in the smaller model; and where that is above a limit, or
        far below, all begins again with predictions that agree with it.

        Returns:
            Group name -> share to remove.

        Raises:
            ValueError: even with every group at the selection's floor the model is too big; the
                message says how small it can get.
        """
        with table_of(self):
            search = _Search(self, model, graph, scores, selection)
            return shares_of(search.largest(), scores)

    def excess(self, model: keras.Model, whole: keras.Model) -> Over:
        """What of a model is too big: cost -> (value, limit). Shares are of what `whole` costs."""
        with table_of(self):
            costs = self.costs(whole)
            limits = _absolute(self.limits, costs, whole)
            return _over({name: cost.of(model) for name, cost in costs.items()}, limits)

    def costs(self, model: keras.Model) -> dict[str, Cost]:
        return {name: COSTS[name](model, self) for name in self.limits}


class _Search:
    """For the largest numbers of channels that meet a budget, by predictions that measurements correct."""

    def __init__(
        self,
        budget: Budget,
        model: keras.Model,
        graph: ChannelGraph,
        scores: Scores,
        selection: Selection,
    ):
        self.model, self.graph, self.scores, self.selection = model, graph, scores, selection
        self.costs = budget.costs(model)
        self.limits = _absolute(budget.limits, self.costs, model)
        self._learn(model, {name: cost.of_whole(model) for name, cost in self.costs.items()})

    def largest(self) -> dict[str, int]:
        """Group name -> how many channels stay."""
        found: dict[str, int] = {}
        tried: list[dict[str, int]] = []
        while len(tried) < ROUNDS and (counts := self._predicted()) not in tried:
            tried.append(counts)
            over, near = self._measured(counts)
            if not over:
                found = max(found, counts, key=lambda each: sum(each.values()))
                if near:
                    break
        if not found:
            check_reachable(over, self.selection)
        return found

    def _measured(self, counts: dict[str, int]) -> tuple[Over, bool]:
        """What is too big, measured, in the model with these counts; and whether no more can be won."""
        measured = {name: cost for name, cost in self.costs.items() if cost.measure is not None}
        if not measured:
            return {}, True
        small = channels.shrink(self.model, self.graph, self._masks(counts))
        values = {name: cost.of(small) for name, cost in measured.items()}
        self._learn(small, values)
        near = any(value > NEAR * self.limits[name] for name, value in values.items())
        return self._above({name: cost.accepted for name, cost in measured.items()}, values), near

    def _learn(self, model: keras.Model, values: Mapping[str, float]) -> None:
        for name, cost in self.costs.items():
            if cost.measure is not None:
                cost.calibrate(model, values[name])

    def _predicted(self) -> dict[str, int]:
        counts = self.selection.counts(self.scores, 0.0)
        return self._widened(self._bisected() if self._excess(counts) else counts)

    def _masks(self, counts: Mapping[str, int]) -> Masks:
        return self.selection.masks(self.scores, shares_of(counts, self.scores), self.graph.balances)

    def _values(self, counts: Mapping[str, int]) -> dict[str, float]:
        shapes = self.graph.shapes_after(self._masks(counts))
        return {name: cost(shapes) for name, cost in self.costs.items()}

    def _excess(self, counts: Mapping[str, int]) -> Over:
        return self._above_aims(self._values(counts))

    def _above_aims(self, values: Mapping[str, float]) -> Over:
        return self._above({name: cost.aim for name, cost in self.costs.items()}, values)

    def _above(self, shares: Mapping[str, float], values: Mapping[str, float]) -> Over:
        """Cost -> (value, limit), for what is above that share of its limit."""
        return {
            name: (value, self.limits[name])
            for name, value in values.items()
            if value > shares[name] * self.limits[name]
        }

    def _bisected(self) -> dict[str, int]:
        low, high = 0.0, 1.0 - 1e-9
        check_reachable(self._excess(self.selection.counts(self.scores, high)), self.selection)
        while high - low > 1e-4:
            middle = (low + high) / 2
            too_big = self._excess(self.selection.counts(self.scores, middle))
            low, high = (middle, high) if too_big else (low, middle)
        counts, generous = (self.selection.counts(self.scores, share) for share in (high, low))
        for name, count in generous.items():
            if count > counts[name] and not self._excess({**counts, name: count}):
                counts[name] = count
        return counts

    def _widened(self, counts: dict[str, int]) -> dict[str, int]:
        """With more channels where that is no slower."""
        for name in counts if set(LATENCIES) & self.costs.keys() else ():
            for count in _wider(counts[name], len(self.scores[name])):
                wider = {**counts, name: count}
                before, after = self._values(counts), self._values(wider)
                slower = any(after[key] > before[key] for key in LATENCIES if key in after)
                if not slower and not self._above_aims(after):
                    counts = wider
        return counts


def _wider(count: int, most: int) -> list[int]:
    widths = {(count // width + 1) * width for width in WIDTHS}
    return sorted(width for width in widths if width <= most)


def _absolute(limits: Mapping[str, float], costs: Mapping[str, Cost], whole: keras.Model) -> dict[str, float]:
    """Limits with each share as that of what the whole model costs."""
    return {
        name: limit * costs[name].of_whole(whole) if limit <= 1 and name != "latency_ms" else limit
        for name, limit in limits.items()
    }


def _over(values: Mapping[str, float], limits: Mapping[str, float]) -> Over:
    return {name: (value, limits[name]) for name, value in values.items() if value > limits[name]}


def check_reachable(over: Over, selection: Selection) -> None:
    """Raises `ValueError` if a model of which no more can be removed is still too big."""
    if over:
        reached = ", ".join(
            f"{name} {number(value)} > {number(limit)}" for name, (value, limit) in over.items()
        )
        raise ValueError(
            f"The budget cannot be met: with a floor of {selection.floor:.0%} per group the least "
            f"is {reached}. Raise the budget, lower Selection(floor=...), or include more layers."
        )


def number(value: float) -> str:
    """A cost as text."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def shares_of(counts: Mapping[str, int], scores: Scores) -> dict[str, float]:
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
