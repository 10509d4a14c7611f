"""Let proximal steps be as long as the optimizer's."""

from collections.abc import Iterator
from typing import Any

import keras

from tfcompress import constraints


class FollowLearningRate(keras.callbacks.Callback):
    """Makes every `constraints.Proximal(step=None)` take the optimizer's learning rate as its step.

    The rate is read inside the training step itself, so that schedules, callbacks that set it and
    optimizers that accumulate gradients are followed at every step, on every backend.

    Raises:
        ValueError: when training begins: the model has no such constraint.

    >>> import numpy as np
    >>> from tfcompress.regularizers import GroupLasso
    >>> proximal = constraints.Proximal(GroupLasso("filters", 1e-3))
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_constraint=proximal)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> data = np.ones((8, 4)), np.zeros((8, 3))
    >>> history = model.fit(*data, callbacks=[FollowLearningRate()], verbose=0)
    """

    def on_train_begin(self, logs: Any = None) -> None:
        found = [step for step in proximals(self.model) if step.step is None]
        if not found:
            raise ValueError(
                f"No kernel of '{self.model.name}' has a constraints.Proximal(step=None) that could follow "
                "the learning rate. Give it one: tfcompress.attach(model, Proximal(GroupLasso('filters')))."
            )
        # The optimizer that compile() made may be wrapped for mixed precision.
        if any(step.optimizer is not self.model.optimizer for step in found):
            for step in found:
                step.optimizer = self.model.optimizer
            self.model.make_train_function(force=True)


def proximals(model: keras.Model) -> Iterator[constraints.Proximal]:
    """Every proximal step among the constraints of a model's weights."""
    waiting = [weight.constraint for weight in model.trainable_variables]
    while waiting:
        constraint = waiting.pop(0)
        if isinstance(constraint, constraints.Proximal):
            yield constraint
        waiting += [*getattr(constraint, "members", ()), *filter(None, [getattr(constraint, "before", None)])]
