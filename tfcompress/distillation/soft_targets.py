"""Hinton's distillation: the student learns how likely the teacher takes each class to be."""

from typing import Any

import keras
from keras import ops

from tfcompress.distillation.outputs import OutputLoss


@keras.saving.register_keras_serializable("tfcompress")
class SoftTargets(OutputLoss):
    """The divergence of the student's softened probabilities from the teacher's.

    `T^2 KL(softmax(v / T) || softmax(z / T))`, with logits v of the teacher and z of the student (Hinton,
    Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network"). The factor `T^2` keeps gradients,
    which fall by as much, on the scale of the loss by labels when T changes. Classes add up, examples are
    averaged.

    The paper's weights are those of the `Distiller`: `student_loss_weight=1 - alpha` gives
    `(1 - alpha) CE + alpha T^2 KL`; with a `distillation_weight`, any two numbers.

    For units that are each a question of their own, the divergence of two coins is meant, unit by unit.

    Args:
        temperature: T, above 0; the more classes are alike, the higher. Common values are 2 to 20.
        activation: see `OutputLoss`, as for all that follow.

    >>> loss = SoftTargets(2.0, teacher_from_logits=True, student_from_logits=True)
    >>> loss.declare([[None]], [None], [3])
    >>> v, z = ops.convert_to_tensor([[2.0, 0.0, -2.0]]), ops.convert_to_tensor([[0.0, 0.0, 0.0]])
    >>> float(loss([v], [v])[0]), round(float(loss([v], [z])[0]), 3)
    (0.0, 1.065)
    """

    def compare(self, teacher: Any, student: Any, activation: str, labels: Any) -> Any:
        v, z = teacher / self.temperature, student / self.temperature
        if activation == "softmax":
            return self.temperature**2 * divergence(ops.log_softmax(v), ops.log_softmax(z))
        coins = [ops.stack([ops.log_sigmoid(one), ops.log_sigmoid(-one)], axis=-1) for one in (v, z)]
        return self.temperature**2 * ops.sum(divergence(*coins), axis=-1)


def divergence(p: Any, q: Any) -> Any:
    """`KL(p || q)` of logarithms of probabilities along the last axis."""
    return ops.sum(ops.exp(p) * (p - q), axis=-1)
