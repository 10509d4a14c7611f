"""Rankings of criteria against the oracle."""

import math

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import criteria
from tfcompress.analysis import rank_correlation


@pytest.fixture(scope="module")
def trained() -> tuple[keras.Model, tuple[np.ndarray, np.ndarray]]:
    """Tells apart where a bright spot is."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    images = rng.normal(0, 0.3, (400, 8, 8, 1)).astype("float32")
    images[np.arange(400), 4 * (labels // 2) + 2, 4 * (labels % 2) + 2] += 3
    i = keras.Input((8, 8, 1))
    x = layers.Conv2D(12, 3, activation="relu", name="first")(i)
    x = layers.Conv2D(12, 3, strides=2, activation="relu", name="second")(x)
    model = keras.Model(i, layers.Dense(4, activation="softmax")(layers.Flatten()(x)))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=6, verbose=0)
    return model, (images, labels)


def test_a_criterion_agrees_with_itself_and_its_reverse_disagrees(trained):
    model, data = trained

    def reverse(model, layers, data):
        return {path: -scores for path, scores in criteria.L1().score(model, layers).items()}

    found = rank_correlation(model, {"same": "l1", "reverse": reverse}, data, reference="l1")
    assert (found["same"].mean, found["same"].overall) == pytest.approx((1, 1))
    assert (found["reverse"].mean, found["reverse"].overall) == pytest.approx((-1, -1))
    assert list(found["same"].groups) == ["first", "second"]


def test_taylor_follows_the_oracle_where_random_scores_do_not(trained):
    model, data = trained
    found = rank_correlation(model, ["taylor", "taylor2019", "random"], data)
    assert found["taylor"].mean > 0.7 > found["random"].mean
    assert found["taylor2019"].overall > found["random"].overall


def test_constant_scores_have_no_rank(trained):
    model, data = trained

    def flat(model, layers, data):
        return {path: np.zeros(12) for path in layers}

    found = rank_correlation(model, flat, data, include="first", reference="l1")
    assert list(found) == ["flat"] and math.isnan(found["flat"].mean)


def test_bad_arguments(trained):
    model, data = trained
    with pytest.raises(ValueError, match="Unknown pool"):
        rank_correlation(model, "l1", data, pool="median")
    with pytest.raises(ValueError, match="Unknown criterion 'l3'"):
        rank_correlation(model, "l3", data)
