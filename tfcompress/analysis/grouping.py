"""Which groups a verb works on, and their scores."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress import criteria
from tfcompress._registry import near_miss
from tfcompress.channels import ChannelGraph, Group
from tfcompress.selection import POOLS

Patterns = str | Sequence[str] | None
ORDERS = ("forward", "backward")


def chosen(graph: ChannelGraph, include: Patterns = None, exclude: Patterns = None) -> list[Group]:
    """The groups that may be pruned and that `include` and `exclude` leave.

    Raises:
        ValueError: a pattern matches no layer, or nothing is left to prune.
    """
    include, exclude = _patterns(include), _patterns(exclude)
    for pattern in [*include, *exclude]:
        check_pattern(graph, pattern)
    groups = [
        group
        for group in graph.free
        if (not include or any(matches(group, p) for p in include))
        and not any(matches(group, p) for p in exclude)
    ]
    if not groups:
        reasons = "; ".join(f"{group.name}: {group.locked or 'not included'}" for group in graph.groups)
        raise ValueError(f"Nothing can be pruned. {reasons or 'The model has no layer that makes channels.'}")
    return groups


def check_pattern(graph: ChannelGraph, pattern: str) -> None:
    """Raises `ValueError` unless the pattern matches a layer or group."""
    if not any(matches(group, pattern) for group in graph.groups):
        names = [name for group in graph.groups for name in (group.name, *group.layers)]
        raise ValueError(near_miss("layer or pattern", pattern, dict.fromkeys(names)))


def matches(group: Group, pattern: str) -> bool:
    """Whether a name or regular expression is that of the group or of one of its layers, as a whole."""
    return any(name == pattern or re.fullmatch(pattern, name) for name in (group.name, *group.layers))


def per_group(graph: ChannelGraph, groups: Sequence[Group], sparsity: Any) -> Any:
    """Turns a dict by layer name or pattern into a dict by group; the first match counts."""
    if not isinstance(sparsity, Mapping):
        return sparsity
    for pattern in sparsity:
        check_pattern(graph, pattern)
    found = {
        group.name: [share for pattern, share in sparsity.items() if matches(group, pattern)]
        for group in groups
    }
    return {name: shares[0] for name, shares in found.items() if shares}


def scores(
    model: keras.Model,
    groups: Sequence[Group],
    criterion: Any,
    data: Any,
    pool: str,
) -> dict[str, np.ndarray]:
    """Group name -> `(size,)` scores; groups the criterion cannot score are left out."""
    layers = [path for group in groups for path in group.layers]
    score = criterion.score if hasattr(criterion, "score") else criterion
    by_layer = score(model, layers, data)
    return {
        group.name: _pooled(group, by_layer, pool)
        for group in groups
        if by_layer.keys() & group.layers.keys()
    }


def steps(graph: ChannelGraph, groups: Sequence[Group], order: str | Sequence[str]) -> list[list[str]]:
    """The names of the groups, in order, one list per step; those in one balance go together."""
    names = [group.name for group in groups]
    if order == "backward":
        names.reverse()
    elif order != "forward":
        names = _given(names, order)
    return list(_together(graph, names))


def _given(names: list[str], order: str | Sequence[str]) -> list[str]:
    if isinstance(order, str) or set(order) - set(names):
        raise ValueError(
            f"order must be one of {ORDERS} or a list of group names out of {names}, got {order!r}."
        )
    return list(order)


def _together(graph: ChannelGraph, names: list[str]) -> Iterator[list[str]]:
    bound = [{name for block in balance.blocks for name in block} & set(names) for balance in graph.balances]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            continue
        step = {name}
        while grown := {other for others in bound if others & step for other in others} - step:
            step |= grown
        seen |= step
        yield [name for name in names if name in step]


def criterion_of(identifier: Any) -> Any:
    """The criterion for a name, config, class, object, or any function of its signature."""
    if callable(identifier) and not isinstance(identifier, type) and not hasattr(identifier, "score"):
        return identifier
    criterion = criteria.get(identifier)
    if not hasattr(criterion, "score"):
        raise ValueError(f"Expected a criterion, its name or a function, got {identifier!r}.")
    return criterion


def _pooled(group: Group, by_layer: Mapping[str, np.ndarray], pool: str) -> np.ndarray:
    columns = [
        _scored(path, by_layer[path], outputs) for path, outputs in group.layers.items() if path in by_layer
    ]
    return POOLS[pool](np.concatenate(columns, axis=1), axis=1)


def _scored(path: str, scores: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, float)
    if scores.ndim != 1 or len(scores) <= outputs.max():
        raise ValueError(
            f"The criterion gave scores of shape {scores.shape} for layer '{path}', expected one per filter."
        )
    return scores[outputs]


def _patterns(patterns: Patterns) -> list[str]:
    return [] if patterns is None else [patterns] if isinstance(patterns, str) else list(patterns)
