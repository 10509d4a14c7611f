"""A layer some of whose weights do not count.

>>> import keras, numpy as np
>>> layer = MaskedLayer(keras.layers.Dense(2, use_bias=False, kernel_initializer="ones"))
>>> x = np.ones((1, 3), "float32")
>>> _ = layer(x)
>>> layer.masked[0].mask.assign([[True, False], [True, True], [True, True]]).shape
TensorShape([3, 2])
>>> keras.ops.convert_to_numpy(layer(x))
array([[3., 2.]], dtype=float32)
"""

from typing import Any

import keras

from tfcompress import _kernels, _settings
from tfcompress._settings import revived
from tfcompress.layers.rules import MaskedWeight, MaskRule, link, masked_weights
from tfcompress.layers.substituted import SubstitutedLayer


@keras.saving.register_keras_serializable(package="tfcompress")
class MaskedLayer(SubstitutedLayer):
    """Calls a layer with its kernels multiplied by masks, `w * T`.

    For any layer that has kernels, also several or those of layers within: Dense, convolutions of all kinds,
    EinsumDense, Embedding, recurrent layers and their cells, MultiHeadAttention, Bidirectional,
    TimeDistributed. The layer itself computes as ever, and keeps its own weights, which are what is trained;
    masks are further weights, one byte per entry, saved and restored with the others.
    Regularizers and constraints of the layer act on the weights, not on `w * T`.

    Usually `tfcompress.wrap(model, rule)` makes the wrappers of a whole model, and
    `tfcompress.strip(model)` takes them off again.

    Args:
        layer: a layer with kernels. What becomes of it: the wrapper alone may call it from now on.
        rule: how masks come about, such as `MagnitudePruning(...)`; `callbacks.UpdateMasks` applies it.
            None: masks stay as they are, all True unless you assign others.
        place: the number of the layer in its model, which `wrap` sets. Keras finds weights in a file by
            the order of layers of one class, so that without it the masks of one layer would be loaded
            into another where a model was wrapped in another way.

    Raises:
        ValueError: `layer` is no layer, or one that is masked already; or when the layer is built: it has no
            kernels, or the rule cannot mask them.
    """

    noun, state = "masks", "masked"

    def __init__(
        self, layer: keras.layers.Layer, rule: MaskRule | None = None, place: int | None = None, **kwargs: Any
    ):
        check_layer(layer)
        rule = revived(rule)
        if rule is not None and not isinstance(rule, MaskRule):
            raise ValueError(f"Expected a mask rule, such as MagnitudePruning(0.5), got {rule!r}.")
        super().__init__(layer, place, **kwargs)
        self.rule = rule
        self.masked: list[MaskedWeight] = []

    def prepare(self) -> None:
        pairs = _kernels.kernels(self.layer)
        if not pairs:
            raise ValueError(
                f"'{self.layer.name}' ({type(self.layer).__name__}) has no kernel to mask. Leave it as it is."
            )
        for weight, layout in pairs:
            if self.rule is not None:
                self.rule.check(weight.path, tuple(weight.shape), layout)
        if self.rule is not None and self.rule.masks_biases:
            order = {id(weight): place for place, weight in enumerate(self.layer.weights)}
            pairs = sorted(pairs + _kernels.biases(self.layer), key=lambda pair: order[id(pair[0])])
        self.masked = [self._mask(weight, layout) for weight, layout in pairs]
        for masked in self.masked:
            link(masked)

    def _mask(self, weight: keras.Variable, layout: _kernels.Layout) -> MaskedWeight:
        mask = self.add_weight(
            shape=weight.shape,
            dtype="bool",
            initializer="ones",
            trainable=False,
            name=f"{weight.name}_mask",
        )
        initial = {} if self.rule is None else self.rule.memory
        memory = {
            name: self.add_weight(
                shape=(),
                dtype="float32",
                initializer=keras.initializers.Constant(value),
                trainable=False,
                autocast=False,
                name=f"{weight.name}_{name}",
            )
            for name, value in initial.items()
        }
        return MaskedWeight(weight, mask, layout, self.rule, memory)

    def values(self) -> list[tuple[keras.Variable, Any]]:
        return [(masked.weight, self._effective(masked)) for masked in self.masked]

    def _effective(self, masked: MaskedWeight) -> Any:
        weight = masked.weight.value
        counting = keras.ops.where(masked.mask.value, weight, keras.ops.zeros((), weight.dtype))
        if masked.rule is None or not masked.rule.straight_through:
            return counting
        return weight + keras.ops.stop_gradient(counting - weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rule": _settings.serialised(self.rule)}

    @property
    def held(self) -> list[keras.Variable]:
        return [variable for masked in self.masked for variable in (masked.mask, *masked.memory.values())]


def check_layer(layer: Any) -> None:
    """Raises `ValueError` unless the layer can be wrapped."""
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(f"Expected a keras layer, got {layer!r}.")
    if is_masked(layer):
        raise ValueError(
            f"'{layer.name}' is masked already. Set another rule on a model that strip() gave, or leave "
            "the layer out with exclude=."
        )


def is_masked(layer: keras.layers.Layer) -> bool:
    """Whether any of the layer's weights is masked already."""
    return isinstance(layer, MaskedLayer) or bool(masked_weights(layer))


def has_adapters(layer: keras.layers.Layer) -> bool:
    """Whether LoRA adds something to a kernel of the layer, or of one inside it."""
    return any(getattr(part, "lora_enabled", False) for part in (layer, *_kernels.all_held(layer)))
