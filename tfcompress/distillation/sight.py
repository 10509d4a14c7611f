"""What losses are shown of a step: the student is run once, and every teacher once, for all of them."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from tfcompress import _calls, _losses
from tfcompress._gradients import gradients
from tfcompress.distillation.heads import head_of
from tfcompress.distillation.loss import FEATURES, GRADIENTS, OUTPUTS, SYMMETRY, DistillationLoss
from tfcompress.distillation.outputs import OutputLoss, places_of
from tfcompress.distillation.teacher import Teacher
from tfcompress.distillation.watch import Seen, Shape, Watch, pairs


class Sight:
    """Looks at a student and its teachers. Keras does not see what it holds, and so saves none of it."""

    def __init__(self, student: Watch):
        self.student = student
        self.teacher: Teacher | None = None
        self._wanted: list[Wanted] = []
        self._last = threading.local()  # each replica of a tf.distribute strategy has a thread of its own

    def learn_from(self, teacher: Teacher, losses: Sequence[DistillationLoss]) -> None:
        """Finds out what losses want to see of both, and tells them shapes."""
        teacher.check_apart_from(self.student.model)
        for watch in teacher.watches:
            _check_inputs(watch.model, self.student.model)
        wanted = [WANTED[loss.looks_at](loss, teacher.watches, self.student) for loss in losses]
        layers = [one for one in wanted if one.kind == FEATURES]
        for number, watch in enumerate(teacher.watches):
            watch.look_at(path for one in layers for path in one.teachers[number])
        self.student.look_at(path for one in layers for path in one.student)
        self.teacher, self._wanted = teacher, wanted

    @property
    def models(self) -> list[keras.Model]:
        """Of the teacher."""
        return [] if self.teacher is None else self.teacher.models

    @property
    def layers(self) -> list:
        """What is looked at of the teachers, in words that can be compared."""
        return [(one.kind, one.teachers) for one in self._wanted]

    def see(self, inputs: Any, training: bool | None) -> Seen:
        """Runs the student, and keeps what was seen until it is recalled."""
        self._last.seen = self.student(inputs, training, gradients=self._by_gradients)
        return self._last.seen

    def recall(self, inputs: Any, outputs: Any, training: bool) -> Seen:
        """What was seen when the student gave these outputs; it is run again only if nobody saw that."""
        seen = self._last.__dict__.pop("seen", None)
        if seen is not None and outputs is not None and _same(seen.given, outputs):
            return seen
        return self.student(inputs, training, gradients=self._by_gradients)

    def shown(self, inputs: Any, labels: Any, seen: Seen, loss: Any, said: Any = None) -> tuple[list, list]:
        """By loss: what it looks at of each teacher, and of the student.

        Args:
            inputs: of the step.
            labels: by output; None where there are none.
            seen: of the student.
            loss: by labels, which gradients are of.
            said: what teachers said of these inputs earlier: `teaching`, in flat order; None: they are asked.
        """
        taught = self.teaching(inputs, labels, loss) if said is None else self._unflattened(said)
        of_student = self._look(seen, labels, loss)
        axes = {axis for one in self._wanted if one.kind == SYMMETRY for axis in one.student}
        of_student[SYMMETRY] = {
            axis: (of_student[GRADIENTS], self._flipped(inputs, seen.training, labels, loss, axis))
            for axis in axes
        }
        return (
            [[one.of_teacher(n, look) for n, look in enumerate(taught)] for one in self._wanted],
            [one.of_student(of_student) for one in self._wanted],
        )

    def teaching(self, inputs: Any, labels: Any, loss: Any) -> list[dict[str, Any]]:
        """For each teacher, what there is to see, by kind; no gradients go there."""
        assert self.teacher is not None
        looks = [self._look(seen, labels, loss) for seen in self.teacher.look(inputs, self._by_gradients)]
        return keras.tree.map_structure(ops.stop_gradient, looks)

    def _unflattened(self, said: list) -> list[dict[str, Any]]:
        """`teaching` again from its flat order: features, gradients, outputs of each teacher."""
        assert self.teacher is not None
        found, each = [], len(said) // len(self.teacher.watches)
        for number, watch in enumerate(self.teacher.watches):
            mine = said[number * each : (number + 1) * each]
            paths = sorted(watch.watched)
            gradients_ = len(keras.tree.flatten(self.student.model.inputs)) if self._by_gradients else 0
            found.append(
                {
                    FEATURES: dict(zip(paths, mine, strict=False)),
                    GRADIENTS: mine[len(paths) : len(paths) + gradients_],
                    OUTPUTS: mine[len(paths) + gradients_ :],
                }
            )
        return found

    def by_output(self, labels: Any) -> list:
        """Labels in the flat order of the student's outputs."""
        if _calls.is_functional(self.student.model):
            return _losses.by_output(labels, _losses.output_names(self.student.model))
        return keras.tree.flatten(labels)

    @property
    def _by_gradients(self) -> bool:
        return any(one.kind in (GRADIENTS, SYMMETRY) for one in self._wanted)

    def _flipped(self, inputs: Any, training: Any, labels: Any, loss: Any, axis: int) -> list:
        """The student's derivatives by flipped inputs, flipped back; nothing it remembers changes."""

        def flip(tensor: Any) -> Any:
            return ops.flip(tensor, axis)

        variables = [(variable, variable.value) for variable in self.student.model.variables]
        with keras.StatelessScope(variables):
            seen = self.student(keras.tree.map_structure(flip, inputs), training, gradients=True)
            return [flip(slope) for slope in self._look(seen, labels, loss)[GRADIENTS]]

    def _look(self, seen: Seen, labels: Any, loss: Any) -> dict[str, Any]:
        """Kind -> what there is to see."""
        slopes: list = []
        if seen.pull is not None:
            slopes = _slopes(_losses.per_example(self.student.model, loss), labels, seen)
        return {OUTPUTS: seen.outputs, FEATURES: seen.features, GRADIENTS: slopes}


def _slopes(losses: Any, labels: Any, seen: Seen) -> list:
    """The derivatives of every example's loss by its inputs."""
    if labels is None:
        raise ValueError("A loss that looks at gradients wants labels: fit(x, y).")
    values = {f"{n:03}": tensor for n, tensor in enumerate(seen.outputs)}
    _, by_outputs = gradients(
        lambda given: (ops.sum(losses(labels, list(given.values()))), ops.zeros(())), values
    )
    return list(seen.pull(list(by_outputs.values())).values())


@dataclass
class Wanted:
    """What one loss looks at: of each teacher, and of the student, numbers of tensors or paths of layers."""

    kind: str
    teachers: list[list]
    student: list

    def of_teacher(self, number: int, look: dict[str, Any]) -> list:
        return [look[self.kind][key] for key in self.teachers[number]]

    def of_student(self, look: dict[str, Any]) -> list:
        return [look[self.kind][key] for key in self.student]


def _features(loss: Any, teachers: list[Watch], student: Watch) -> Wanted:
    of_student = loss.student_layers or [student.last()]
    found = [pairs(teacher, student, loss.teacher_layers, of_student) for teacher in teachers]
    ones = [[one for one, _ in some] for some in found]
    others = [[other for _, other in some] for some in found]
    shapes = [[watch.shape(path) for path in paths] for watch, paths in zip(teachers, ones, strict=True)]
    if others[1:] != others[:-1] or shapes[1:] != shapes[:-1]:
        raise ValueError(
            f"'{loss.name}' compares layers, for which the networks of an ensemble must agree in shapes: "
            f"{shapes}."
        )
    _build(loss, shapes[0], [student.shape(path) for path in others[0]])
    return Wanted(FEATURES, ones, others[0])


def _outputs(loss: DistillationLoss, teachers: list[Watch], student: Watch) -> Wanted:
    watches = [*teachers, student]
    inputs = next((watch.model.input for watch in watches if _calls.is_functional(watch.model)), None)
    names = getattr(loss, "outputs", None)
    shapes = [watch.output_shapes(inputs) for watch in watches]
    places = [
        places_of(watch.model, names) if names else list(range(len(shape or [()])))
        for watch, shape in zip(watches, shapes, strict=True)
    ]
    if any(len(one) != len(places[-1]) for one in places):
        raise ValueError(
            f"Teacher and student have {[len(one) for one in places[:-1]]} and {len(places[-1])} outputs. "
            "Say which are compared, by outputs= of the loss."
        )
    chosen = [
        [None if shape is None else shape[place] for place in some]
        for shape, some in zip(shapes, places, strict=True)
    ]
    for one in chosen[:-1]:
        _build(loss, one, chosen[-1])
    if isinstance(loss, OutputLoss):
        heads = [_heads(watch, some) for watch, some in zip(watches, places, strict=True)]
        units = [None if shape is None else shape[-1] for shape in chosen[-1]]
        loss.declare(heads[:-1], heads[-1], units)
    return Wanted(OUTPUTS, places[:-1], places[-1])


def _heads(watch: Watch, places: list[int]) -> list[str | None]:
    found = head_of(watch.model)
    return [found[place] if place < len(found) else None for place in places]


def _gradients(loss: DistillationLoss, teachers: list[Watch], student: Watch) -> Wanted:
    heads = [head_of(watch.model) for watch in (*teachers, student)]
    if any(one != heads[-1] for one in heads):
        raise ValueError(
            f"'{loss.name}' takes the loss of compile() of both networks, which must end alike, but the "
            f"teacher gives {heads[0]} and the student {heads[-1]}."
        )
    places = list(range(len(keras.tree.flatten(student.model.inputs or [None]))))
    _build(loss, [], [])
    return Wanted(GRADIENTS, [places for _ in teachers], places)


def _symmetry(loss: Any, teachers: list[Watch], student: Watch) -> Wanted:
    _build(loss, [], [])
    return Wanted(SYMMETRY, [[] for _ in teachers], [loss.axis])


WANTED = {OUTPUTS: _outputs, FEATURES: _features, GRADIENTS: _gradients, SYMMETRY: _symmetry}


def _build(loss: DistillationLoss, teacher: Sequence[Shape | None], student: Sequence[Shape | None]) -> None:
    """Builds a loss for these shapes, unless it is."""
    if not loss.built:
        loss.build(list(teacher), list(student))
        return
    before = loss.get_build_config()["shapes_dict"]
    if _plain(before["teacher_shape"]) != _plain(teacher) or _plain(before["student_shape"]) != _plain(
        student
    ):
        raise ValueError(f"'{loss.name}' was made for other networks, with other shapes: make a new one.")


def _plain(shapes: Any) -> Any:
    return [None if shape is None else tuple(shape) for shape in shapes]


def _check_inputs(teacher: keras.Model, student: keras.Model) -> None:
    """Raises `ValueError` unless both take the same inputs, as far as that is known."""
    if not all(_calls.is_functional(model) for model in (teacher, student)):
        return
    ones, others = (
        [tuple(tensor.shape[1:]) for tensor in keras.tree.flatten(model.inputs)]
        for model in (teacher, student)
    )
    if len(ones) != len(others) or not all(map(_compatible, ones, others)):
        raise ValueError(f"The teacher takes {ones}, the student {others}: both see the same inputs.")


def _compatible(one: Shape, other: Shape) -> bool:
    return len(one) == len(other) and all(None in (a, b) or a == b for a, b in zip(one, other, strict=True))


def _same(one: Any, other: Any) -> bool:
    ones, others = keras.tree.flatten(one), keras.tree.flatten(other)
    return len(ones) == len(others) and all(a is b for a, b in zip(ones, others, strict=True))
