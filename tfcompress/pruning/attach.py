"""Give a regularizer or a constraint to the kernels of a model that is there already."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from tfcompress import _calls, _cloning, _kernels, channels, constraints, regularizers
from tfcompress._names import Patterns, chosen

_Read = Callable[[keras.Model], _calls.Recipe]

# A weight's name -> how the entries of its layer's config that concern it may begin.
_PREFIXES = {
    "kernel": ("kernel", "depthwise"),
    "recurrent_kernel": ("recurrent",),
    "depthwise_kernel": ("depthwise",),
    "pointwise_kernel": ("pointwise",),
    "embeddings": ("embeddings",),
}


@dataclass(frozen=True)
class Attached:
    """Which kernels a verb gave something to, and which not.

    Attributes:
        kernels: layer path -> the names of its kernels.
        untouched: layer path -> why it stayed as it is, for layers that have weights.
    """

    kernels: Mapping[str, tuple[str, ...]]
    untouched: Mapping[str, str]


class _Site(NamedTuple):
    """One kernel, and the entry of its layer's config that takes a regularizer or constraint."""

    path: str
    layer: Any
    weight: keras.Variable
    layout: _kernels.Layout
    entry: str


def attach(
    model: keras.Model, addition: Any, *, include: Patterns = None, exclude: Patterns = None
) -> keras.Model:
    """Returns a copy in which kernels have a regularizer or constraint beside what they had.

    A `GroupLasso`, also inside `Sum` and `Proximal`, is fitted to the layout of each kernel: its
    outputs and channels, and the groups of a grouped convolution. Each kernel has a copy of its
    own, with a strength of its own. Penalties add up; constraints hold one after the other, the new
    one last. The copy has the weights, compile and optimizer state of the model, and says in its
    attribute `attached` which kernels have it now and which layers were left alone.

    A penalty on `"depth"` goes only to layers around which a shortcut leads, one on `"filters"` only to
    layers whose outputs are not those of the model, such as the classes.

    Args:
        model: a built functional or Sequential model. It is not changed.
        addition: a `keras.regularizers.Regularizer` or `keras.constraints.Constraint`.
        include: layer names or regular expressions; only the kernels of these layers get it.
        exclude: likewise, those do not. The paper leaves out the channels and shapes of the first
            layer, which has few.

    Raises:
        ValueError: the model is subclassed or unbuilt, the addition is neither, a name is unknown,
            or no kernel is left to have it.

    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Flatten()(keras.layers.Conv2D(16, 3, name="stem")(x))
    >>> model = keras.Model(x, keras.layers.Dense(2, name="head")(y))
    >>> sparse = attach(model, regularizers.GroupLasso("filters", 1e-3))
    >>> sparse.attached.kernels, sparse.attached.untouched
    ({'stem': ('kernel',)}, {'head': "its filters are the model's outputs"})
    """
    kind = _kind(addition)
    _calls.check_functional(model)
    sites, untouched = _sites(model, kind)
    wanted = set(chosen(dict.fromkeys(site.path for site in sites), include, exclude))
    read = functools.cache(_calls.read)
    last = channels.trace(model).output_layers if _groups(addition, "filters") else set()
    refused = {site.path: reason for site in sites if (reason := _misfit(model, site, addition, read, last))}
    taken = [site for site in sites if site.path in wanted and site.path not in refused]
    refused = {path: reason for path, reason in refused.items() if path in wanted}
    if not taken:
        raise ValueError(
            f"No kernel takes this {type(addition).__name__}. {_said(refused) or 'None is included.'}"
        )
    entries: dict[str, dict[str, Any]] = {}
    for site in taken:
        entries.setdefault(site.path, {})[site.entry] = _joined(site, addition, kind)
    copy = _cloning.copy(model, configure=lambda path: entries.get(path, {}))
    kernels = {path: tuple(site.weight.name for site in taken if site.path == path) for path in entries}
    excluded = {site.path: "excluded" for site in sites if site.path not in wanted}
    copy.attached = Attached(kernels, untouched | refused | excluded)
    return copy


def _said(refused: Mapping[str, str]) -> str:
    """Each reason once."""
    layers: dict[str, list[str]] = {}
    for path, reason in refused.items():
        layers.setdefault(reason, []).append(path)
    return " ".join(f"{', '.join(paths)}: {reason}." for reason, paths in layers.items())


def _kind(addition: Any) -> str:
    if isinstance(addition, keras.regularizers.Regularizer):
        return "regularizer"
    if isinstance(addition, keras.constraints.Constraint):
        return "constraint"
    raise ValueError(
        "Expected a keras.regularizers.Regularizer or a keras.constraints.Constraint, such as "
        f"regularizers.GroupLasso('filters', 1e-3), got {addition!r}."
    )


def _sites(model: keras.Model, kind: str) -> tuple[list[_Site], dict[str, str]]:
    """The kernels that can take one, and why other layers with weights have none."""
    sites: list[_Site] = []
    untouched = {}
    for path, layer in _calls.walk(model):
        if not getattr(layer, "weights", []) or _calls.is_functional(layer) or _calls.wrapped_layers(layer):
            continue
        found = list(_sites_of(path, layer, kind))
        shared = {
            site.entry
            for site in found
            if any(site.entry == s.entry and site.layout != s.layout for s in found)
        }
        if not found:
            untouched[path] = f"no kernel with a {kind}"
        elif shared:
            untouched[path] = f"its {', '.join(sorted(shared))} serves kernels of several layouts"
        else:
            sites += found
    return sites, untouched


def _sites_of(path: str, layer: Any, kind: str) -> Iterator[_Site]:
    config = _calls.config_of(layer)
    for weight, layout in _kernels.kernels(layer):
        names = [f"{prefix}_{kind}" for prefix in _PREFIXES.get(weight.name, ())]
        entry = next((name for name in names if name in config), None)
        if entry is not None:
            yield _Site(path, layer, weight, layout, entry)


def _groups(addition: Any, groups: str) -> bool:
    return any(lasso.groups == groups for lasso in regularizers.lassos(addition))


def _misfit(model: keras.Model, site: _Site, addition: Any, read: _Read, last: set[str]) -> str | None:
    """Why this kernel cannot be grouped as the addition wants it; None if it can."""
    found = regularizers.lassos(addition)
    if site.path in last:
        return "its filters are the model's outputs"
    if _groups(addition, "depth") and not _bypassed(model, site.path, read):
        return "no shortcut leads around it, so that a depth of zero would cut the model in two"
    try:
        for lasso in found:
            _fitted(lasso, site).check(site.weight.shape)
    except ValueError as error:
        return str(error)
    return None


def _fitted(addition: Any, site: _Site) -> Any:
    groups = getattr(site.layer, "groups", 1) if len(site.layout.outputs) == 1 else 1
    return regularizers.for_layout(addition, site.layout.outputs, site.layout.channels, groups)


def _joined(site: _Site, addition: Any, kind: str) -> Any:
    """What the kernel has, and the addition."""
    before = getattr(site.layer, site.entry, None) or getattr(site.weight, kind)
    members = [] if before is None else [before]
    members.append(_fitted(addition, site))
    if len(members) == 1:
        return members[0]
    return regularizers.Sum(members) if kind == "regularizer" else constraints.Chain(members)


def _bypassed(model: keras.Model, path: str, read: _Read) -> bool:
    """Whether a shortcut leads around the layer, in its own model or around that."""
    name, _, inner = path.partition("/")
    recipe = read(model)
    nested = recipe.operations[name]
    if inner and _calls.is_functional(nested) and _bypassed(nested, inner, read):
        return True
    return _leads_around(recipe, name)


def _leads_around(recipe: _calls.Recipe, name: str) -> bool:
    """Whether every output that depends on an operation depends on its model's input without it, too."""
    calls = {(call.name, call.index) for call in recipe.calls if call.name == name}
    outputs = {(ref.operation, ref.call) for ref in keras.tree.flatten(recipe.outputs)}
    inputs = [{(ref.operation, ref.call)} for ref in keras.tree.flatten(recipe.inputs)]
    read = [source for source in inputs if calls & _dependent(recipe, source)]
    around: set = set().union(*(_dependent(recipe, source, without=name) for source in read))
    return outputs & _dependent(recipe, calls) <= around


def _dependent(recipe: _calls.Recipe, sources: set, without: str = "") -> set[tuple[str, int]]:
    """The calls that depend on any of some calls, themselves included."""
    reached = set(sources)
    for call in recipe.calls:
        if call.name != without and any((ref.operation, ref.call) in reached for ref in call.inputs):
            reached.add((call.name, call.index))
    return reached
