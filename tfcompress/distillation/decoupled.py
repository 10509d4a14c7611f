"""Decoupled distillation: the right class and the others have weights of their own (Zhao et al. 2022)."""

from typing import Any, ClassVar

import keras
from keras import ops

from tfcompress.distillation.outputs import OutputLoss
from tfcompress.distillation.soft_targets import divergence

FAR = 1e9  # from any logit: a class so far below has no probability


@keras.saving.register_keras_serializable("tfcompress")
class DecoupledTargets(OutputLoss):
    """`T^2 (alpha TCKD + beta NCKD)` (Zhao et al. 2022, "Decoupled Knowledge Distillation", eq. 7).

    TCKD is the divergence between (right class, all others) of both networks, NCKD that among the other
    classes. In Hinton's loss NCKD is weighted by the probability that the teacher gives to wrong classes, so
    that a sure teacher says little: `KL = TCKD + (1 - p_t) NCKD`.

    Args:
        temperature: above 0.
        alpha: weight of the right class.
        beta: weight of the others; the paper has 8 on CIFAR-100, and less where the teacher is less sure.
        activation: softmax only; for the arguments that follow see `OutputLoss`.
    """

    needs_labels: ClassVar[bool] = True

    def __init__(self, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0, **kwargs: Any):
        super().__init__(temperature, **kwargs)
        self.alpha, self.beta = float(alpha), float(beta)

    def compare(self, teacher: Any, student: Any, activation: str, labels: Any) -> Any:
        if activation != "softmax":
            raise ValueError("Decoupled distillation is of classes that exclude each other, not of sigmoids.")
        right = _one_hot(labels, student.shape[-1])
        v, z = (_parted(logits / self.temperature, right) for logits in (teacher, student))
        parts = [divergence(one, other) for one, other in zip(v, z, strict=True)]
        return self.temperature**2 * (self.alpha * parts[0] + self.beta * parts[1])

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"alpha": self.alpha, "beta": self.beta}


def _parted(logits: Any, right: Any) -> tuple[Any, Any]:
    """Logarithms of the probabilities of (right, not right), and of each class given that it is not right."""
    others = logits - FAR * right
    of_right = ops.sum(ops.log_softmax(logits) * right, axis=-1)
    of_others = ops.logsumexp(others, axis=-1) - ops.logsumexp(logits, axis=-1)
    return ops.stack([of_right, of_others], axis=-1), ops.log_softmax(others)


def _one_hot(labels: Any, classes: int) -> Any:
    """`(batch, ..., classes)` of labels that are such already, or numbers of classes."""
    if labels.shape[-1:] == (classes,) and classes > 1:
        return ops.cast(labels, "float32")
    numbers = ops.squeeze(labels, -1) if labels.shape[-1:] == (1,) else labels
    return ops.one_hot(ops.cast(numbers, "int32"), classes, dtype="float32")
