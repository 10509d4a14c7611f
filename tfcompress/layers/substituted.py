"""A layer that is called with other values in place of some of its weights."""

import functools
from typing import Any, ClassVar

import keras
import numpy as np

from tfcompress import _kernels

_REPLACING = ("quantize", "enable_lora")  # methods that replace a kernel


class _Holder:
    """Keeps objects alive, which Keras does not look at."""

    def __init__(self, objects: list[Any]):
        self.objects = objects


class SubstitutedLayer(keras.layers.Wrapper):
    """Calls a layer with other values in place of some of its weights.

    The layer itself computes as ever, and keeps its weights; what the values are made of are further
    variables, saved and restored with the others. Subclasses make these in `prepare`, and say in `values`
    what stands for which weight.

    Args:
        layer: any layer. What becomes of it: the wrapper alone may call it from now on.
        place: the number of the layer in its model. Keras finds weights in a file by the order of layers of
            one class, so that without it the variables of one layer would be loaded into another where a
            model was wrapped in another way.
    """

    noun: ClassVar[str]  # what its variables are, and what a layer that has them is
    state: ClassVar[str]

    def __init__(self, layer: keras.layers.Layer, place: int | None = None, **kwargs: Any):
        # Keras sorts out arguments by the signature of `call`, which here is that of the layer.
        object.__setattr__(self, "call", functools.wraps(layer.call)(lambda *a, **k: self._call(*a, **k)))
        taken_over = {"name": layer.name, "dtype": layer.dtype_policy, "trainable": layer.trainable}
        super().__init__(layer, **{**taken_over, **kwargs})
        self.place = place
        self.supports_masking = layer.supports_masking

    def prepare(self) -> None:
        """Makes the variables, once the layer has its weights."""
        raise NotImplementedError

    def values(self) -> list[tuple[keras.Variable, Any]]:
        """Weights of the layer, and the tensors in their place."""
        raise NotImplementedError

    @property
    def held(self) -> list[keras.Variable]:
        """The variables that `prepare` made."""
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.layer.built:
            self.layer(*_symbolic(args), **_symbolic(kwargs))
        return super().__call__(*args, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        if not self.layer.built and input_shape is not None:
            self.layer.build(input_shape)
        self.prepare()
        guard(self.layer, self.state)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer in a scope that has other values, and carries out what it changes."""
        state = {id(variable): (variable, variable.value) for variable in self.layer.variables}
        state |= {id(weight): (weight, value) for weight, value in self.values()}
        with keras.StatelessScope(
            list(state.values()), collect_losses=True, initialize_variables=False
        ) as scope:
            before = {key: scope.get_current_value(variable) for key, (variable, _) in state.items()}
            outputs = self.layer(*args, **kwargs)
        for key, (variable, _) in state.items():
            value = scope.get_current_value(variable)
            if value is not before[key]:
                variable.assign(value)
        # Layers know their losses by identity: in a scope around this one, as under JAX, the layer inside
        # would count what is handed on once more, or what takes its place in memory.
        self._known_inside = _Holder(scope.losses)
        for loss in scope.losses:
            self.add_loss(1 * loss)
        return outputs

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_mask(*args, **kwargs)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        _refuse(self.name, self.state, "quantize")

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        _refuse(self.name, self.state, "enable_lora")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "place": self.place}

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
        expected = [tuple(variable.shape) for variable in self.held]
        shapes = [value.shape for value in found]
        if shapes != expected or (self.place is not None and place != self.place):
            raise ValueError(
                f"What was saved for '{self.name}' has {self.noun} of shapes {shapes}, for layer {place} of "
                f"its model; expected {expected}, for layer {self.place}: the file was saved from a model "
                "that is not wrapped, or wrapped in another way. Load it into a model like the one it was "
                f"saved from. The {self.noun} stay as they are, but Keras may have loaded the weights of "
                "layers by now."
            )
        for variable, value in zip(self.held, found, strict=True):
            variable.assign(value)


def guard(layer: keras.layers.Layer, state: str) -> None:
    """Lets no method replace the kernels of the layer, and of those inside it."""
    for part in (layer, *_kernels.all_held(layer)):
        for name in _REPLACING:
            object.__setattr__(part, name, functools.partial(_refuse, part.name, state, name))


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


def _refuse(layer: str, state: str, method: str, *args: Any, **kwargs: Any) -> None:
    raise ValueError(
        f"{method}() would replace the kernel of '{layer}', which is {state}. Make that final with "
        f"tfcompress.strip(model), or tfcompress.release(model), first; then call {method}()."
    )
