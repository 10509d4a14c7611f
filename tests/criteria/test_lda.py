"""LDA of neurons: the intraclass correlation, and the firing matrix."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfcompress import criteria
from tfcompress.criteria.lda import Scatter

SEEDS = st.integers(0, 10**6)


def textbook(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S_w and S_b as sums of outer products, image by image."""
    mean = x.mean(axis=0)
    within, between = np.zeros((2, x.shape[1], x.shape[1]))
    for label in set(labels):
        rows = x[labels == label]
        center = rows.mean(axis=0)
        within += sum(np.outer(row - center, row - center) for row in rows)
        between += len(rows) * np.outer(center - mean, center - mean)
    return within, between


@given(SEEDS, st.integers(2, 5), st.integers(1, 40))
def test_icc_in_batches_equals_the_textbook(seed, classes, batch):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 80)
    x = rng.normal(size=(80, 4)) + labels[:, None] * rng.normal(size=4) + 100
    within, between = map(np.diag, textbook(x, labels))
    total = Scatter(4)
    for i in range(0, 80, batch):
        total.add(x[i : i + batch], labels[i : i + batch])
    np.testing.assert_allclose(total.icc, between / (between + within), rtol=1e-6, atol=1e-9)


@given(SEEDS)
def test_icc_is_one_for_a_neuron_that_is_the_class_and_near_zero_for_one_that_is_not(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 2000)
    icc = Scatter.of(np.stack([5.0 * labels, rng.normal(size=2000)], axis=1), labels).icc
    assert icc[0] == pytest.approx(1) and icc[1] < 0.02


@given(SEEDS, st.sampled_from([0.01, 3.0, -20.0]), st.floats(-5, 5))
def test_icc_ignores_scale_and_shift(seed, scale, shift):
    rng = np.random.default_rng(seed)
    labels, x = rng.integers(0, 4, 60), rng.normal(size=(60, 3))
    np.testing.assert_allclose(
        Scatter.of(scale * x + shift, labels).icc, Scatter.of(x, labels).icc, rtol=1e-6
    )


def test_a_neuron_that_never_changes_scores_zero():
    x = np.full((90, 2), np.float32(0.1))
    total = Scatter(2)
    for i in range(0, 90, 7):
        total.add(x[i : i + 7], np.arange(i, min(i + 7, 90)) % 3)
    assert total.icc.tolist() == [0, 0]
    assert Scatter.of(np.zeros((6, 1)), np.arange(6) % 2).icc.tolist() == [0]


def classifier() -> keras.Model:
    i = keras.Input((6, 6, 1))
    x = layers.Conv2D(5, 3, activation="relu", name="conv")(i)
    return keras.Model(i, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))


def images(count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 6, 6, 1)).astype("float32"), np.arange(count) % 3


def test_the_firing_matrix_holds_the_strongest_activations():
    model, (x, labels) = classifier(), images()
    found = criteria.firing(model, "conv", (x, labels))
    maps = keras.Model(model.inputs, model.get_layer("conv").output).predict(x, verbose=0)
    np.testing.assert_allclose(found.x, maps.max((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(found.labels, labels)
    scores = criteria.LDA().score(model, ["conv"], (x, labels))["conv"]
    np.testing.assert_allclose(found.icc, scores, rtol=1e-6)


def test_off_diagonal_mass_of_the_scatter_within_classes():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(200, 3)), rng.integers(0, 2, 200)
    x[:, 2] = x[:, 0]
    within, _ = textbook(x, labels)
    expected = 1 - (np.diag(within) ** 2).sum() / (within**2).sum()
    assert criteria.Firing(x, labels).off_diagonal == pytest.approx(expected)
    assert criteria.Firing(np.zeros((4, 2)), np.arange(4) % 2).off_diagonal == 0


@pytest.mark.parametrize("form", ["integers", "column", "one-hot"])
def test_labels_in_every_usual_form(form):
    x, labels = images()
    given = {"integers": labels, "column": labels[:, None], "one-hot": np.eye(3, dtype="float32")[labels]}[
        form
    ]
    scores = criteria.LDA().score(classifier(), ["conv"], (x, given))["conv"]
    assert scores.shape == (5,) and (scores > 0).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "needs labels"),
        (np.zeros(30, int), "labels of the data are all 0"),
        (np.linspace(0, 1, 30), "one class per image"),
        (np.zeros((30, 6, 6), int), r"one class per image.*\(30, 6, 6\)"),
    ],
    ids=["none", "single class", "fractions", "maps"],
)
def test_labels_that_are_no_classes(labels, message):
    x, _ = images()
    with pytest.raises(ValueError, match=message):
        criteria.LDA().score(classifier(), ["conv"], x if labels is None else [(x, labels)])
