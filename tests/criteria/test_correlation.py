"""Correlations of neurons with their inputs, against the definition image by image."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from masks import array

from tfcompress import criteria
from tfcompress.criteria import correlation, correlations

SEEDS = st.integers(0, 10**6)


def filled(model: keras.Model, seed: int) -> keras.Model:
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def textbook(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """`(K, neurons)` from inputs `(images, K)` and outputs `(images, neurons)`."""
    with np.errstate(invalid="ignore"):
        r = np.corrcoef(b.T.astype("float64"), a.T.astype("float64"))[: b.shape[1], b.shape[1] :]
    return np.nan_to_num(r)


@settings(max_examples=5)  # each compiles a network
@given(SEEDS, st.booleans())
def test_of_a_dense_layer(seed, activated):
    i = keras.Input((6,))
    model = filled(keras.Model(i, layers.ReLU()(layers.Dense(5, name="units")(i))), seed)
    x = np.random.default_rng(seed).normal(size=(40, 6)).astype("float32")
    said = x @ model.get_layer("units").get_weights()[0] + model.get_layer("units").get_weights()[1]
    said = np.maximum(said, 0) if activated else said
    found = correlations(model, "units", x, activated=activated)
    np.testing.assert_allclose(found, textbook(x, said), atol=1e-5)


CONVOLUTIONS = {
    "valid": layers.Conv2D(4, 3, name="conv"),
    "same, stride 2": layers.Conv2D(4, (3, 2), strides=2, padding="same", name="conv"),
    "dilated": layers.Conv2D(4, 2, dilation_rate=(2, 3), padding="same", name="conv"),
    "groups": layers.Conv2D(4, 3, groups=2, name="conv"),
    "causal": layers.Conv1D(4, 3, padding="causal", dilation_rate=2, name="conv"),
    "cubes": layers.Conv3D(3, 2, strides=(1, 2, 1), padding="same", name="conv"),
}


def built(case: str) -> tuple[keras.Model, np.ndarray]:
    layer = CONVOLUTIONS[case]
    copy = type(layer).from_config(layer.get_config())
    i = keras.Input((*(7, 6, 5)[: layer.rank], 4))
    model = filled(keras.Model(i, copy(i)), 3)
    return model, np.random.default_rng(0).normal(size=(30, *i.shape[1:])).astype("float32")


def by_definition(model: keras.Model, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over positions; what each sees is read off by convolving with kernels of a single one."""
    layer = model.get_layer("conv")
    kernel, bias = layer.get_weights()
    said = array(model(x))
    signed, absolute = np.zeros(kernel.shape), np.zeros(kernel.shape)
    for index in np.ndindex(*kernel.shape[:-1]):
        probe = np.zeros_like(kernel)
        probe[index] = 1
        layer.set_weights([probe, np.zeros_like(bias)])
        seen = array(model(x))
        for *place, neuron in np.ndindex(*said.shape[1:]):
            at = (slice(None), *place, neuron)
            r = textbook(seen[at][:, None], said[at][:, None])[0, 0]
            signed[(*index, neuron)] += r
            absolute[(*index, neuron)] += abs(r)
    layer.set_weights([kernel, bias])
    positions = np.prod(said.shape[1:-1])
    return signed / positions, absolute / positions


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("held", [2**28, 4000], ids=["at once", "in bands"])
def test_of_a_convolution_it_is_the_mean_over_positions(case, held, monkeypatch):
    monkeypatch.setattr(correlation, "BYTES", held)
    model, x = built(case)
    signed, absolute = by_definition(model, x)
    np.testing.assert_allclose(correlations(model, "conv", x, signs="signed"), signed, atol=1e-5)
    found = correlations(model, "conv", x)
    np.testing.assert_allclose(np.abs(found), absolute, atol=1e-5)
    assert (np.sign(found) == np.sign(signed))[np.abs(signed) > 1e-5].all()


@given(SEEDS, st.floats(0.01, 100))
@settings(max_examples=5)
def test_positive_factors_change_nothing(seed, factor):
    i = keras.Input((6,))
    model = filled(keras.Model(i, layers.Dense(4, activation="relu", name="units")(i)), seed)
    x = np.random.default_rng(seed).normal(size=(40, 6)).astype("float32")
    before = correlations(model, "units", x)
    layer = model.get_layer("units")
    layer.set_weights([factor * weight for weight in layer.get_weights()])
    np.testing.assert_allclose(correlations(model, "units", x), before, atol=1e-4)


def test_inputs_and_neurons_that_never_change_have_none():
    i = keras.Input((3,))
    model = keras.Model(i, layers.Dense(2, activation="relu", name="units")(i))
    model.get_layer("units").set_weights([np.ones((3, 2)), np.array([0.0, -1e6])])
    x = np.random.default_rng(0).uniform(size=(20, 3)).astype("float32")
    x[:, 1] = 0.1
    found = correlations(model, "units", x)
    assert found[1].tolist() == [0, 0] and (found[:, 1] == 0).all() and found[0, 0] > 0


def test_every_step_of_a_dense_layer_is_a_position():
    i = keras.Input((5, 4))
    model = filled(keras.Model(i, layers.Dense(3, name="units")(i)), 0)
    x = np.random.default_rng(0).normal(size=(30, 5, 4)).astype("float32")
    said = array(model(x))
    expected = np.mean([np.abs(textbook(x[:, t], said[:, t])) for t in range(5)], axis=0)
    np.testing.assert_allclose(np.abs(correlations(model, "units", x)), expected, atol=1e-5)


def test_only_the_first_images_are_looked_at():
    model, x = built("valid")
    first = correlations(model, "conv", x[:11])
    np.testing.assert_allclose(correlations(model, "conv", x, images=11), first, atol=1e-6)
    np.testing.assert_allclose(correlations(model, "conv", iter([x[:7], x[7:]]), images=11), first, atol=1e-6)


def test_the_criterion_sums_over_connections():
    model, x = built("valid")
    expected = np.abs(correlations(model, "conv", x)).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(criteria.Correlation().score(model, ["conv"], x)["conv"], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "cnov"}, "Unknown layer 'cnov'. Did you mean 'conv'"),
        ({"data": None}, "pass data"),
        ({"data": np.zeros((1, 7, 6, 4), "float32")}, "at least two images"),
        ({"images": 1}, "images must be"),
        ({"signs": "both"}, "Unknown signs"),
    ],
)
def test_bad_arguments(arguments, message):
    model, x = built("valid")
    with pytest.raises(ValueError, match=message):
        correlations(model, **{"layer": "conv", "data": x, **arguments})


def test_other_layers_have_none():
    i = keras.Input((7, 4))
    model = keras.Model(i, layers.GRU(3, name="gru")(i))
    with pytest.raises(ValueError, match="GRU is no Dense layer"):
        correlations(model, "gru", np.zeros((4, 7, 4), "float32"))
