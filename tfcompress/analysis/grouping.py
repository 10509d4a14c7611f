"""Which groups a verb works on, and their scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _names, channels, criteria
from tfcompress._checks import near_miss
from tfcompress._names import Patterns
from tfcompress.channels import ChannelGraph, Group
from tfcompress.selection import POOLS

ORDERS = ("forward", "backward")


@dataclass(frozen=True)
class Plan:
    """What a verb is about to do, found out before it does anything.

    Attributes:
        graph: of the model.
        scores: group name -> `(size,)` scores in the model as it is, for the groups to prune.
        sparsity: as it was given; a dict is one by group.
        unscored: group name -> why a group that was meant is not pruned.
    """

    graph: ChannelGraph
    scores: Mapping[str, np.ndarray]
    sparsity: Any
    unscored: Mapping[str, str]

    @property
    def groups(self) -> list[Group]:
        return [self.graph[name] for name in self.scores]


def plan(
    model: keras.Model,
    criterion: Any,
    data: Any,
    *,
    sparsity: Any = None,
    include: Patterns = None,
    exclude: Patterns = None,
    pool: str = "mean",
) -> Plan:
    """Finds out which groups to prune, and scores them, which checks the data, too.

    Raises:
        ValueError: the model, a name, a weight, the data or what the criterion gives is wrong, or nothing
            is left to prune.
    """
    graph = channels.trace(model)
    groups = chosen(graph, include, exclude)
    sparsity = per_group(graph, groups, sparsity)
    if isinstance(sparsity, Mapping):
        groups = [group for group in groups if group.name in sparsity]
    check_finite(model)
    found = scores(model, graph, groups, criterion, data, pool)
    unscored = {
        group.name: f"criterion '{name_of(criterion)}' does not score it"
        for group in groups
        if group.name not in found
    }
    if not found:
        raise ValueError(f"Criterion '{name_of(criterion)}' scores none of the groups {list(unscored)}.")
    return Plan(graph, found, sparsity, unscored)


def check_finite(model: keras.Model) -> None:
    """Raises `ValueError` if a weight is NaN or infinite: nothing that is measured would mean anything."""
    for path, _, weight in _calls.weights(model):
        if not bool(keras.ops.all(keras.ops.isfinite(weight))):
            raise ValueError(
                f"Layer '{path}' has NaN or infinite weights in its {weight.name}; train it to finite values "
                "first."
            )


def chosen(graph: ChannelGraph, include: Patterns = None, exclude: Patterns = None) -> list[Group]:
    """The groups that may be pruned and that `include` and `exclude` leave.

    Raises:
        ValueError: a pattern matches no layer, or nothing is left to prune.
    """
    include, exclude = _names.listed(include), _names.listed(exclude)
    for pattern in [*include, *exclude]:
        check_pattern(graph, pattern)
    groups = [
        group
        for group in graph.free
        if (not include or any(matches(group, p) for p in include))
        and not any(matches(group, p) for p in exclude)
    ]
    return _some(graph, groups)


def _some(graph: ChannelGraph, groups: Any) -> Any:
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
    return any(_names.matches(name, pattern) for name in (group.name, *group.layers))


def per_group(graph: ChannelGraph, groups: Sequence[Group], sparsity: Any) -> Any:
    """Turns a dict by layer name or pattern into a dict by group; the first match counts.

    Raises:
        ValueError: a pattern matches no layer, or none matches one of the groups.
    """
    if not isinstance(sparsity, Mapping):
        return sparsity
    for pattern in _names.listed(list(sparsity)):
        check_pattern(graph, pattern)
    found = {
        group.name: [share for pattern, share in sparsity.items() if matches(group, pattern)]
        for group in groups
    }
    return _some(graph, {name: shares[0] for name, shares in found.items() if shares})


def scores(
    model: keras.Model,
    graph: ChannelGraph,
    groups: Sequence[Group],
    criterion: Any,
    data: Any,
    pool: str,
) -> dict[str, np.ndarray]:
    """Group name -> `(size,)` scores; groups the criterion cannot score are left out.

    Raises:
        ValueError: the criterion gives something else than finite scores, one for each filter.
    """
    if hasattr(criterion, "score_groups"):
        found = criterion.score_groups(model, {group.name: group.layers for group in groups}, data)
        return _checked_all(criterion, found, {group.name: group.size for group in groups})
    layers = [path for group in groups for path in group.layers]
    score = criterion.score if hasattr(criterion, "score") else criterion
    filters = {path: sum(g.layers[path].size for g in graph if path in g.layers) for path in layers}
    by_layer = _checked_all(criterion, score(model, layers, data), filters)
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
    given = [] if isinstance(order, str) or not isinstance(order, Sequence) else list(order)
    if not given or len(set(given)) < len(given) or set(given) - set(names):
        raise ValueError(
            f"order must be one of {ORDERS} or a list of group names out of {names}, each once, "
            f"got {order!r}."
        )
    return given


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


def name_of(criterion: Any) -> str:
    """What to call a criterion in a message."""
    own = [getattr(criterion, "name", None), getattr(criterion, "__name__", None)]
    return next(filter(None, own), type(criterion).__name__)


def _pooled(group: Group, by_layer: Mapping[str, np.ndarray], pool: str) -> np.ndarray:
    columns = [by_layer[path][outputs] for path, outputs in group.layers.items() if path in by_layer]
    return POOLS[pool](np.concatenate(columns, axis=1), axis=1)


def _checked_all(criterion: Any, found: Any, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The scores, by name of layer or group, as floats; `ValueError` unless they fit the sizes."""
    if not isinstance(found, Mapping):
        raise ValueError(
            f"Criterion '{name_of(criterion)}' gave {type(found).__name__}, expected a dict from layers to "
            "scores."
        )
    return {
        name: _checked(criterion, name, size, found[name]) for name, size in sizes.items() if name in found
    }


def _checked(criterion: Any, name: str, size: int, scores: Any) -> np.ndarray:
    values = np.asarray(keras.ops.convert_to_numpy(scores))
    if values.shape != (size,) or values.dtype.kind not in "biuf":
        raise ValueError(
            f"Criterion '{name_of(criterion)}' gave {values.dtype} scores of shape {values.shape} for layer "
            f"'{name}', expected numbers of shape ({size},), one per filter."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"Criterion '{name_of(criterion)}' gave NaN or infinite scores for layer '{name}', channels "
            f"{np.flatnonzero(~np.isfinite(values))[:8].tolist()}."
        )
    return values.astype(float)
