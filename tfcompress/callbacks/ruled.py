"""The layers of a model that mask rules are on.

>>> from tfcompress.layers import MagnitudePruning, wrap
>>> x = keras.Input((8,))
>>> model = wrap(keras.Model(x, keras.layers.Dense(4, name="head")(x)), MagnitudePruning(0.5))
>>> {path: layer.sparsity() for path, layer in ruled_layers(model).items()}
{'head': 0.0}
"""

from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np

from tfcompress import _calls, _kernels
from tfcompress._arrays import to_numpy
from tfcompress.callbacks.held import hold
from tfcompress.layers import MaskedLayer, MaskedWeight, MaskRule, masked_weights


@dataclass(frozen=True)
class RuledLayer:
    """A layer, and what masks hide of it under one rule."""

    layer: keras.layers.Layer
    masked: list[MaskedWeight]
    rule: MaskRule

    @property
    def weights(self) -> list[keras.Variable]:
        """All that training changes."""
        return [weight for weight in self.layer.weights if weight.trainable or hasattr(weight, "masked")]

    def copies(self) -> list[np.ndarray]:
        return [to_numpy(weight).copy() for weight in self.weights]

    def sparsity(self) -> float:
        """The share of the kernels' entries that are masked."""
        kept = [masked.kept for masked in self.masked if masked.weight.name != "bias"]
        return 1 - sum(int(mask.sum()) for mask in kept) / sum(mask.size for mask in kept)

    def restore(self, values: list[np.ndarray]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            hold(weight, value)
        for masked in self.masked:
            masked.mask.assign(np.ones(masked.weight.shape, bool))


def ruled_layers(model: keras.Model) -> dict[str, RuledLayer]:
    """Path -> every layer that a rule masks; in a subclassed model its name, if no other has the same."""
    layers = list(_layers(model))
    waiting = {id(masked.weight): masked for masked in masked_weights(model)}
    wrappers = [layer for _, layer in layers if isinstance(layer, MaskedLayer)]
    inner_first = [layer for _, layer in reversed(layers) if not isinstance(layer, MaskedLayer)]
    found: dict[int, RuledLayer] = {}
    for layer in wrappers + inner_first:
        masked = [waiting.pop(id(weight)) for weight in layer.weights if id(weight) in waiting]
        if masked and masked[0].rule is not None:
            inner = layer.layer if isinstance(layer, MaskedLayer) else layer
            found[id(layer)] = RuledLayer(inner, masked, masked[0].rule)
    owners = [(path, layer) for path, layer in layers if id(layer) in found]
    paths = [path for path, _ in owners]
    return {path if paths.count(path) == 1 else layer.path: found[id(layer)] for path, layer in owners}


def _layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Every layer, and in a functional model its path; outer ones first."""
    if not _calls.is_functional(model):
        yield from ((layer.name, layer) for layer in _kernels.all_held(model))
        return
    for path, operation in _calls.walk(model):
        if isinstance(operation, keras.layers.Layer) and not _calls.is_functional(operation):
            yield path, operation
