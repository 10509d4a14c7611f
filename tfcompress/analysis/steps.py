"""Run a model on shapes alone: the calls of its layers for one image, in order.

>>> import keras
>>> x = keras.Input((8, 8, 3))
>>> model = keras.Model(x, keras.layers.Conv2D(4, 3, name="stem")(x))
>>> [(step.path, step.outputs[0].shape) for step in replay(model).steps[1:]]
[('stem', (1, 6, 6, 4))]
>>> replay(model, (32, 32, 3)).steps[-1].outputs[0].shape
(1, 30, 30, 4)

Every count of `tfcompress.analysis` reads these steps. No number is computed and the model is not
changed: each operation only says which shapes it makes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from tfcompress import _calls

InputShape = tuple[int, ...] | list[tuple[int, ...]]


@dataclass(frozen=True)
class Step:
    """One call of one layer or operation on a batch of one.

    Args:
        path: where the operation is, as `tfcompress` names it: `"name"`, `"nested/name"`.
        operation: the layer, or the `keras.ops` operation.
        args, kwargs: those of the call, with a `keras.KerasTensor` where tensors are.
        outputs: what the call makes, flat.
        times: how often the call happens; more than once inside `TimeDistributed`.
        inside: whether a wrapper makes this call, so that its tensors are not the model's own.
    """

    path: str
    operation: Any
    args: tuple
    kwargs: dict
    outputs: list[keras.KerasTensor]
    times: int = 1
    inside: bool = False

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        return _tensors((self.args, self.kwargs))


@dataclass(frozen=True)
class Replay:
    """The steps of a model, its inputs first, and the tensors it returns."""

    steps: list[Step]
    outputs: list[keras.KerasTensor]


def replay(model: keras.Model, input_shape: InputShape | None = None) -> Replay:
    """Follows the calls of a model for one image. Nested models are entered.

    Args:
        model: a functional or Sequential Keras model, built.
        input_shape: the size of one image without batch axis, as `(224, 224, 3)`; or a list of
            such shapes, one for each of `model.inputs`. Needed where the model leaves its size open.

    Raises:
        ValueError: the model is subclassed or not built, its input size is open, or a layer does
            not accept the size given.
    """
    _calls.check_functional(model)
    recipe = _calls.read(model)
    names = [ref.operation for ref in keras.tree.flatten(recipe.inputs)]
    tensors = _inputs(model, names, input_shape)
    recorder = _Recorder({id(operation): path for path, operation in _calls.walk(model)})
    for name, tensor in zip(names, tensors, strict=True):
        layer = recipe.operations[name]
        recorder.steps.append(Step(recorder.paths[id(layer)], layer, (), {}, [tensor]))
    return Replay(recorder.steps, recorder.run(recipe, tensors))


def elements(tensor: keras.KerasTensor) -> int:
    """How many numbers a tensor holds for one image; 0 if its shape is open."""
    return 0 if None in tensor.shape[1:] else math.prod(size or 1 for size in tensor.shape)


@dataclass
class _Recorder:
    """Runs operations on shapes and keeps their steps."""

    paths: dict[int, str]
    steps: list[Step] = field(default_factory=list)

    def run(self, recipe: _calls.Recipe, tensors: list, times: int = 1, inside: bool = False) -> list:
        def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
            return self.visit(step.operation, tuple(args), kwargs, times, inside)

        return recipe.run(tensors, call)

    def visit(self, operation: Any, args: tuple, kwargs: dict, times: int, inside: bool) -> Any:
        if _calls.is_functional(operation):
            recipe = _calls.read(operation)
            count = len(keras.tree.flatten(recipe.inputs))
            return self.run(recipe, _tensors((args, kwargs))[:count], times, inside)
        path = self.paths[id(operation)]
        outputs = _output_specs(path, operation, args, kwargs)
        step = Step(path, operation, args, kwargs, keras.tree.flatten(outputs), times, inside)
        self.steps.append(step)
        self.look_inside(step)
        return outputs

    def look_inside(self, step: Step) -> None:
        """Adds the calls that a wrapper makes.

        A wrapper of unknown kind is taken to call its layer once, on its own arguments. If the
        layer does not accept them the guess was wrong, and the layer stays without a step.
        """
        wrapped_call = _WRAPPED_CALLS.get(type(step.operation), _the_same_call)
        args, kwargs, times = wrapped_call(step)
        for layer in _calls.wrapped_layers(step.operation):
            before = len(self.steps)
            try:
                self.visit(layer, args, kwargs, step.times * times, inside=True)
            except ValueError:
                del self.steps[before:]


def _on_each_time_step(step: Step) -> tuple[tuple, dict, int]:
    batch, times, *rest = step.inputs[0].shape
    return (keras.KerasTensor((batch, *rest), dtype=step.inputs[0].dtype),), {}, times


def _on_the_sequence(step: Step) -> tuple[tuple, dict, int]:
    return (step.inputs[0],), {}, 1


def _the_same_call(step: Step) -> tuple[tuple, dict, int]:
    return step.args, step.kwargs, 1


_WRAPPED_CALLS: dict[type, Callable[[Step], tuple[tuple, dict, int]]] = {
    keras.layers.TimeDistributed: _on_each_time_step,
    keras.layers.Bidirectional: _on_the_sequence,
}


def _tensors(structure: Any) -> list[keras.KerasTensor]:
    return [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, keras.KerasTensor)]


def _inputs(model: keras.Model, names: list[str], input_shape: InputShape | None) -> list[keras.KerasTensor]:
    """One symbolic image per input of the model."""
    declared = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    shapes = declared if input_shape is None else _listed(input_shape)
    if len(shapes) != len(declared):
        raise ValueError(
            f"Model '{model.name}' has {len(declared)} inputs, but input_shape={input_shape} holds "
            f"{len(shapes)} shapes. Pass a list with one shape, without batch axis, per input."
        )
    for name, given, own in zip(names, shapes, declared, strict=True):
        if None in given:
            raise ValueError(
                f"The size of input '{name}' of model '{model.name}' is open: {given}. Counts need "
                "numbers. Pass input_shape without batch axis, e.g. input_shape=(224, 224, 3)."
            )
        if len(given) != len(own):
            raise ValueError(
                f"Input '{name}' of model '{model.name}' has the shape {own} without batch axis, got {given}."
            )
    dtypes = [tensor.dtype for tensor in model.inputs]
    return [keras.KerasTensor((1, *shape), dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]


def _listed(input_shape: Any) -> list[tuple]:
    if not isinstance(input_shape, (tuple, list)):
        raise ValueError(f"Expected a shape without batch axis, as (224, 224, 3), got {input_shape!r}.")
    nested = len(input_shape) > 0 and isinstance(input_shape[0], (tuple, list))
    return [tuple(shape) for shape in input_shape] if nested else [tuple(input_shape)]


def _output_specs(path: str, operation: Any, args: tuple, kwargs: dict) -> Any:
    """What the operation makes of these shapes."""
    tensors = _tensors((args, kwargs))
    try:
        _check_accepts(operation, tensors)
        return operation.compute_output_spec(*args, **kwargs)
    except Exception as error:  # whatever the code of a layer raises
        shapes = ", ".join(str(tensor.shape) for tensor in tensors)
        raise ValueError(f"Layer '{path}' does not accept inputs of shape {shapes}: {error}") from error


def _check_accepts(operation: Any, tensors: list[keras.KerasTensor]) -> None:
    """Whether the axes that the layer's weights fix have their lengths, as in a Dense after a Flatten."""
    specs = [spec for spec in keras.tree.flatten(getattr(operation, "input_spec", None)) if spec is not None]
    for spec, tensor in zip(specs, tensors, strict=False):
        for axis, size in (spec.axes or {}).items():
            if size is not None and tensor.shape[axis] != size:
                raise ValueError(f"it was built for {size} entries along axis {axis}.")
