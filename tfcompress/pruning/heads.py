"""Light heads for a network whose features tell classes apart by themselves: fitted, not trained.

>>> x = np.array([[0.0, 0.0], [1.0, 0.5], [0.0, 1.0], [4.0, 4.0], [5.0, 4.5], [4.0, 5.0]])
>>> i = keras.Input((2,))
>>> head = LinearSVM().fitted(x, np.array([0, 0, 0, 1, 1, 1]), 2, "head")
>>> keras.Model(i, head(i)).predict(x, verbose=0).argmax(axis=1).tolist()
[0, 0, 0, 1, 1, 1]
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress._checks import check_number
from tfcompress._registry import Registry

Layers = Callable[[Any], Any]  # from features `(batch, features)` to `(batch, classes)`


class Head:
    """A classifier that is fitted to features, and then is layers of Keras.

    Your own is one small class with the method below, under a name: `@heads.register("mine")`.
    """

    name = ""

    def fitted(self, x: np.ndarray, labels: np.ndarray, classes: int, name: str) -> Layers:
        """Fits to features.

        Args:
            x: `(images, features)` in float64, finite.
            labels: `(images,)` integers; each class has an image.
            classes: how many there are, two at least.
            name: what names of layers begin with.

        Returns:
            A function from a tensor `(batch, features)` to one of `(batch, classes)`, the highest for the
            class.
        """
        raise NotImplementedError


_REGISTRY = Registry("head")
register, names, get = _REGISTRY.register, _REGISTRY.names, _REGISTRY.get


@register("quadratic_discriminant")
@dataclass(frozen=True)
class QuadraticDiscriminant(Head):
    """Bayes' rule for classes with Gaussian features; gives the probability of each class.

    `g_c(x) = -0.5 log|S_c| - 0.5 (x - mu_c)^T S_c^-1 (x - mu_c) + log pi_c`, softmax over classes, with
    means, shares `pi_c` and covariances `S_c` of the classes, these shrunk: `S_c <- (1 - l) S_c + l tr(S_c)/d
    I` for d features (Tian, Arbel and Clark 2017 have it behind the pruned network; the shrinkage is that of
    Ledoit and Wolf's target, and its amount is a choice).

    Args:
        shrinkage: l, in [0, 1]. With 0 a class needs more images than there are features, none of them
            constant.
    """

    shrinkage: float = 0.1

    def __post_init__(self) -> None:
        check_number("shrinkage", self.shrinkage, "[0, 1]")

    def fitted(self, x: np.ndarray, labels: np.ndarray, classes: int, name: str) -> Layers:
        centre = x.mean(axis=0)
        noise = (np.finfo("float32").eps * np.abs(x).max()) ** 2
        parts = [self._class(x[labels == label] - centre, label, noise) for label in range(classes)]
        whiten = np.concatenate([factor for factor, *_ in parts], axis=1)
        shift = np.concatenate([-mean @ factor for factor, mean, _ in parts])
        constant = [log + math.log((labels == label).mean()) for label, (*_, log) in enumerate(parts)]
        layers = [
            _normalization(centre, np.ones_like(centre), f"{name}_centre"),
            _dense(whiten, shift, f"{name}_whiten"),
            keras.layers.Reshape((classes, x.shape[1]), name=f"{name}_classes"),
            lambda each: keras.ops.sum(keras.ops.square(each), axis=-1),
            _dense(-0.5 * np.eye(classes), np.array(constant), f"{name}_classify", "softmax"),
        ]
        return _chain(layers)

    def _class(self, x: np.ndarray, label: int, noise: float) -> tuple[np.ndarray, np.ndarray, float]:
        """W with `W W^T = S_c^-1`, the mean, and `-0.5 log|S_c|`."""
        if len(x) < 2:
            raise ValueError(
                f"A covariance needs two images of a class at least, class {label} has {len(x)}."
            )
        scatter = np.atleast_2d(np.cov(x, rowvar=False))
        width = len(scatter)
        scatter = (1 - self.shrinkage) * scatter + self.shrinkage * np.trace(scatter) / width * np.eye(width)
        values, vectors = np.linalg.eigh(scatter)
        if values[0] <= max(values[-1] * width * np.finfo(float).eps, noise):
            constant = int((np.ptp(x, axis=0) == 0).sum())
            raise ValueError(
                f"The covariance of class {label} is singular: {len(x)} images, {width} features, of which "
                f"{constant} are constant. Give more images, or a shrinkage above {self.shrinkage}."
            )
        return vectors / np.sqrt(values), x.mean(axis=0), float(-0.5 * np.log(values).sum())


@register("linear_svm")
@dataclass(frozen=True)
class LinearSVM(Head):
    """A linear support vector machine per class against the rest, by scikit-learn; gives decision values.

    Features are standardised for the fit, which is then folded into the one Dense layer.

    Args:
        C: what errors cost, above 0; see `sklearn.svm.LinearSVC`.
    """

    C: float = 1.0

    def __post_init__(self) -> None:
        check_number("C", self.C, "(0, inf)")

    def fitted(self, x: np.ndarray, labels: np.ndarray, classes: int, name: str) -> Layers:
        from sklearn.svm import LinearSVC

        mean, deviation = _moments(x)
        machine = LinearSVC(C=self.C, random_state=0, max_iter=10_000).fit((x - mean) / deviation, labels)
        kernel = _per_class(machine.coef_.T) / deviation[:, None]
        return _dense(kernel, _per_class(machine.intercept_[None])[0] - mean @ kernel, f"{name}_classify")


@register("rbf_svm")
@dataclass(frozen=True)
class RBFSVM(Head):
    """A support vector machine with a Gaussian kernel per class against the rest, by scikit-learn.

    Gives decision values, `sum_s a_cs exp(-gamma ||x - s||^2) + b_c` over the images s that are support
    vectors, on standardised features.

    Args:
        C: what errors cost, above 0; see `sklearn.svm.SVC`.
        gamma: above 0; None for one over the number of features.
    """

    C: float = 1.0
    gamma: float | None = None

    def __post_init__(self) -> None:
        check_number("C", self.C, "(0, inf)")
        if self.gamma is not None:
            check_number("gamma", self.gamma, "(0, inf)")

    def fitted(self, x: np.ndarray, labels: np.ndarray, classes: int, name: str) -> Layers:
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.svm import SVC

        mean, deviation = _moments(x)
        gamma = 1 / x.shape[1] if self.gamma is None else self.gamma
        scaled = (x - mean) / deviation * math.sqrt(gamma)  # so that the kernel is exp(-||x - s||^2)
        machines = OneVsRestClassifier(SVC(C=self.C, gamma=1.0)).fit(scaled, labels).estimators_
        factors = np.zeros((len(x), len(machines)))
        for number, machine in enumerate(machines):
            factors[machine.support_, number] = machine.dual_coef_[0]
        used = factors.any(axis=1)
        supports = scaled[used]
        normalize = _normalization(mean, deviation**2 / gamma, f"{name}_scale")
        nearness = _dense(2 * supports.T, -(supports**2).sum(axis=1), f"{name}_supports")
        intercepts = np.array([[machine.intercept_[0] for machine in machines]])
        classify = _dense(_per_class(factors[used]), _per_class(intercepts)[0], f"{name}_classify")

        def layers(features: Any) -> Any:
            scaled = normalize(features)
            norms = keras.ops.sum(keras.ops.square(scaled), axis=-1, keepdims=True)
            return classify(keras.ops.exp(nearness(scaled) - norms))

        return layers


def _per_class(columns: np.ndarray) -> np.ndarray:
    """A column per class, where scikit-learn has a single one for two classes."""
    return np.concatenate([-columns, columns], axis=1) if columns.shape[1] == 1 else columns


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means, and deviations, 1 for features that never change."""
    deviation = x.std(axis=0)
    return x.mean(axis=0), np.where(np.ptp(x, axis=0) == 0, 1.0, deviation)


def _normalization(mean: np.ndarray, variance: np.ndarray, name: str) -> keras.layers.Layer:
    return keras.layers.Normalization(mean=mean.tolist(), variance=variance.tolist(), name=name)


def _dense(
    kernel: np.ndarray, bias: np.ndarray, name: str, activation: str | None = None
) -> keras.layers.Layer:
    layer = keras.layers.Dense(kernel.shape[1], activation=activation, name=name)
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel, bias])
    return layer


def _chain(layers: list[Layers]) -> Layers:
    def run(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    return run
