"""One call seen during a trace, and the pieces that rules are made of."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfcompress import _calls
from tfcompress.channels import specs
from tfcompress.channels.ids import Axis, Ids, Ledger
from tfcompress.channels.specs import ChannelSpec


@dataclass(frozen=True)
class Visit:
    """One call of one operation.

    `args` and `kwargs` are those of the call, with `Ids` where tensors were; `shapes` are the
    outputs' shapes without batch axis, None for an output that nothing reads.
    """

    ledger: Ledger
    operation: Any
    path: str
    call: int
    args: Any
    kwargs: dict
    shapes: list[tuple[int, ...] | None]
    approximate: bool = False

    @property
    def masks(self) -> list[Ids]:
        """What Keras hands on to say which steps count; these are no channels."""
        return _ids_in(self.kwargs.get("mask"))

    @property
    def inputs(self) -> list[Ids]:
        """The tensors that may hold channels."""
        masks = self.masks
        return [ids for ids in _ids_in((self.args, self.kwargs)) if all(ids is not mask for mask in masks)]

    @property
    def weights(self) -> list[keras.Variable]:
        return getattr(self.operation, "weights", [])

    def inside(self, layer: Any) -> "Visit":
        """The same call, seen by a layer inside this one."""
        return replace(self, operation=layer, path=self.ledger.paths[id(layer)])


def _ids_in(struct: Any) -> list[Ids]:
    return [leaf for leaf in keras.tree.flatten(struct) if isinstance(leaf, Ids)]


def unknown(v: Visit) -> list[Ids | None]:
    """An operation nobody registered: what it touches stays as it is, and it is listed."""
    kind = type(v.operation).__name__
    v.ledger.unknown[v.path] = kind
    return opaque(v, f"touched by '{v.path}', a layer of unknown kind ({kind})")


def opaque(v: Visit, reason: str) -> list[Ids | None]:
    """Locks all inputs and outputs."""
    lock(v, reason, v.inputs)
    made = v.ledger.fixed(reason)
    return [None if shape is None else Ids.constant(made, shape) for shape in v.shapes]


def lock(v: Visit, reason: str, tensors: Iterable[Ids]) -> None:
    """None of the channels in these tensors may be removed."""
    for ids in tensors:
        v.ledger.lock(ids.array, reason)


def channel_axis(layer: Any, rank: int) -> int:
    """The axis, batch not counted, on which the layer expects channels."""
    axis = getattr(layer, "axis", None)
    if isinstance(axis, (list, tuple)) and len(axis) == 1:
        axis = axis[0]
    if isinstance(axis, int):
        return axis % (rank + 1) - 1
    return 0 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def read(v: Visit, source: Ids) -> np.ndarray:
    """The ids along the axis that the layer mixes; ids that vary along another one are locked."""
    axis = channel_axis(v.operation, len(source.shape))
    if set(source.varying) <= {axis}:
        return source.vector(axis)
    reason = f"'{v.path}' reads across another axis than the channels'"
    v.ledger.lock(source.array, reason)
    return np.full(source.shape[axis], v.ledger.fixed(reason))


def produce(v: Visit, spec: ChannelSpec, inputs: np.ndarray) -> Ids | None:
    """New channels, `spec.width` many."""
    width = int(_calls.config_of(v.operation)[spec.width])
    made = v.ledger.produce(v.path, width)
    if not works_elementwise(v):
        v.ledger.lock(made, mixing_activation(v))
    v.ledger.edit(v.path, lambda keep: {spec.width: int(keep[made].sum())})
    middle = np.repeat(inputs, getattr(v.operation, "depth_multiplier", None) or 1)
    note_axes(v, spec, {"in": inputs, "out": made, "mid": middle})
    if v.shapes[0] is None:
        return None
    return Ids.along(made, channel_axis(v.operation, len(v.shapes[0])), v.shapes[0])


def each_channel(v: Visit, spec: ChannelSpec, source: Ids, copies: int) -> Ids | None:
    axis = channel_axis(v.operation, len(source.shape))
    if not set(source.varying) <= {axis}:
        return opaque(v, f"'{v.path}' works across another axis than the channels'")[0]
    ids = source.vector(axis)
    made = np.repeat(ids, copies)
    if spec.width is not None:
        v.ledger.edit(v.path, lambda keep: {spec.width: int(keep[ids].sum())})
    note_axes(v, spec, {"in": ids, "out": made})
    shape = v.shapes[0]
    if shape is None:
        return None
    return Ids.along(
        made, axis if len(shape) == len(source.shape) else channel_axis(v.operation, len(shape)), shape
    )


def note_axes(v: Visit, spec: ChannelSpec, vectors: dict[str, np.ndarray]) -> None:
    """Writes down what each axis of each weight runs over.

    All of these channels stay where the layer holds weights that the spec says nothing of, as
    after `enable_lora` or `quantize`: such weights would no longer fit.
    """
    odd = unexpected_weights(v, spec)
    if odd:
        for ids in vectors.values():
            v.ledger.lock(ids, odd)
        return
    for index, weight in enumerate(v.weights):
        roles = _roles(weight, spec)
        for axis, role in zip(range(-len(roles), 0), roles, strict=True):
            *words, name = role.split()
            if name == "-" or weight.shape[axis] == 1 != vectors[name].shape[-1]:
                continue
            ids = vectors[name]
            for word in words:
                ids = np.tile(ids, int(word)) if word.isdigit() else ids
            v.ledger.role((v.path, index), Axis(axis, ids, reads="reads" in words))


def _roles(weight: keras.Variable, spec: ChannelSpec) -> tuple[str, ...]:
    for name, roles in spec.axes.items():
        if name == "*" or f"/{weight.path}".endswith(f"/{name}"):
            return roles
    return ()


def unexpected_weights(v: Visit, spec: ChannelSpec) -> str | None:
    """Says which weights the spec does not cover; None if there are none."""
    odd = [weight.path for weight in v.weights if not _roles(weight, spec)]
    return f"'{v.path}' holds weights that no rule covers: {', '.join(odd)}" if odd else None


def works_elementwise(v: Visit) -> bool:
    names = ("activation", "recurrent_activation")
    return all(specs.is_elementwise(getattr(v.operation, name, None)) for name in names)


def mixing_activation(v: Visit) -> str:
    """The reason to lock the channels of a layer that does not work elementwise."""
    names = {
        getattr(getattr(v.operation, name, None), "__name__", "")
        for name in ("activation", "recurrent_activation")
    }
    fault = "looks across channels" if names & specs.MIXING else "is not known to work on each element alone"
    return f"the activation of '{v.path}' {fault}"
