"""Read a functional Keras model as a list of calls, and run those calls again.

A functional model is a recipe: operation *A* is called on these tensors, then operation *B* on
those. Tracing channels, building a smaller model and watching activations all follow that one
recipe, each with another idea of what "call" means:

>>> import keras
>>> x = keras.Input((4,))
>>> model = keras.Model(x, keras.layers.Dense(2, name="head")(x))
>>> recipe = read(model)
>>> [call.operation.name for call in recipe.calls]
['head']

The recipe comes from `Model.get_config()`, the format of the `.keras` file, and so from public
Keras only.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras


@dataclass(frozen=True)
class Ref:
    """Names one tensor: output `index` of call number `call` of the operation `operation`."""

    operation: str
    call: int
    index: int


@dataclass(frozen=True)
class Call:
    """One call of an operation. `args` and `kwargs` hold `Ref`s where tensors were."""

    operation: keras.Operation
    index: int
    args: Any
    kwargs: dict

    @property
    def name(self) -> str:
        return self.operation.name

    @property
    def inputs(self) -> list[Ref]:
        return [leaf for leaf in keras.tree.flatten((self.args, self.kwargs)) if isinstance(leaf, Ref)]


@dataclass(frozen=True)
class Recipe:
    """The calls of a model in an order that can be run.

    `inputs` and `outputs` have the structure (tensor, list or dict) of the model's own. `shapes`
    gives the shape, batch axis first, of every tensor that something reads.
    """

    inputs: Any
    outputs: Any
    calls: list[Call]
    operations: dict[str, keras.Operation]
    shapes: dict[Ref, tuple] = field(repr=False)

    def output_shapes(self, call: Call) -> list[tuple | None]:
        """The shapes of a call's outputs; None for those that nothing reads."""
        found = self._shapes_by_call.get((call.name, call.index), {})
        return [found.get(index) for index in range(max(found, default=0) + 1)]

    @functools.cached_property
    def _shapes_by_call(self) -> dict[tuple[str, int], dict[int, tuple]]:
        by_call: dict = {}
        for ref, shape in self.shapes.items():
            by_call.setdefault((ref.operation, ref.call), {})[ref.index] = shape
        return by_call

    def run(self, inputs: list, call: Callable[[Call, Any, dict], Any]) -> list:
        """Runs the calls on `inputs` (flat) and returns the outputs (flat)."""
        values = self.values(inputs, call)
        return [values[ref] for ref in keras.tree.flatten(self.outputs)]

    def values(self, inputs: list, call: Callable[[Call, Any, dict], Any]) -> dict[Ref, Any]:
        """Runs the calls on `inputs` (flat) and returns the value of every tensor."""
        values = dict(zip(keras.tree.flatten(self.inputs), inputs, strict=True))

        def lookup(leaf):
            return values[leaf] if isinstance(leaf, Ref) else leaf

        for step in self.calls:
            args, kwargs = keras.tree.map_structure(lookup, (step.args, step.kwargs))
            for index, value in enumerate(keras.tree.flatten(call(step, args, kwargs))):
                values[Ref(step.name, step.index, index)] = value
        return values


def is_functional(operation: Any) -> bool:
    """Whether `operation` is a built model whose `call` is nothing but its graph of layers."""
    if not isinstance(operation, keras.Model):
        return False
    if isinstance(operation, keras.Sequential):
        stock = operation.__class__.call is keras.Sequential.call
        return stock and operation.built and bool(getattr(operation, "inputs", None))
    return isinstance(operation, _functional_class()) and operation.__class__.call is _functional_class().call


def check_functional(model: Any) -> None:
    """Raises `ValueError` with the reason and a way out unless `model` is functional and built."""
    if is_functional(model):
        return
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model, got {type(model).__name__}.")
    if isinstance(model, keras.Sequential):
        raise ValueError(
            f"The Sequential model '{model.name}' is not built, so its layers have no shapes yet. "
            "Call model.build(input_shape), or begin it with keras.Input(shape)."
        )
    raise ValueError(
        f"'{model.name}' is a subclassed model ({type(model).__name__}): its call() is Python code, "
        "so there is no graph of layers to follow. Rewrite it with the functional API, "
        "keras.Model(inputs, outputs), or compress the functional parts it contains one by one."
    )


def read(model: keras.Model) -> Recipe:
    """Returns the recipe of a functional or built Sequential model.

    Raises:
        ValueError: the model is subclassed or not built, or one of its layers has no `get_config`.
    """
    check_functional(model)
    plain = _as_plain_functional(model)
    try:
        config = config_of(plain)
    except NotImplementedError as error:
        raise ValueError(f"A layer of '{model.name}' cannot be copied: {str(error).strip()}") from error
    operations = {operation.name: operation for operation in plain.operations}
    shapes: dict[Ref, tuple] = {}
    calls = [
        Call(operations[entry["name"]], index, *_revive([node["args"], node["kwargs"]], shapes))
        for entry in config["layers"]
        for index, node in enumerate(entry["inbound_nodes"])
    ]
    inputs = _refs(config["input_layers"], operations)
    outputs = _refs(config["output_layers"], operations)
    for struct, tensors in ((inputs, plain.inputs), (outputs, plain.outputs)):
        for ref, tensor in zip(keras.tree.flatten(struct), tensors, strict=True):
            shapes[ref] = tuple(tensor.shape)
    return Recipe(inputs, outputs, _in_order(calls, keras.tree.flatten(inputs)), operations, shapes)


def config_of(operation: keras.Operation) -> dict:
    """`get_config()`, without the warning that a lambda in it is unsafe to load: it is not saved."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        return operation.get_config()


def walk(model: keras.Model) -> Iterator[tuple[str, keras.Operation]]:
    """Yields (path, operation) once for every operation, also inside nested models and wrappers.

    The path of a layer of the model itself is its name; inside the nested model `body` it is
    `body/name`; the layer that a wrapper `steps` wraps is `steps/name`. Outer ones come first.
    """
    seen: set[int] = set()
    waiting = [(operation.name, operation) for operation in _operations(model)]
    while waiting:
        path, operation = waiting.pop(0)
        if id(operation) in seen:
            continue
        seen.add(id(operation))
        yield path, operation
        inner = _operations(operation) if is_functional(operation) else wrapped_layers(operation)
        waiting.extend((f"{path}/{child.name}", child) for child in inner)


def calls(model: keras.Model) -> Iterator[keras.Operation]:
    """Yields the operation of every call, nested models' too, as they run."""
    for call in read(model).calls:
        yield from calls(call.operation) if is_functional(call.operation) else [call.operation]


def called(model: keras.Model) -> dict[str, keras.Operation]:
    """Path -> operation, for every operation that is called, nested models' too, as they run."""
    paths = {id(operation): path for path, operation in walk(model)}
    return {paths[id(operation)]: operation for operation in calls(model)}


def tensors(args: Any, kwargs: dict) -> list:
    """The tensors among the arguments of a call, symbolic ones too, in order."""
    leaves = keras.tree.flatten((args, kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor) or keras.ops.is_tensor(leaf)]


def weights(model: keras.Model) -> Iterator[tuple[str, int, keras.Variable]]:
    """Yields (layer path, index in `layer.weights`, weight), each weight with the innermost layer."""
    for path, operation in walk(model):
        inner = [operation] if is_functional(operation) else wrapped_layers(operation)
        others = {id(weight) for layer in inner for weight in layer.weights}
        for index, weight in enumerate(getattr(operation, "weights", [])):
            if id(weight) not in others:
                yield path, index, weight


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The variables that no layer inside this one holds: none of a model's, those a wrapper adds."""
    if is_functional(layer):
        return []
    inner = {id(variable) for child in wrapped_layers(layer) for variable in child.variables}
    return [variable for variable in layer.variables if id(variable) not in inner]


def _operations(model: keras.Model) -> list[keras.Operation]:
    return _as_plain_functional(model).operations


def wrapped_layers(operation: keras.Operation) -> list[keras.Layer]:
    """The layers inside a Keras wrapper; both directions of a Bidirectional; else nothing."""
    if isinstance(operation, keras.layers.Bidirectional):
        return [operation.forward_layer, operation.backward_layer]
    if isinstance(operation, keras.layers.Wrapper):
        return [operation.layer]
    return []


def _as_plain_functional(model: keras.Model) -> keras.Model:
    """The model itself, or the same layers and tensors under a model whose config is the graph's."""
    if type(model) is _functional_class():
        return model
    outputs = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
    return keras.Model(input_of(model), outputs, name=model.name)


def input_of(model: keras.Model) -> Any:
    """The model's symbolic input, in the structure its caller uses."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def made_like(model: keras.Model, *arguments: Any) -> keras.Model:
    """A model of the same class and name from `(inputs, outputs)`, or from the layers of a Sequential one.

    A class whose constructor takes something else becomes Keras's own; if it has methods that train or test
    in a way of their own, a warning says that they are lost.
    """
    plain: Any = keras.Sequential if isinstance(model, keras.Sequential) else _functional_class()
    cls = type(model)
    if inspect.getfullargspec(cls.__init__).args == inspect.getfullargspec(plain.__init__).args:
        return cls(*arguments, name=model.name)
    lost = [name for name in _OWN_TRAINING if getattr(cls, name) is not getattr(plain, name)]
    if lost:
        warnings.warn(
            f"The copy of '{model.name}' is a keras.{plain.__name__} without the {lost[0]}() of "
            f"{cls.__name__}, whose constructor does not take (inputs, outputs). Give it that of "
            "keras.Model, or train the copy with a loop of your own.",
            stacklevel=4,
        )
    return plain(*arguments, name=model.name)


_OWN_TRAINING = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics", "fit")


@functools.cache
def _functional_class() -> Any:
    """The class `keras.Model(inputs, outputs)` returns; Keras does not export its name."""
    tensor = keras.Input((1,), name="probe_input")
    made = keras.layers.Identity(name="probe_identity")(tensor)
    return type(keras.Model(tensor, made, name="probe"))


def _revive(data: Any, shapes: dict[Ref, tuple]) -> Any:
    """Turns serialized call arguments into Python values, with `Ref`s in place of tensors."""
    if isinstance(data, (list, tuple)):
        return type(data)(_revive(item, shapes) for item in data)
    if not isinstance(data, dict):
        return data
    kind = data.get("class_name")
    if kind == "__keras_tensor__":
        ref = Ref(*data["config"]["keras_history"])
        shapes[ref] = tuple(data["config"]["shape"])
        return ref
    if kind == "__tuple__":
        return tuple(_revive(item, shapes) for item in data["config"]["value"])
    if kind is not None and "config" in data:
        return keras.saving.deserialize_keras_object(data)
    return {key: _revive(value, shapes) for key, value in data.items()}


def _refs(struct: Any, operations: dict[str, keras.Operation]) -> Any:
    if isinstance(struct, dict):
        return {key: _refs(value, operations) for key, value in struct.items()}
    if isinstance(struct[0], str):
        name, call, index = struct
        # A nested functional model counts the graph it was made with as its call number 0.
        nested = isinstance(operations[name], _functional_class())
        return Ref(name, call - 1 if nested else call, index)
    return [_refs(item, operations) for item in struct]


def _in_order(calls: list[Call], inputs: list[Ref]) -> list[Call]:
    """Sorts calls so that each comes after those whose outputs it reads."""
    known = {(ref.operation, ref.call) for ref in inputs}
    ordered: list[Call] = []
    while calls:
        waiting = []
        for call in calls:
            if all((ref.operation, ref.call) in known for ref in call.inputs):
                ordered.append(call)
                known.add((call.name, call.index))
            else:
                waiting.append(call)
        if len(waiting) == len(calls):
            raise ValueError(f"The graph cannot be followed beyond {[call.name for call in waiting]}.")
        calls = waiting
    return ordered
