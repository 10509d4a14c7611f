"""Train a small model on what a large one says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from tfcompress import _names
from tfcompress._checks import check_number, is_number
from tfcompress.distillation import keras_losses
from tfcompress.distillation.cache import Lessons, remembered, split
from tfcompress.distillation.loss import DistillationLoss
from tfcompress.distillation.sight import Sight
from tfcompress.distillation.teacher import Teacher
from tfcompress.distillation.watch import Watch

Weight = float | Callable[[Any], Any]


@keras.saving.register_keras_serializable("tfcompress")
class Distiller(keras.Model):
    """Trains a student on labels and on what a teacher says, by `fit` as any Keras model.

    The loss is `student_loss_weight * L + distillation_weight * sum_i w_i L_i + R`: L the loss that it is
    compiled with, L_i the distillation losses, R the student's regularization losses. It takes what
    `keras.distillation.Distiller` takes, its losses too, and the student is run once per step whatever they
    look at; `GradientSymmetry` alone wants a second run, on mirrored images.

    What is called, evaluated, predicted and saved is the student, with what losses train along, and without
    the teacher; `distiller.student` is the plain model. Evaluating tells the same losses as training, for a
    student that does not train.

    Args:
        teacher: a trained model, several, whose probabilities are averaged, or None: it may be given later,
            by `attach`. It is neither changed nor saved.
        student: a built model. It is trained.
        distillation_losses: one or a list: of this module, or of `keras.distillation`.
        distillation_loss_weights: one number each, or a function of the step, such as a
            `keras.optimizers.schedules.LearningRateSchedule`; None: 1.
        student_loss_weight: of the loss by labels; likewise.
        distillation_weight: of all the others; None: `1 - student_loss_weight`, which then lies in [0, 1].
        name: of the distiller.

    Raises:
        ValueError: an argument is wrong, a layer is not there, outputs do not fit each other, nobody can tell
            whether outputs are logits, or the teacher would be trained.

    >>> x = keras.Input((4,))
    >>> teacher = keras.Model(x, keras.layers.Dense(3)(keras.layers.Dense(64, "relu")(x)))
    >>> student = keras.Model(x, keras.layers.Dense(3)(x))
    >>> from tfcompress.distillation import SoftTargets
    >>> distiller = Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0.1)
    >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> history = distiller.fit(ops.ones((8, 4)), ops.zeros(8), verbose=0)
    >>> sorted(history.history)
    ['distillation_loss', 'loss', 'student_loss']
    """

    def __init__(
        self,
        teacher: Any,
        student: keras.Model,
        distillation_losses: Any,
        distillation_loss_weights: Sequence[Weight] | None = None,
        student_loss_weight: Weight = 0.5,
        distillation_weight: Weight | None = None,
        name: str = "distiller",
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        _check_student(student)
        losses = keras_losses.ours(distillation_losses)
        self.student = student
        self.distillation_losses = losses
        self.distillation_loss_weights = _weights(distillation_loss_weights, len(losses))
        self.student_loss_weight = _weight(student_loss_weight, "student_loss_weight")
        self.distillation_weight = distillation_weight
        if distillation_weight is not None:
            _weight(distillation_weight, "distillation_weight")
        elif is_number(student_loss_weight) and not is_number(student_loss_weight, "[0, 1]"):
            raise ValueError(
                f"student_loss_weight must be from 0 to 1 unless distillation_weight is said, too; got "
                f"{student_loss_weight}."
            )
        self.step = self.add_weight(
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            name="step",
            aggregation="only_first_replica",
        )
        self._titles = _titles(losses)
        told = self._titles if len(losses) > 1 else []
        self._means = {
            key: keras.metrics.Mean(name=key) for key in ("student_loss", "distillation_loss", *told)
        }
        self._sight = Sight(Watch(student))
        if teacher is not None:
            self.attach(teacher)
        self.built = True  # as its parts are

    def attach(self, teacher: keras.Model | Sequence[keras.Model]) -> "Distiller":
        """Gives it a teacher, or another one, as after loading from a file, and returns itself."""
        self._sight.learn_from(Teacher(teacher), self.distillation_losses)
        self.train_function = self.test_function = None  # what was compiled knows the former one
        return self

    @property
    def teacher(self) -> Teacher | None:
        """What it learns from. It holds the models, and is none itself, since Keras would save it."""
        return self._sight.teacher

    def cached(
        self,
        x: Any,
        y: Any = None,
        folder: str | Path = "teacher",
        *,
        sample_weight: Any = None,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
    ) -> keras.utils.PyDataset:
        """Asks the teacher once about fixed data, and returns batches for `fit` that bring its answers.

        What it says is kept in a folder, and read from there as long as teachers, data and losses stay the
        same. Data that is augmented at random is another in every epoch: do not cache for that.

        Args:
            x: the inputs, arrays `(images, ...)` in the structure that the student takes.
            y: the labels, likewise.
            folder: it is made, or replaced where it holds what was said of something else.
            sample_weight: `(images,)`.
            batch_size: images per batch.
            shuffle: whether every epoch has an order of its own.
            seed: of the order.

        Raises:
            ValueError: there is no teacher, the folder holds something else, or arrays differ in length.
        """
        self._check_attached()
        said = remembered(self._sight, x, y, getattr(self, "loss", None), folder, batch_size)
        return Lessons(x, y, sample_weight, said, batch_size, shuffle, seed)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`. Raises `ValueError` if there is no teacher."""
        self._check_attached()  # here, since on JAX an error in a step leaves the model without weights
        return super().fit(*args, **kwargs)

    def _check_attached(self) -> None:
        if self._sight.teacher is None:
            raise ValueError("There is no teacher: call attach(teacher) before.")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's outputs."""
        return self._sight.see(split(inputs)[0], training).given

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss of one batch, as the description of the class says."""
        x, said = split(x)
        seen = self._sight.recall(x, y_pred, training)
        share = _mean(ops.ones(1))  # under a tf.distribute strategy each replica has one part of the loss
        regular = share * _sum([ops.sum(one) for one in self.losses])
        labelled = y is not None and self.loss is not None
        total = super().compute_loss(x, y, seen.given, sample_weight, training) if labelled else regular
        self._means["student_loss"].update_state((total - regular) / share)
        own, others = self._shares()
        loss = own * total + (1 - own) * regular
        if self._sight.teacher is not None:
            loss = loss + others * self._distillation_loss(x, y, seen, said, sample_weight)
        elif training:
            self._check_attached()
        if training:
            self.step.assign_add(1)
        return loss

    def _shares(self) -> tuple[Any, Any]:
        """The weights of the loss by labels, and of all the others together."""
        own = _at(self.student_loss_weight, self.step)
        return own, 1 - own if self.distillation_weight is None else _at(self.distillation_weight, self.step)

    def _distillation_loss(self, x: Any, y: Any, seen: Any, said: Any, sample_weight: Any) -> Any:
        labels = None if y is None else self._sight.by_output(y)
        for loss in self.distillation_losses if labels is None else ():
            if loss.needs_labels:
                raise ValueError(f"'{loss.name}' wants labels: fit(x, y).")
        teachers, student = self._sight.shown(x, y, seen, self.loss, said)
        weights, terms = by_example(sample_weight), []
        for number, (loss, weight) in enumerate(
            zip(self.distillation_losses, self.distillation_loss_weights, strict=True)
        ):
            values = loss.of_ensemble(teachers[number], student[number], labels)
            if self._titles[number] in self._means:
                self._means[self._titles[number]].update_state(values, weights)
            terms.append(_at(weight, self.step) * _mean(values, weights))
        found = _sum(terms)
        self._means["distillation_loss"].update_state(found / _mean(ops.ones(1)))
        return found

    def get_config(self) -> dict[str, Any]:
        """Everything but the teacher."""
        serialize = keras.saving.serialize_keras_object
        weights = ("student_loss_weight", "distillation_weight", "distillation_loss_weights")
        return {
            "name": self.name,
            "dtype": serialize(self.dtype_policy),
            "student": serialize(self.student),
            "distillation_losses": [serialize(loss) for loss in self.distillation_losses],
            **{key: serialize(getattr(self, key)) for key in weights},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Distiller":
        made = {
            key: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            for key, value in config.items()
        }
        return cls(None, **made)


class _Mean(keras.losses.Loss):
    """The mean over examples, with their weights, as Keras takes it of any loss."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred


def _mean(values: Any, weights: Any = None) -> Any:
    return _Mean(name="mean", dtype="float32")(values, values, weights)


def _sum(terms: list) -> Any:
    return sum(terms[1:], start=terms[0]) if terms else ops.zeros(())


def by_example(weights: Any) -> Any:
    """`(batch,)` weights; those of several outputs, or of several positions, are averaged."""
    given = [one for one in keras.tree.flatten(weights) if one is not None]
    if not given:
        return None
    rows = [ops.mean(ops.reshape(ops.cast(one, "float32"), (ops.shape(one)[0], -1)), axis=1) for one in given]
    return _sum(rows) / len(rows)


def _at(weight: Weight, step: Any) -> Any:
    return ops.cast(weight(ops.convert_to_tensor(step)) if callable(weight) else weight, "float32")


def _titles(losses: Sequence[DistillationLoss]) -> list[str]:
    """By which losses are told one by one: equal ones are numbered."""
    names = [loss.name for loss in losses]
    if len(set(names)) < len(names):
        raise ValueError(f"Every distillation loss needs a name of its own, got {names}.")
    titles: list[str] = []
    for loss in losses:
        titles.append(_names.free(loss.title, titles))
    return titles


def _weights(weights: Any, losses: int) -> list[Weight]:
    listed = [1.0] * losses if weights is None else list(weights)
    if len(listed) != losses:
        raise ValueError(f"There are {losses} distillation losses and {len(listed)} weights of them.")
    return [_weight(one, "distillation_loss_weights") for one in listed]


def _weight(weight: Any, name: str) -> Weight:
    if not callable(weight):
        check_number(name, weight, "[0, inf)", or_else="a function of the step")
    return weight


def _check_student(student: Any) -> None:
    if not isinstance(student, keras.Model):
        raise ValueError(f"The student is a keras.Model, got {student!r}.")
    if not student.built:
        raise ValueError(f"The student '{student.name}' is not built: call it on a batch, or build it.")
