"""What every criterion promises, found by `criteria.names()`."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import criteria

LAYERS = ["first", "second", "dense"]
SIZES = {"first": 6, "second": 5, "dense": 7}
EQUIVARIANT = [name for name in criteria.names() if name != "random"]


def network(order: np.ndarray | None = None) -> keras.Model:
    """A small classifier; `order` permutes the filters of `first`, and what belongs to them."""
    x = i = keras.Input((10, 10, 3))
    x = layers.Conv2D(6, 3, name="first")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="first_norm")(x))
    x = layers.Conv2D(5, 3, name="second")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="second_norm")(x))
    x = layers.Dense(7, activation="relu", name="dense")(layers.Flatten()(x))
    model = keras.Model(i, layers.Dense(4, activation="softmax", name="head")(x))
    rng = np.random.default_rng(3)
    for weight in model.weights:
        weight.assign(
            rng.uniform(0.3, 1.0, weight.shape) if "norm" in weight.path else rng.normal(0, 0.3, weight.shape)
        )
    if order is not None:
        permute(model, order)
    model.compile(loss="sparse_categorical_crossentropy")
    return model


def permute(model: keras.Model, order: np.ndarray) -> None:
    for name in ("first", "first_norm"):
        layer = model.get_layer(name)
        layer.set_weights([w[..., order] for w in layer.get_weights()])
    second = model.get_layer("second")
    kernel, bias = second.get_weights()
    second.set_weights([kernel[:, :, order], bias])


def data(count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.normal(size=(count, 10, 10, 3)).astype("float32"), rng.integers(0, 4, count)


def scored(name: str) -> list[str]:
    return [path for path in LAYERS if name != "bn_scale" or path != "dense"]


@pytest.mark.parametrize("name", criteria.names())
def test_scores_are_finite_and_one_per_filter(name):
    scores = criteria.get(name).score(network(), LAYERS, data())
    assert list(scores) == scored(name)
    assert all(scores[path].shape == (SIZES[path],) and np.isfinite(scores[path]).all() for path in scores)


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_permuting_filters_permutes_scores(name):
    order = np.array([3, 0, 5, 1, 4, 2])
    plain = criteria.get(name).score(network(), LAYERS, data())
    permuted = criteria.get(name).score(network(order), LAYERS, data())
    rtol = 1e-3 if name == "oracle" else 1e-5  # the difference of two losses
    np.testing.assert_allclose(permuted["first"], plain["first"][order], rtol=rtol)
    np.testing.assert_allclose(permuted["second"], plain["second"], rtol=rtol)


@pytest.mark.parametrize("name", criteria.names())
def test_config_round_trip_gives_an_equal_criterion(name):
    criterion = criteria.get(name)
    assert criterion.name == name
    assert criteria.get(criterion.get_config()) == criterion
    assert criteria.get(type(criterion)) == criterion
    assert criteria.get(criterion) is criterion


@pytest.mark.parametrize("name", criteria.names())
def test_same_call_twice_gives_the_same_scores(name):
    first, second = (criteria.get(name).score(network(), LAYERS, data()) for _ in range(2))
    assert all((first[path] == second[path]).all() for path in first)


@pytest.mark.parametrize("name", criteria.names())
def test_batches_of_any_size_give_the_scores_of_one_pass(name):
    images, labels = data()
    whole = criteria.get(name).score(network(), LAYERS, [(images, labels)])
    ragged = [(images[a:b], labels[a:b]) for a, b in ((0, 7), (7, 30), (30, 50))]
    for source in (ragged, (images, labels), iter(ragged)):
        scores = criteria.get(name).score(network(), LAYERS, source)
        assert all(np.allclose(scores[path], whole[path], rtol=1e-5) for path in whole)


@pytest.mark.parametrize("name", criteria.names())
def test_scoring_leaves_the_model_as_it_was(name):
    model = network()
    before = [weight.numpy() for weight in model.weights]
    criteria.get(name).score(model, LAYERS, data())
    assert all((a == b.numpy()).all() for a, b in zip(before, model.weights, strict=True))
    assert model.get_layer("first").output.shape == (None, 8, 8, 6)  # still called exactly once


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_not_a_number_is_an_error_that_names_the_layer(name):
    model = network()
    weight = model.get_layer("second_norm" if name == "bn_scale" else "second").weights[0]
    values = weight.numpy()
    values[..., 2] = np.nan
    weight.assign(values)
    with pytest.raises(ValueError, match="'(first|second|dense)' has NaN"):
        criteria.get(name).score(model, LAYERS, data())


def test_all_criteria_together_equal_each_alone():
    chosen = {name: criteria.get(name) for name in ("apoz", "entropy")}
    together = criteria.score_together(network(), chosen, LAYERS, data())
    for name, criterion in chosen.items():
        alone = criterion.score(network(), LAYERS, data())
        assert all((together[name][path] == alone[path]).all() for path in LAYERS)


def test_users_criterion_with_labels_is_one_small_class():
    class Correct(criteria.ActivationCriterion):
        needs_labels = True

        def statistics(self, outputs, labels):
            weight = keras.ops.cast(labels == 1, "float32")
            return keras.ops.tensordot(
                weight, keras.ops.mean(outputs, axis=tuple(range(1, outputs.ndim - 1))), 1
            )

        def result(self, state):
            return state

    images, labels = data()
    scores = Correct().score(network(), ["first"], (images, labels))
    assert scores["first"].shape == (6,) and scores["first"].min() > 0
    with pytest.raises(ValueError, match="needs labels"):
        Correct().score(network(), ["first"], images)
