"""What each kind of layer does with channels: one table, open to user code.

>>> import keras
>>> from tfcompress import channels
>>> class Scale(keras.layers.Layer):  # one learnt factor per channel
...     def build(self, shape):
...         self.factor = self.add_weight(shape=(shape[-1],), name="factor")
...     def call(self, x):
...         return x * self.factor
>>> channels.register(Scale, channels.ChannelSpec("each", axes={"factor": ("in",)}))
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import keras

KINDS = ("mix", "each", "merge", "move")


@dataclass(frozen=True)
class ChannelSpec:
    """What a layer does with the channels of its input.

    Args:
        kind: `"mix"`: every output channel is made from all input channels (Conv, Dense).
            `"each"`: output channel *i* comes from input channel *i* alone (BatchNorm, pooling).
            `"merge"`: the inputs are combined element by element (Add, Multiply).
            `"move"`: elements are only rearranged (Concatenate, Reshape); the layer is run on
            channel ids to see where each one goes.
        width: for `"mix"`, the config entry that holds the number of outputs, e.g. `"filters"`.
        axes: weight name, or `"*"` for any, -> what its last axes run over, in order: `"in"` or
            `"out"` channels, `"mid"` (inputs times depth multiplier), `"4 out"` (the outputs four
            times over), `"reads in"` where the weight multiplies these channels' values to make
            others, `"-"` for an axis that is not about channels.
        pointwise: for `"each"`, whether all axes are alike to the layer (an activation), so that it
            does not matter which one holds the channels.
        spans: the layer takes statistics over several channels (LayerNormalization), so that
            removing some changes the others. Such channels stay unless the trace is told to
            treat that as an approximation.
        rewrite: for `"move"`, config entry -> name of the rule that recomputes it.
    """

    kind: str
    width: str | None = None
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pointwise: bool = False
    spans: bool = False
    rewrite: str | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"Unknown kind {self.kind!r}. A ChannelSpec's kind is one of {KINDS}.")


Rule = Callable[[Any], list]
_REGISTRY: dict[Any, ChannelSpec | Rule] = {}


def register(layer: Any, spec: ChannelSpec | Rule) -> None:
    """Teaches the channel graph a layer class, a `keras.ops` function or an activation.

    Args:
        layer: a `keras.layers.Layer` subclass, or the name under which it is registered with Keras,
            as `"package>Name"`; or the name of a `keras.ops` function, as `"ops.relu6"`; or a
            function used as an activation, which must work element by element.
        spec: a `ChannelSpec`, or for full control a function from a
            `tfcompress.channels.visits.Visit` to the `Ids` of the outputs.

    Raises:
        ValueError: `layer` or `spec` is none of these.
    """
    if not (callable(layer) or (isinstance(layer, str) and (">" in layer or "." in layer))):
        raise ValueError(
            f"Expected a layer class, 'package>Name', 'ops.<name>' or an activation function, got {layer!r}."
        )
    if not (isinstance(spec, ChannelSpec) or callable(spec)):
        raise ValueError(f"Expected a ChannelSpec or a function, got {spec!r}.")
    _REGISTRY[_key(layer)] = spec


def lookup(operation: keras.Operation) -> ChannelSpec | Rule | None:
    """The spec of an operation, or None if nobody registered it.

    A subclass counts as its registered parent only while it inherits the parent's `call`, and its config
    names the same sizes as the parent's.
    """
    if not isinstance(operation, keras.layers.Layer):
        return _REGISTRY.get(_ops_name(operation))
    for cls in operation.__class__.__mro__:
        if cls in _REGISTRY:
            return _REGISTRY[cls] if _works_like(operation, cls) else None
    cls = operation.__class__
    return _REGISTRY.get(_key(keras.saving.get_registered_name(cls))) or _REGISTRY.get(
        _applications_name(cls)
    )


def stock_class(layer: Any, classes: Iterable[type]) -> Any:
    """Which of these classes the layer is of, itself or by inheriting how it works; None if of none."""
    found = next((cls for cls in type(layer).__mro__ if cls in classes), None)
    return found if found is not None and _works_like(layer, found) else None


def _works_like(layer: Any, parent: Any) -> bool:
    cls = layer.__class__
    if cls.call is not parent.call or cls.get_config is parent.get_config:
        return cls.call is parent.call
    own, sizes = layer.get_config(), parent.get_config(layer)
    return all(own.get(name) == size for name, size in sizes.items() if isinstance(size, int))


def is_elementwise(activation: Any) -> bool:
    """Whether an activation acts on each element alone (softmax, for one, does not)."""
    if isinstance(activation, keras.layers.Layer):
        spec = lookup(activation)
        return isinstance(spec, ChannelSpec) and spec.pointwise and not spec.axes
    if activation is None or activation in _REGISTRY:
        return True
    name, module = getattr(activation, "__name__", ""), getattr(activation, "__module__", "") or ""
    return name in ELEMENTWISE and module.split(".")[0] in {"keras", "tensorflow", "jax"}


def _key(layer: Any) -> Any:
    return layer.replace("_", "").lower() if isinstance(layer, str) else layer


def _ops_name(operation: keras.Operation) -> str:
    """`keras.ops.leaky_relu` makes operations of class `LeakyRelu`; `x[...]` makes `GetItem`."""
    return "ops." + type(operation).__name__.lower()


def _applications_name(cls: Any) -> str:
    """Keras does not export the layer classes that only `keras.applications` use."""
    return f"applications.{cls.__name__.lower()}" if ".applications." in cls.__module__ else ""


MIXING = frozenset("glu log_softmax softmax sparsemax".split())
ELEMENTWISE = frozenset(
    "abs celu clip cos elu erf exp exponential expm1 gelu hard_shrink hard_sigmoid hard_silu hard_swish"
    " hard_tanh identity leaky_relu linear log log1p log_sigmoid mish negative reciprocal relu relu6"
    " round rsqrt selu sigmoid sign silu sin soft_shrink softplus softsign sparse_plus"
    " sparse_sigmoid sqrt square squareplus swish tanh tanh_shrink threshold".split()
)
