"""The networks that are learnt from: one, or an ensemble. Nothing of them is trained, changed or saved."""

from collections.abc import Sequence
from typing import Any

import keras

from tfcompress.distillation.watch import Seen, Watch


class Teacher:
    """Holds models out of Keras's sight, so that a `Distiller` neither trains nor saves them.

    Attributes:
        models: one, or those of an ensemble.
    """

    def __init__(self, models: keras.Model | Sequence[keras.Model]):
        listed = [models] if isinstance(models, keras.Model) else list(models)
        for model in listed or [None]:
            if not isinstance(model, keras.Model):
                raise ValueError(f"The teacher is a keras.Model or several, got {model!r}.")
        self.models = listed
        self.watches = [Watch(model) for model in listed]

    def __call__(self, inputs: Any) -> Any:
        """The mean of the models' outputs, as they are while none of them trains."""
        found = [model(inputs, training=False) for model in self.models]
        return keras.tree.map_structure(lambda *all_: sum(all_[1:], start=all_[0]) / len(all_), *found)

    def look(self, inputs: Any, gradients: bool) -> list[Seen]:
        """What each model says of a batch."""
        return [watch(inputs, gradients=gradients) for watch in self.watches]

    def check_apart_from(self, student: keras.Model) -> None:
        """Raises `ValueError` if training the student would train a teacher."""
        trained = {id(variable) for variable in student.trainable_variables}
        for model in self.models:
            shared = [variable.path for variable in model.variables if id(variable) in trained]
            if shared:
                raise ValueError(
                    f"The teacher '{model.name}' would be trained: it shares {shared[0]} and "
                    f"{len(shared) - 1} more with the student. Give a copy, keras.models.clone_model with "
                    "its weights, or freeze these layers."
                )
