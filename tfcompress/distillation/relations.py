"""What examples are to each other: losses between batches, for which networks may differ in width."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfcompress.distillation.loss import FeatureLoss
from tfcompress.distillation.maps import SMALL, check_maps, length, rows, same_size, unit


@keras.saving.register_keras_serializable("tfcompress")
class SimilarityPreserving(FeatureLoss):
    """Examples that are alike to the teacher shall be alike to the student.

    `||G_T - G_S||^2 / b^2` with G the b x b similarities of the examples of a batch, `Q Q^T` of flat
    activations, each row divided by its length (Tung and Mori 2019, "Similarity-Preserving Knowledge
    Distillation", eq. 3 and 4).

    >>> loss = SimilarityPreserving("block")
    >>> features = ops.convert_to_tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> float(ops.max(loss([features], [features @ ops.array([[0.0, 1.0], [-1.0, 0.0]])])))
    0.0
    """

    def compare(self, teacher: Any, student: Any) -> Any:
        apart = _similarities(student) - _similarities(teacher)
        return ops.mean(apart**2, axis=1)


def _similarities(features: Any) -> Any:
    flat = rows(features)
    return unit(flat @ ops.transpose(flat))


@keras.saving.register_keras_serializable("tfcompress")
class RelationalDistance(FeatureLoss):
    """Distances between examples, in units of the mean one, shall be those of the teacher.

    The Huber loss, mean over all pairs of a batch, of `||f_i - f_j|| / mu`, mu the mean over pairs of
    different examples (Park et al. 2019, "Relational Knowledge Distillation", eq. 5 to 8). The paper weighs
    it by 25.
    """

    def compare(self, teacher: Any, student: Any) -> Any:
        return ops.mean(_huber(_distances(student) - _distances(teacher)), axis=1)


@keras.saving.register_keras_serializable("tfcompress")
class RelationalAngle(FeatureLoss):
    """Angles between examples shall be those of the teacher.

    The Huber loss, mean over all triples of a batch, of the cosine of the angle at *j* between *i* and *k*
    (Park et al. 2019, eq. 9 to 11). The paper weighs it by 50. It takes the cube of the batch size in memory.
    """

    def compare(self, teacher: Any, student: Any) -> Any:
        apart = _huber(_cosines(student) - _cosines(teacher))
        return ops.mean(apart, axis=(1, 2))


@keras.saving.register_keras_serializable("tfcompress")
class NeuronSelectivity(FeatureLoss):
    """Where channels are active shall be distributed alike.

    The squared maximum mean discrepancy between the channels of both, each a map of length 1, under the
    kernel `(x . y)^2` (Huang and Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity
    Transfer", eq. 8, polynomial of degree 2 without constant). Widths may differ; maps of other sizes are
    averaged.
    """

    def build(self, teacher_shape: Sequence[Any], student_shape: Sequence[Any]) -> None:
        check_maps(self, teacher_shape, student_shape)

    def compare(self, teacher: Any, student: Any) -> Any:
        t, s = (_channels(maps) for maps in same_size(teacher, student))
        return _mean_kernel(t, t) + _mean_kernel(s, s) - 2 * _mean_kernel(t, s)


def _distances(features: Any) -> Any:
    """`(batch, batch)`, in units of the mean over pairs of different examples."""
    flat = rows(features)
    apart = ops.sum((flat[:, None] - flat[None]) ** 2, axis=-1)
    found = length(apart)
    pairs = ops.sum(ops.cast(found > 0, found.dtype))
    return found * pairs / ops.maximum(ops.sum(found), SMALL)


def _cosines(features: Any) -> Any:
    """`(batch, batch, batch)`, with the vertex of the angle first."""
    flat = rows(features)
    towards = flat[None] - flat[:, None]
    lengths = length(ops.sum(towards**2, axis=-1, keepdims=True))
    directions = towards / ops.maximum(lengths, SMALL)
    return directions @ ops.transpose(directions, (0, 2, 1))


def _huber(apart: Any) -> Any:
    size = ops.abs(apart)
    return ops.where(size < 1, 0.5 * apart**2, size - 0.5)


def _channels(maps: Any) -> Any:
    """`(batch, channels, positions)`, every channel of length 1; those of zeros stay so."""
    flat = ops.reshape(maps, (ops.shape(maps)[0], -1, maps.shape[-1]))
    squares = ops.sum(flat**2, axis=1, keepdims=True)
    return ops.transpose(flat / ops.maximum(length(squares), SMALL), (0, 2, 1))


def _mean_kernel(one: Any, other: Any) -> Any:
    """`(batch,)`: the mean of `(x . y)^2` over channels x of the one and y of the other."""
    return ops.mean((one @ ops.transpose(other, (0, 2, 1))) ** 2, axis=(1, 2))
