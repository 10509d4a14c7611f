"""What a network says on the way to its outputs: layers chosen by name, and a model that tells.

>>> x = keras.Input((8, 8, 3))
>>> y = keras.layers.Conv2D(4, 3, name="stem")(x)
>>> watch = Watch(keras.Model(x, keras.layers.GlobalAveragePooling2D(name="pool")(y)))
>>> watch.paths("st.m")
['stem']
>>> watch.shape("stem")
(None, 6, 6, 4)
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras

from tfcompress import _calls, _names
from tfcompress._checks import near_miss
from tfcompress._gradients import pullback
from tfcompress.criteria.taps import channel_axis

RESOLUTIONS = "last_of_each_resolution"
Shape = tuple[int | None, ...]
Size = tuple[int | None, ...]

# What makes maps of another size, or of images, and has nothing to say of its own.
_FRAMES = tuple(
    getattr(keras.layers, name)
    for name in dir(keras.layers)
    if name.startswith(
        ("ZeroPadding", "Cropping", "Random", "Rescaling", "Normalization", "Resizing", "CenterCrop")
    )
)


@dataclass
class Seen:
    """What a network said of a batch.

    Attributes:
        given: its outputs, as its caller wants them.
        outputs: the same in flat order.
        features: layer path -> what the layer said, channels last.
        training: whether it trained.
        pull: from derivatives of something by the outputs to name -> derivatives by the inputs, in flat order
            of their names; None where these are not wanted.
    """

    given: Any
    outputs: list
    features: dict[str, Any] = field(default_factory=dict)
    training: bool | None = None
    pull: Any = None


class Watch:
    """A network of which one looks at the outputs, and at some layers on the way.

    Args:
        model: any model; to look at its layers it must be functional or Sequential.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.watched: list[str] = []
        self._telling: Any = None

    def paths(self, layers: _names.Patterns) -> list[str]:
        """The paths of layers that are named, or match: pattern by pattern, each in the order of the network.

        Raises:
            ValueError: a pattern matches nothing, or the model has no graph of layers.
        """
        return [path for pattern in _names.listed(layers) for path in self._matching(pattern)]

    def _matching(self, pattern: str) -> list[str]:
        matching = [path for path in self._graph.said if _names.matches(path, pattern)]
        if not matching:
            raise ValueError(
                f"In '{self.model.name}': " + near_miss("layer or pattern", pattern, self._graph.said)
            )
        return matching

    def shape(self, path: str) -> Shape:
        """The shape of what a layer says, channels last."""
        return tuple(self._graph.said[path].shape)

    def last_of_each_resolution(self) -> dict[Size, str]:
        """Size of maps -> path of the last layer that makes such maps, in the order of the network.

        Maps of one position, and layers that only pad, crop or prepare images, are passed over.
        """
        found: dict[Size, str] = {}
        for path, tensor in self._graph.said.items():
            size = tuple(tensor.shape[1:-1])
            if any(one != 1 for one in size) and not isinstance(self._graph.operations[path], _FRAMES):
                found.pop(size, None)
                found[size] = path
        return found

    def last(self) -> str:
        """The path of the layer that makes the first output."""
        said = self._graph.said
        return next(
            path for path in reversed(said) if said[path] is keras.tree.flatten(self._graph.outputs)[0]
        )

    def output_shapes(self, inputs: Any = None) -> list[Shape] | None:
        """In flat order; of a subclassed model those for some symbolic inputs; None where there are none."""
        made: Any = self.model.outputs if _calls.is_functional(self.model) else None
        if made is None and inputs is not None:
            made = self.model(inputs)
        return None if made is None else [tuple(tensor.shape) for tensor in keras.tree.flatten(made)]

    def look_at(self, paths: Iterable[str]) -> None:
        """From now on, at these layers too."""
        self.watched = list(dict.fromkeys([*self.watched, *paths]))
        if self.watched:
            features = [self._graph.said[path] for path in self.watched]
            self._telling = keras.Model(self._graph.inputs, [self._graph.outputs, features], name="watch")

    def __call__(self, inputs: Any, training: bool | None = False, *, gradients: bool = False) -> Seen:
        """Runs the network once; with `gradients` it can be differentiated by its inputs afterwards."""
        if not gradients:
            return self._seen(*self._run(inputs, training), training)
        values = {f"{n:03}": tensor for n, tensor in enumerate(keras.tree.flatten(inputs))}

        def forward(values: dict) -> tuple[list, Any]:
            given, features = self._run(keras.tree.pack_sequence_as(inputs, list(values.values())), training)
            return keras.tree.flatten(given), (given, features)

        outputs, (given, features), pull = pullback(forward, values, self.model.variables)
        return self._seen(keras.tree.pack_sequence_as(given, outputs), features, training, pull)

    def _seen(self, given: Any, features: list, training: bool | None, pull: Any = None) -> Seen:
        named = dict(zip(self.watched, features, strict=True))
        return Seen(given, keras.tree.flatten(given), named, training, pull)

    def _run(self, inputs: Any, training: bool | None) -> tuple[Any, list]:
        if self._telling is None:
            return self.model(inputs, training=training), []
        return self._telling(inputs, training=training)

    @functools.cached_property
    def _graph(self) -> "_Graph":
        return _Graph.of(self.model)


class _Graph(NamedTuple):
    """A model's layers called once more, on inputs of their own: what each says, by its path."""

    inputs: Any
    outputs: Any
    said: dict[str, keras.KerasTensor]
    operations: dict[str, keras.Operation]

    @classmethod
    def of(cls, model: keras.Model) -> "_Graph":
        _calls.check_functional(model)
        inputs = keras.tree.map_structure(_like, _calls.input_of(model))
        said: dict[int, Any] = {}
        flat = _run(model, keras.tree.flatten(inputs), said)
        outputs = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
        by_id = {id(operation): (path, operation) for path, operation in _calls.walk(model)}
        return cls(
            inputs,
            keras.tree.pack_sequence_as(outputs, flat),
            {by_id[key][0]: tensor for key, tensor in said.items()},
            dict(by_id[key] for key in said),
        )


def _like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def _run(model: keras.Model, inputs: list, said: dict[int, Any]) -> list:
    """Calls the layers of a model, and notes by `id()` what each said last, channels last."""

    def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
        operation = step.operation
        if _calls.is_functional(operation):
            outputs = _run(operation, _calls.tensors(args, kwargs)[: len(operation.inputs)], said)
        else:
            outputs = operation(*args, **kwargs)
        said.pop(id(operation), None)
        said[id(operation)] = _channels_last(operation, keras.tree.flatten(outputs)[0])
        return outputs

    return _calls.read(model).run(inputs, call)


def _channels_last(operation: Any, tensor: Any) -> Any:
    axis = channel_axis(operation, operation)
    return tensor if axis == -1 or len(tensor.shape) < 3 else keras.ops.moveaxis(tensor, axis, -1)


def pairs(teacher: Watch, student: Watch, of_teacher: Any, of_student: Any) -> list[tuple[str, str]]:
    """The paths of layers of teacher and student that belong together.

    Args:
        teacher: the one network.
        student: the other.
        of_teacher: a layer's name or path, a regular expression, a list of them, or
            "last_of_each_resolution".
        of_student: likewise, in the order of their partners.

    Raises:
        ValueError: a pattern matches nothing, or there are more layers of one than of the other.
    """
    if RESOLUTIONS in (of_teacher, of_student):
        return _by_resolution(teacher, student, of_teacher, of_student)
    ones, others = teacher.paths(of_teacher), student.paths(of_student)
    if len(ones) != len(others):
        raise ValueError(
            f"Layers of teacher and student belong together one by one, but there are {len(ones)} and "
            f"{len(others)}: {ones} and {others}."
        )
    return list(zip(ones, others, strict=True))


def _by_resolution(teacher: Watch, student: Watch, of_teacher: Any, of_student: Any) -> list[tuple[str, str]]:
    if of_teacher != of_student:
        raise ValueError(
            f"{RESOLUTIONS!r} is for both networks or for none, got {of_teacher!r} for the teacher and "
            f"{of_student!r} for the student."
        )
    ones, others = teacher.last_of_each_resolution(), student.last_of_each_resolution()
    common = [(path, others[size]) for size, path in ones.items() if size in others and None not in size]
    if not common:
        raise ValueError(
            f"Teacher and student have no maps of one known size: {list(ones)} and {list(others)}. Name the "
            "layers, or build both for images of one size."
        )
    return common
