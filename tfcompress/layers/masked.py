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

import functools
from typing import Any

import keras
import numpy as np

from tfcompress import _kernels, _settings
from tfcompress._settings import revived
from tfcompress.layers.rules import MaskedWeight, MaskRule, link, masked_weights

_REPLACING = ("quantize", "enable_lora")  # methods that replace a kernel


@keras.saving.register_keras_serializable(package="tfcompress")
class MaskedLayer(keras.layers.Wrapper):
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

    def __init__(
        self, layer: keras.layers.Layer, rule: MaskRule | None = None, place: int | None = None, **kwargs: Any
    ):
        check_layer(layer)
        rule = revived(rule)
        if rule is not None and not isinstance(rule, MaskRule):
            raise ValueError(f"Expected a mask rule, such as MagnitudePruning(0.5), got {rule!r}.")
        # Keras sorts out arguments by the signature of `call`, which here is that of the layer.
        object.__setattr__(self, "call", functools.wraps(layer.call)(lambda *a, **k: self._call(*a, **k)))
        taken_over = {"name": layer.name, "dtype": layer.dtype_policy, "trainable": layer.trainable}
        super().__init__(layer, **{**taken_over, **kwargs})
        self.rule, self.place = rule, place
        self.supports_masking = layer.supports_masking
        self.masked: list[MaskedWeight] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.layer.built:
            self.layer(*_symbolic(args), **_symbolic(kwargs))
        return super().__call__(*args, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        if not self.layer.built and input_shape is not None:
            self.layer.build(input_shape)
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
        guard(self.layer)

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

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer in a scope that has `w * T` in place of `w`, and carries out what it changes."""
        state = {id(variable): (variable, variable.value) for variable in self.layer.variables}
        state |= {id(masked.weight): (masked.weight, self._effective(masked)) for masked in self.masked}
        with keras.StatelessScope(
            list(state.values()), collect_losses=True, initialize_variables=False
        ) as scope:
            before = {key: scope.get_current_value(variable) for key, (variable, _) in state.items()}
            outputs = self.layer(*args, **kwargs)
        for key, (variable, _) in state.items():
            value = scope.get_current_value(variable)
            if value is not before[key]:
                variable.assign(value)
        for loss in scope.losses:
            self.add_loss(loss)
        return outputs

    def _effective(self, masked: MaskedWeight) -> Any:
        weight = masked.weight.value
        counting = keras.ops.where(masked.mask.value, weight, keras.ops.zeros((), weight.dtype))
        if masked.rule is None or not masked.rule.straight_through:
            return counting
        return weight + keras.ops.stop_gradient(counting - weight)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_mask(*args, **kwargs)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        _refuse(self.name, "quantize")

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        _refuse(self.name, "enable_lora")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rule": _settings.serialised(self.rule), "place": self.place}

    def get_build_config(self) -> dict[str, Any]:
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        if not self.layer.built and config.get("layer"):
            self.layer.build_from_config(config["layer"])
        if self.layer.built:
            self.build()
            self.built = True

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store["place"] = np.array(-1 if self.place is None else self.place)

    def load_own_variables(self, store: Any) -> None:
        saved = {name: np.array(store[name]) for name in list(store.keys())}
        place = int(saved.pop("place", -1))
        found = [saved[name] for name in sorted(saved, key=lambda name: (len(name), name))]
        expected = [tuple(variable.shape) for variable in self._own]
        shapes = [value.shape for value in found]
        if shapes != expected or (self.place is not None and place != self.place):
            raise ValueError(
                f"What was saved for '{self.name}' has masks of shapes {shapes}, for layer {place} of its "
                f"model; expected {expected}, for layer {self.place}: the file was saved from a model that "
                "is not wrapped, or wrapped in another way. Load it into a model like the one it was saved "
                "from. Masks stay as they are, but Keras may have loaded the weights of layers by now."
            )
        for variable, value in zip(self._own, found, strict=True):
            variable.assign(value)

    @property
    def _own(self) -> list[keras.Variable]:
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


def guard(layer: keras.layers.Layer) -> None:
    """Lets no method replace the kernels of the layer, and of those inside it."""
    for part in (layer, *_kernels.all_held(layer)):
        for name in _REPLACING:
            object.__setattr__(part, name, functools.partial(_refuse, part.name, name))


def unguard(layer: keras.layers.Layer) -> None:
    for part in (layer, *_kernels.all_held(layer)):
        for name in _REPLACING:
            vars(part).pop(name, None)


def _symbolic(arguments: Any) -> Any:
    """The arguments with symbols in place of tensors."""
    return keras.tree.map_structure(
        lambda leaf: (
            keras.KerasTensor(leaf.shape, leaf.dtype)
            if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
            else leaf
        ),
        arguments,
    )


def _refuse(layer: str, method: str, *args: Any, **kwargs: Any) -> None:
    raise ValueError(
        f"{method}() would replace the kernel of '{layer}', which is masked. Make the masks final with "
        f"tfcompress.strip(model), or tfcompress.release(model), first; then call {method}()."
    )
