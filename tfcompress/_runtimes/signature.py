"""What a Keras model is called with and what it returns, as arrays with names.

>>> import keras
>>> a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
>>> signature = Signature.of(keras.Model([a, b], keras.layers.Add()([a, b])))
>>> list(signature.specs)
['a', 'b']
>>> signature.arguments({"a": 1, "b": 2})
([1, 2],)
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np


@dataclass(frozen=True)
class Signature:
    """The inputs of a model.

    `structure` is the tuple of the positional arguments, with the name of an input where a tensor
    goes. `guessed` says that the model is subclassed, so the types are Keras's guess.
    """

    structure: tuple
    specs: dict[str, keras.InputSpec]
    guessed: bool = False

    @classmethod
    def of(cls, model: keras.Model) -> "Signature":
        """The signature of a built model.

        Raises:
            ValueError: the model is not built, or is not a Keras model.
        """
        if not isinstance(model, keras.Model):
            raise ValueError(f"Expected a keras.Model, got {type(model).__name__}.")
        if not model.built:
            raise ValueError(
                f"'{model.name}' is not built, so its inputs have no shapes yet. Call it on a batch of data, "
                "or begin it with keras.Input(shape)."
            )
        symbolic = bool(getattr(model, "inputs", None))
        tensors = _symbolic_inputs(model) if symbolic else _shapes_seen(model)
        names = _input_names(tensors)
        specs = {
            name: keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype, name=name)
            for name, tensor in zip(names, keras.tree.flatten(tensors), strict=True)
        }
        return cls((keras.tree.pack_sequence_as(tensors, names),), specs, guessed=not symbolic)

    @property
    def batch(self) -> int | None:
        """The number of examples per call, where the model fixes it."""
        return next((spec.shape[0] for spec in self.specs.values() if spec.shape), None)

    def arguments(self, arrays: dict[str, Any]) -> tuple:
        """The positional arguments of a call, for arrays by input name."""
        return keras.tree.map_structure(lambda name: arrays[name], self.structure)

    def takes(self, inputs: Any) -> bool:
        """Whether `inputs` has as many arrays as the model has inputs, of the right ranks."""
        leaves = keras.tree.flatten(inputs)
        specs = self.specs.values()
        return len(leaves) == len(specs) and all(
            hasattr(leaf, "shape") and len(leaf.shape) == len(spec.shape)
            for leaf, spec in zip(leaves, specs, strict=True)
        )

    def named(self, inputs: Any) -> dict[str, np.ndarray]:
        """A batch of inputs as arrays by name, of the types that the model takes.

        Raises:
            ValueError: the inputs are not those of the model.
        """
        leaves = keras.tree.flatten(inputs)
        if isinstance(inputs, dict) and set(inputs) == set(self.specs):
            leaves = [inputs[name] for name in self.specs]
        elif len(leaves) != len(self.specs) or _keys(inputs) != _keys(self.structure[0]):
            raise ValueError(f"The model takes {self}; the data gives {_outline(inputs)}.")
        arrays = dict(zip(self.specs, map(np.asarray, leaves), strict=True))
        for name, array in arrays.items():
            wanted = self.specs[name].shape
            fits = all(want in (None, got) for want, got in zip(wanted[1:], array.shape[1:], strict=False))
            if len(wanted) != array.ndim or not fits:
                raise ValueError(
                    f"Input '{name}' takes arrays of shape {wanted}; the data has {array.shape}."
                )
        return {name: _cast(array, self.specs[name].dtype) for name, array in arrays.items()}

    def like(self, inputs: Any) -> "Signature":
        """The same with whole-number types where `inputs` has them, if the types are only guessed."""
        arrays = [np.asarray(leaf) for leaf in keras.tree.flatten(inputs)]
        if not self.guessed or len(arrays) != len(self.specs):
            return self
        specs = {
            name: _with_dtype(spec, array.dtype.name) if array.dtype.kind in "iub" else spec
            for (name, spec), array in zip(self.specs.items(), arrays, strict=True)
        }
        return dataclasses.replace(self, specs=specs)

    def in_float32(self) -> "Signature":
        """The same with float32 in place of every other float."""
        specs = {
            name: _with_dtype(spec, "float32") if keras.backend.is_float_dtype(spec.dtype) else spec
            for name, spec in self.specs.items()
        }
        return dataclasses.replace(self, specs=specs)

    def __str__(self) -> str:
        shapes = (f"'{name}' {spec.shape}" for name, spec in self.specs.items())
        return f"{len(self.specs)} input{'s' * (len(self.specs) > 1)}: {', '.join(shapes)}"


def named_outputs(outputs: Any) -> dict[str, Any]:
    """The outputs of a model by name: the keys of a dict, else `output_0`, `output_1`, ..."""
    found: dict[str, Any] = {}
    for path, leaf in keras.tree.flatten_with_path(outputs):
        parts = path if path and isinstance(path[0], str) else ("output", *(path or (0,)))
        found[_free_name("_".join(map(str, parts)), found)] = leaf
    return found


def _symbolic_inputs(model: keras.Model) -> Any:
    """The input tensors in the structure in which the model takes them."""
    if isinstance(model, keras.Sequential):
        tensor = model.inputs[0]
        return keras.KerasTensor((None, *tensor.shape[1:]), tensor.dtype, name=tensor.name)
    return model.input


def _shapes_seen(model: keras.Model) -> Any:
    """What a subclassed model was built with, which says nothing of types."""
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None:
        raise ValueError(
            f"Keras does not know the input shapes of '{model.name}' ({type(model).__name__}). "
            "Give its call() one argument, a tensor, list or dict, or rewrite it as "
            "keras.Model(inputs, outputs)."
        )
    return _tensors_of(shapes, model.input_dtype)


def _tensors_of(shapes: Any, dtype: str) -> Any:
    if isinstance(shapes, dict):
        return {key: _tensors_of(shape, dtype) for key, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.KerasTensor((None, *shapes[1:]), dtype, name="input")
    return [_tensors_of(shape, dtype) for shape in shapes]


def _input_names(tensors: Any) -> list[str]:
    """The keys of a dict, else the names of the tensors."""
    names: list[str] = []
    for path, tensor in keras.tree.flatten_with_path(tensors):
        keyed = path and isinstance(path[0], str)
        names.append(_free_name("_".join(map(str, path)) if keyed else tensor.name, names))
    return names


def _free_name(name: str, taken: Any) -> str:
    """A name near `name` that is an identifier, as the names in a signature must be, and not taken."""
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    name = name if name[:1].isalpha() else f"x{name}"
    while name in taken:
        name += "_"
    return name


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    return array if dtype == "string" else array.astype(dtype, copy=False)


def _with_dtype(spec: keras.InputSpec, dtype: str) -> keras.InputSpec:
    return keras.InputSpec(shape=spec.shape, dtype=dtype, name=spec.name)


def _keys(structure: Any) -> set | None:
    return set(structure) if isinstance(structure, dict) else None


def _outline(inputs: Any) -> str:
    if isinstance(inputs, dict):
        return f"a dict with the keys {', '.join(map(repr, inputs))}"
    shapes = [str(getattr(leaf, "shape", type(leaf).__name__)) for leaf in keras.tree.flatten(inputs)]
    return f"{len(shapes)} array{'s' * (len(shapes) > 1)}: {', '.join(shapes)}"
