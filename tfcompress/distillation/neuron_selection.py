"""Which neurons of a teacher are worth learning from (Luo et al. 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy import stats

from tfcompress import _calls, _data
from tfcompress._arrays import to_numpy
from tfcompress._checks import check_number, check_whole
from tfcompress.distillation.hints import adapter
from tfcompress.distillation.loss import FeatureLoss
from tfcompress.distillation.watch import Shape, Watch


@dataclass(frozen=True)
class NeuronSelection:
    """Neurons of a layer that tell much, and not the same.

    Attributes:
        layer: the path of the teacher's layer.
        neurons: their numbers, in ascending order.
        energy: what was minimised, at the end.
        unary: `(width,)` energies of single neurons; infinite for those that never fire.
        correlation: `(width, width)`, absolute.
        mean: `(len(neurons),)` over the images.
        deviation: likewise, the standard deviation.
    """

    layer: str
    neurons: tuple[int, ...]
    energy: float
    unary: np.ndarray
    correlation: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    def loss(
        self, student_layer: str | None = None, *, standardize: bool = True, name: str | None = None
    ) -> "SelectedNeurons":
        """The loss for a student that learns them; `standardize`: each neuron in units of its deviation."""
        scale = {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()} if standardize else {}
        return SelectedNeurons(self.layer, self.neurons, student_layer, **scale, name=name)


def select_neurons(
    teacher: keras.Model,
    layer: str,
    data: Any,
    *,
    attributes: Any = None,
    other_attributes: Any = None,
    count: int | None = None,
    strength: float = 0.1,
    aversion: float = 1.0,
) -> NeuronSelection:
    """Selects the neurons of a layer that a student shall learn.

    From "Face Model Compression by Distilling Knowledge from Neurons" (Luo et al. 2016). It minimises `E(y) =
    sum_i Phi_i y_i + strength sum_{i<j} |corr_ij| y_i y_j` over y in {0, 1}. With d_i how well neuron i alone
    tells an attribute from its absence, the largest area under the ROC curve over attributes, or one minus
    it, and n_i the same for attributes that shall not matter,

        Phi_i = -(d_i - 1/2) + aversion (n_i - 1/2).

    Neurons that never fire, or never change, are dropped beforehand. The search adds the best neuron while
    that helps, then exchanges, adds and removes single ones until nothing helps.

    The paper gives neither these functions nor the weights, and takes classifiers of attributes of faces;
    areas under the curve, and classes for want of attributes, are choices made here.

    Args:
        teacher: a functional or Sequential model.
        layer: the path of one of its layers. Of maps the mean over positions counts.
        data: images, or (images, labels) with labels as numbers or one-hot, as `tfcompress.prune` takes them.
        attributes: `(images, attributes)` of 0 and 1, what the task is about; None: the classes of `data`.
        other_attributes: likewise, what it is not about; None: there are none.
        count: how many are selected; None: as many as lower the energy.
        strength: weight of the correlation of pairs, at least 0.
        aversion: weight of the other attributes, at least 0.

    Raises:
        ValueError: the layer is unknown, attributes and labels are missing or do not fit, an attribute is the
            same in all images, no neuron fires, or there are fewer than `count`.
    """
    for name, value in {"strength": strength, "aversion": aversion}.items():
        check_number(name, value, "[0, inf)")
    features, labels = _features(teacher, layer, data, wants_labels=attributes is None)
    of_task = _one_hot(labels) if attributes is None else _binary(attributes, len(features), "attributes")
    unary = 0.5 - separation(features, of_task)
    if other_attributes is not None:
        others = _binary(other_attributes, len(features), "other_attributes")
        unary = unary + aversion * (separation(features, others) - 0.5)
    fires = (features > 0).any(axis=0) & (features.max(axis=0) > features.min(axis=0))
    unary = np.where(fires, unary, np.inf)
    correlation = absolute_correlation(features)
    chosen = minimize(unary, strength * correlation, count)
    neurons = np.flatnonzero(chosen)
    return NeuronSelection(
        layer,
        tuple(int(neuron) for neuron in neurons),
        energy(unary, strength * correlation, chosen),
        unary,
        correlation,
        features[:, neurons].mean(axis=0),
        features[:, neurons].std(axis=0),
    )


def separation(features: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """`(width,)` in [1/2, 1]: the best `max(AUC, 1 - AUC)` of a neuron over attributes.

    `AUC = (R - n (n + 1) / 2) / (n m)`, R the sum of the ranks of the n images with the attribute among all
    n + m (Mann and Whitney).
    """
    ranks = stats.rankdata(features, axis=0)
    present = attributes.sum(axis=0)[:, None]
    area = (attributes.T @ ranks - present * (present + 1) / 2) / (present * (len(features) - present))
    return np.maximum(area, 1 - area).max(axis=0)


def absolute_correlation(features: np.ndarray) -> np.ndarray:
    """`(width, width)`; 0 for what never changes, and on the diagonal."""
    centered = features - features.mean(axis=0)
    lengths = np.linalg.norm(centered, axis=0)
    scaled = centered / np.where(lengths > 0, lengths, 1.0)
    found = np.abs(scaled.T @ scaled)
    np.fill_diagonal(found, 0.0)
    return found


def energy(unary: np.ndarray, pairs: np.ndarray, chosen: np.ndarray) -> float:
    """Of a selection, a bool per neuron."""
    return float(unary[chosen].sum() + pairs[np.ix_(chosen, chosen)].sum() / 2)


def minimize(unary: np.ndarray, pairs: np.ndarray, count: int | None = None) -> np.ndarray:
    """A selection of low energy: `(width,)` bool. Every step lowers it.

    Args:
        unary: `(width,)` energies; infinite: never chosen.
        pairs: `(width, width)`, symmetric, at least 0, 0 on the diagonal.
        count: how many; None: any number, but at least one.
    """
    available = int(np.isfinite(unary).sum())
    if not available:
        raise ValueError("No neuron of the layer fires on any of the images.")
    check_whole("count", count, 1, available, or_none=True)
    chosen = np.zeros(len(unary), bool)
    while change := _addition(unary, pairs, chosen, count):
        chosen[change[1]] = True
    while change := _best_step(unary, pairs, chosen, free=count is None):
        chosen[change[1]] ^= True
    return chosen


Step = tuple[float, list[int]]  # by how much the energy changes, and which neurons are flipped


def _addition(unary: np.ndarray, pairs: np.ndarray, chosen: np.ndarray, count: int | None) -> Step | None:
    """The best neuron to add, if it helps, or if there are too few."""
    if chosen.sum() == (len(chosen) if count is None else count):
        return None
    gain = np.where(chosen, np.inf, unary + pairs[:, chosen].sum(axis=1))
    best = int(gain.argmin())
    wanted = not chosen.any() if count is None else True
    return (float(gain[best]), [best]) if wanted or gain[best] < 0 else None


def _best_step(unary: np.ndarray, pairs: np.ndarray, chosen: np.ndarray, free: bool) -> Step | None:
    """The best exchange of two neurons, or flip of one, that lowers the energy."""
    cost = unary + pairs[:, chosen].sum(axis=1)
    inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen & np.isfinite(unary))
    steps: list[Step] = []
    if len(outside):
        swaps = cost[None, outside] - cost[inside, None] - pairs[np.ix_(inside, outside)]
        one, other = np.unravel_index(int(swaps.argmin()), swaps.shape)
        steps.append((float(swaps[one, other]), [int(inside[one]), int(outside[other])]))
    if free and len(outside):
        best = int(outside[cost[outside].argmin()])
        steps.append((float(cost[best]), [best]))
    if free and len(inside) > 1:
        worst = int(inside[cost[inside].argmax()])
        steps.append((-float(cost[worst]), [worst]))
    best_step = min(steps, default=(0.0, []))
    return best_step if best_step[0] < -1e-9 else None


# ------------------------------------------------------------------ what they are selected by


def _features(teacher: keras.Model, layer: str, data: Any, wants_labels: bool) -> tuple[np.ndarray, list]:
    """`(images, width)` float64, and the labels of all batches."""
    watch = Watch(teacher)
    paths = watch.paths(layer)
    if len(paths) != 1:
        raise ValueError(f"Neurons are selected in one layer, but {layer!r} matches {paths}.")
    watch.look_at(paths)
    if wants_labels and data is not None:
        batches = _data.labelled(teacher, data, "A selection without attributes=")
    else:
        batches = _data.batches_for(teacher, data)
    features, labels = [], []
    for inputs, of_batch in batches:
        said = watch(keras.tree.pack_sequence_as(_calls.input_of(teacher), inputs)).features[paths[0]]
        features.append(to_numpy(pooled(said)).astype("float64"))
        labels.append(of_batch)
    if not features:
        raise ValueError("A selection looks at activations: pass data, e.g. a few hundred images.")
    found = np.concatenate(features)
    if not np.isfinite(found).all():
        raise ValueError(f"The layer '{paths[0]}' says NaN or infinity for some images.")
    return found, labels


def _one_hot(labels: list) -> np.ndarray:
    """`(images, classes)`, of the classes that there are."""
    numbers_ = np.concatenate([_data.classes(one) for one in labels])
    classes = np.unique(numbers_)
    if len(classes) < 2:
        raise ValueError(f"Neurons tell classes apart, but all images are of class {classes[0]}.")
    return (numbers_[:, None] == classes).astype("float64")


def _binary(attributes: Any, images: int, name: str) -> np.ndarray:
    found = np.asarray(attributes, "float64")
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or len(found) != images or not np.isin(found, (0, 1)).all():
        raise ValueError(f"{name} must be {images} rows of 0 and 1, one per image, got shape {found.shape}.")
    same = np.flatnonzero(found.min(axis=0) == found.max(axis=0))
    if len(same):
        raise ValueError(f"{name} number {same.tolist()} are the same in all images: leave them out.")
    return found


# ------------------------------------------------------------------ the student's side


@keras.saving.register_keras_serializable("tfcompress")
class SelectedNeurons(FeatureLoss):
    """`1/2 ||f_T[S] - f_S||^2`: the student learns what selected neurons of the teacher say.

    The student's layer has as many neurons as were selected (Luo et al. 2016); where it has another number, a
    dense layer between is trained along and dropped, which is an extension. Of maps the mean over positions
    counts. `NeuronSelection.loss` makes it.

    Args:
        teacher_layer: the layer of the neurons.
        neurons: their numbers.
        student_layer: the path of the student's layer; None: as the teacher's.
        mean: what is subtracted from each neuron; None: nothing.
        deviation: what it is divided by then; None: nothing.
    """

    def __init__(
        self,
        teacher_layer: str,
        neurons: Sequence[int],
        student_layer: str | None = None,
        *,
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
        name: str | None = None,
    ):
        super().__init__(teacher_layer, student_layer, name)
        self.neurons = [int(neuron) for neuron in neurons]
        if not self.neurons:
            raise ValueError("There are no neurons to learn from.")
        self.mean = [0.0] * len(self.neurons) if mean is None else [float(one) for one in mean]
        self.deviation = [1.0] * len(self.neurons) if deviation is None else [float(one) for one in deviation]
        self.adapter: Any = None

    def build(self, teacher_shape: Sequence[Shape], student_shape: Sequence[Shape]) -> None:
        if max(self.neurons) >= (width := teacher_shape[0][-1] or 0):
            raise ValueError(
                f"The teacher's layer has {width} neurons, but {max(self.neurons)} was selected."
            )
        self.adapter = adapter((None, len(self.neurons)), (None, student_shape[0][-1]))

    def compare(self, teacher: Any, student: Any) -> Any:
        wanted = (ops.take(pooled(teacher), self.neurons, axis=1) - ops.array(self.mean)) / ops.array(
            self.deviation
        )
        return 0.5 * ops.sum((wanted - self.adapter(pooled(student))) ** 2, axis=1)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        layers = {
            "teacher_layer": config.pop("teacher_layers"),
            "student_layer": config.pop("student_layers"),
        }
        return config | layers | {key: list(getattr(self, key)) for key in ("neurons", "mean", "deviation")}


def pooled(features: Any) -> Any:
    """`(batch, channels)`: the means over positions, if there are any."""
    positions = tuple(range(1, len(features.shape) - 1))
    return ops.mean(features, axis=positions) if positions else features
