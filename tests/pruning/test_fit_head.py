"""Light heads: a quadratic discriminant and support vector machines behind a network's features."""

import keras
import numpy as np
import pytest
from backends import NEEDS_TENSORFLOW
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC, LinearSVC

import tfcompress
from tfcompress import fit_head
from tfcompress.pruning import heads

NAMES = ["linear_svm", "quadratic_discriminant", "rbf_svm"]


def features(seed: int, classes: int = 3, width: int = 4, images: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(images) % classes)
    means, mixes = rng.normal(0, 2, (classes, width)), rng.normal(0, 1, (classes, width, width))
    x = means[labels] + np.einsum("ni,nij->nj", rng.normal(size=(images, width)), mixes[labels])
    return x.astype("float32"), labels


def through(width: int = 4) -> keras.Model:
    """A network whose layer "features" gives its inputs as they are."""
    i = keras.Input((width,))
    x = layers.Dense(width, kernel_initializer="identity", name="features")(i)
    return keras.Model(i, layers.Dense(3, name="old")(x))


def fitted(head, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    model = fit_head(through(x.shape[1]), head, (x, labels), layer="features")
    return model.predict(x, verbose=0)


def network(seed: int = 0, data_format: str = "channels_last") -> keras.Model:
    keras.utils.set_random_seed(seed)
    i = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, name="first")(i)
    x = layers.ReLU(name="first_relu")(layers.BatchNormalization(name="first_norm")(x))
    inside = j = keras.Input((6, 6, 8))
    inside = layers.Conv2D(12, 3, use_bias=False, name="last")(inside)
    inside = layers.ReLU(name="last_relu")(layers.BatchNormalization(name="last_norm")(inside))
    x = keras.Model(j, layers.MaxPooling2D()(inside), name="body")(x)
    x = layers.Dense(32, activation="relu", name="hidden")(layers.Flatten()(x))
    return keras.Model(i, layers.Dense(10, activation="softmax", name="old")(x), name="net")


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x.reshape(-1, 8, 8, 1) / 16).astype("float32"), y


@settings(max_examples=5)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.7, 1.0]), st.integers(2, 4))
def test_the_discriminant_is_bayes_rule_for_shrunk_gaussians(seed, shrinkage, classes):
    x, labels = features(seed, classes)
    scores = []
    for label in range(classes):
        mine = x[labels == label].astype("float64")
        s = np.cov(mine, rowvar=False)
        s = (1 - shrinkage) * s + shrinkage * np.trace(s) / len(s) * np.eye(len(s))
        apart = x - mine.mean(axis=0)
        distance = np.einsum("ni,ij,nj->n", apart, np.linalg.inv(s), apart)
        scores.append(-0.5 * np.linalg.slogdet(s)[1] - 0.5 * distance + np.log(len(mine) / len(x)))
    expected = np.exp(np.array(scores).T - np.max(scores, axis=0)[:, None])
    expected /= expected.sum(axis=1, keepdims=True)
    found = fitted(heads.QuadraticDiscriminant(shrinkage), x, labels)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@settings(max_examples=5)
@given(st.integers(0, 1000), st.integers(2, 4))
def test_heads_say_what_scikit_learn_says(seed, classes):
    x, labels = features(seed, classes)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    theirs = {
        heads.QuadraticDiscriminant(0.0): QuadraticDiscriminantAnalysis(tol=1e-12).fit(x, labels).predict(x),
        heads.LinearSVM(0.3): LinearSVC(C=0.3, random_state=0, max_iter=10_000)
        .fit(scaled, labels)
        .predict(scaled),
        heads.RBFSVM(2.0, 0.3): OneVsRestClassifier(SVC(C=2.0, gamma=0.3))
        .fit(scaled, labels)
        .predict(scaled),
    }
    for head, expected in theirs.items():
        agree = fitted(head, x, labels).argmax(axis=1) == expected
        assert agree.mean() > 0.98, head  # what lies on the border may go either way in float32


def test_decision_values_are_those_of_scikit_learn():
    x, labels = features(3)
    scaled = (x - x.mean(axis=0, dtype="float64")) / x.std(axis=0, dtype="float64")
    linear = LinearSVC(random_state=0, max_iter=10_000).fit(scaled, labels)
    np.testing.assert_allclose(fitted("linear_svm", x, labels), linear.decision_function(scaled), atol=1e-4)
    rbf = OneVsRestClassifier(SVC(gamma=1 / 4)).fit(scaled, labels)
    np.testing.assert_allclose(fitted("rbf_svm", x, labels), rbf.decision_function(scaled), atol=1e-4)
    two = labels > 0
    rbf = SVC(gamma=1 / 4).fit(scaled, two)
    expected = rbf.decision_function(scaled)
    np.testing.assert_allclose(
        fitted("rbf_svm", x, two.astype(int)), np.stack([-expected, expected], 1), atol=1e-4
    )


@pytest.mark.parametrize("name", NAMES)
def test_predict_works_end_to_end_and_the_result_loads_without_us(name, tmp_path):
    model, (x, y) = network(), digits()
    before = [weight.copy() for weight in model.get_weights()]
    found = fit_head(
        model, name, [(x[start : start + 100], y[start : start + 100]) for start in range(0, 600, 100)]
    )
    assert found.output_shape == (None, 10) and "hidden" not in [layer.name for layer in found.layers]
    assert (found.predict(x[:600], verbose=0).argmax(axis=1) == y[:600]).mean() > 0.6
    assert all(type(layer).__module__.startswith("keras.") for layer in found.layers)
    found.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x[:50], verbose=0), found.predict(x[:50], verbose=0))
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_features_are_the_maxima_of_the_last_activated_maps():
    model, (x, y) = network(), digits()
    firing = tfcompress.criteria.firing(model, "body/last", (x[:200], y[:200]))
    found = fit_head(model, "linear_svm", (x[:200], y[:200]))
    maxima = keras.Model(found.inputs, found.get_layer("head_classify").input)
    np.testing.assert_allclose(maxima.predict(x[:200], verbose=0), firing.x, atol=1e-5)


def test_channels_first_maps_are_pooled_over_their_positions():
    i = keras.Input((3, 6, 7))
    x = layers.Permute((2, 3, 1))(i)
    x = layers.Permute((3, 1, 2))(layers.Conv2D(5, 3, name="conv")(x))
    x = layers.GlobalAveragePooling2D(data_format="channels_first", name="pool")(x)
    model = keras.Model(i, layers.Dense(2)(x))
    data = np.random.default_rng(0).normal(size=(40, 3, 6, 7)).astype("float32"), np.arange(40) % 2
    assert fit_head(model, "linear_svm", data).get_layer("head_classify").input.shape == (None, 5)
    assert fit_head(model, "linear_svm", data, layer="pool").get_layer("head_classify").input.shape == (
        None,
        5,
    )


@pytest.mark.parametrize("name", NAMES)
def test_one_hot_labels_are_classes_too(name):
    x, labels = features(1)
    one_hot = np.eye(3)[labels]
    np.testing.assert_array_equal(fitted(name, x, labels), fitted(name, x, one_hot))


@pytest.mark.parametrize("name", NAMES)
def test_dead_neurons_do_no_harm(name):
    x, labels = features(2, width=6)
    x[:, 2], x[:, 4] = 0.0, 5.0
    found = fitted(name, x, labels)
    assert np.isfinite(found).all() and (found.argmax(axis=1) == labels).mean() > 0.7


@NEEDS_TENSORFLOW
@pytest.mark.parametrize("name", NAMES)
def test_heads_are_exported_with_the_network(name, tmp_path):
    model, (x, y) = network(), digits()
    found = fit_head(model, name, (x[:400], y[:400]))
    tfcompress.export.tflite(found, tmp_path / "model.tflite", data=x[:20])
    run = tfcompress.export.run_tflite(tmp_path / "model.tflite", x[:100])
    np.testing.assert_allclose(np.asarray(run).reshape(100, 10), found.predict(x[:100], verbose=0), atol=1e-3)


def test_behind_a_network_pruned_by_lda_few_neurons_are_enough():
    model, (x, y) = network(), digits()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:1400], y[:1400], batch_size=64, epochs=4, verbose=0)
    small = tfcompress.prune(model, "lda", sparsity=0.3, data=(x[:1400], y[:1400]), include=["body/last"])
    found = fit_head(small, "quadratic_discriminant", (x[:1400], y[:1400]))
    assert found.count_params() < small.count_params()
    assert (found.predict(x[1400:], verbose=0).argmax(axis=1) == y[1400:]).mean() > 0.75


def test_your_own_head_is_one_small_class():
    @heads.register("nearest_mean")
    class NearestMean(heads.Head):
        def fitted(self, x, labels, classes, name):
            means = np.array([x[labels == label].mean(axis=0) for label in range(classes)])
            dense = layers.Dense(classes, name=f"{name}_means")
            dense.build((None, x.shape[1]))
            dense.set_weights([2 * means.T, -(means**2).sum(axis=1)])
            return dense

    x, labels = features(0)
    means = np.array([x[labels == label].mean(axis=0) for label in range(3)])
    expected = ((x[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (fitted("nearest_mean", x, labels).argmax(axis=1) == expected).mean() > 0.98


def few(labels: np.ndarray, label: int, count: int) -> np.ndarray:
    """Where to look for only `count` images of a class."""
    return np.sort(np.concatenate([np.flatnonzero(labels != label), np.flatnonzero(labels == label)[:count]]))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"data": None}, "pass data"),
        ({"data": features(0)[0]}, "needs labels"),
        ({"data": (features(0)[0], np.zeros(90, int))}, "tells classes apart"),
        ({"data": (features(0)[0], np.arange(90) % 2 * 2)}, r"no image of classes \[1\]"),
        ({"data": (features(0)[0], np.arange(90) % 2 - 1)}, "numbered from 0"),
        ({"data": (features(0)[0], np.r_[np.zeros(89, int), 1])}, "class 1 has 1"),
        ({"head": "forest"}, "Unknown head"),
        ({"head": 3}, "Expected a head"),
        ({"head": {"name": "linear_svm", "c": 1}}, "takes"),
        ({"layer": "feature"}, "Did you mean 'features'"),
        ({"layer": None}, "has no convolution"),
        ({"data": (features(0)[0][:, :3], features(0)[1])}, "wants batches of shape"),
    ],
)
def test_bad_arguments(arguments, message):
    given = {"head": "quadratic_discriminant", "data": features(0), "layer": "features", **arguments}
    with pytest.raises(ValueError, match=message):
        fit_head(through(), given["head"], given["data"], layer=given["layer"])


def test_too_few_images_for_a_covariance_are_a_clear_error():
    x, labels = features(0, width=8)
    rows = few(labels, 1, 5)
    with pytest.raises(ValueError, match="covariance of class 1 is singular: 5 images, 8 features"):
        fitted(heads.QuadraticDiscriminant(0.0), x[rows], labels[rows])
    assert np.isfinite(fitted(heads.QuadraticDiscriminant(0.1), x[rows], labels[rows])).all()
    x[labels == 2] = 1.0  # all images of a class are alike
    with pytest.raises(ValueError, match="of which 8 are constant"):
        fitted(heads.QuadraticDiscriminant(0.1), x, labels)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: heads.QuadraticDiscriminant(-0.1), r"shrinkage must be a number in \[0, 1\]"),
        (lambda: heads.QuadraticDiscriminant(1.5), "shrinkage must be"),
        (lambda: heads.LinearSVM(0), "C must be a number above 0"),
        (lambda: heads.RBFSVM(gamma=-1.0), "gamma must be a number above 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
