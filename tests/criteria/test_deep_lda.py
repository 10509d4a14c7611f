"""What earlier neurons give to those of the last convolution, against a deconvolution network in NumPy."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from tfcompress import criteria, prune
from tfcompress.criteria.deep_lda import deconvolved

SEEDS = st.integers(0, 10**6)


def filled(model: keras.Model, seed: int) -> keras.Model:
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        low = 0.5 if "variance" in weight.path else -1.0
        weight.assign(rng.uniform(low, 1.0, weight.shape))
    return model


def images(count: int, size: int = 8, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size, size, 2)).astype("float32")


def seeds(last: np.ndarray, neuron: int) -> np.ndarray:
    """Maps that hold the neuron's maximum at its place, and zeros."""
    signal = np.zeros_like(last)
    for image, maps in enumerate(last):
        y, x = np.unravel_index(maps[..., neuron].argmax(), maps.shape[:2])
        signal[image, y, x, neuron] = maps[y, x, neuron]
    return signal


def transposed(signal: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The transposed convolution, 'valid', loop by loop."""
    images, height, width, _ = signal.shape
    rows, columns, channels, _ = kernel.shape
    found = np.zeros((images, height + rows - 1, width + columns - 1, channels))
    for r in range(rows):
        for c in range(columns):
            found[:, r : r + height, c : c + width] += signal @ kernel[r, c].T
    return found


def unpooled(signal: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Each value goes to where the maximum of its 2x2 window was."""
    found = np.zeros_like(below)
    for n, y, x, c in np.ndindex(*signal.shape):
        window = below[n, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2, c]
        dy, dx = np.unravel_index(window.argmax(), window.shape)
        found[n, 2 * y + dy, 2 * x + dx, c] = signal[n, y, x, c]
    return found


def at(model: keras.Model, layer: str, x: np.ndarray) -> np.ndarray:
    return keras.Model(model.inputs, model.get_layer(layer).output).predict(x, verbose=0)


def kernel(model: keras.Model, layer: str) -> np.ndarray:
    return model.get_layer(layer).get_weights()[0]


@settings(max_examples=5)  # each compiles a network
@given(SEEDS)
def test_below_a_linear_convolution_it_is_the_transposed_convolution(seed):
    i = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, name="last")(layers.Conv2D(5, 3, name="first")(i))
    model = filled(keras.Model(i, layers.GlobalMaxPooling2D()(x)), seed)
    x = images(3)
    signal = transposed(seeds(at(model, "last", x), 1), kernel(model, "last"))
    expected = np.maximum(signal, 0).max((1, 2)).mean(axis=0)
    found = deconvolved(model, "last", [1], ["first"], x)["first"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=6)
@given(SEEDS, st.booleans())
def test_through_relu_and_pooling_it_is_zeiler_and_fergus(seed, fused):
    """`fused`: the activation function inside the convolution, or a layer behind its normalization."""
    i = keras.Input((10, 10, 2))
    x = i
    for name, width in (("first", 4), ("second", 5), ("last", 3)):
        x = layers.Conv2D(width, 3, activation="relu" if fused else None, name=name)(x)
        if not fused:
            x = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))
        x = layers.MaxPooling2D(2)(x) if name == "second" else x
    model = filled(keras.Model(i, layers.GlobalMaxPooling2D()(x)), seed)
    x = images(2, size=10)
    tail = "" if fused else "_relu"

    def scaled(signal, name):
        if fused:
            return signal
        norm = model.get_layer(f"{name}_norm")
        gamma, _, _, variance = norm.get_weights()
        return signal * gamma / np.sqrt(variance + norm.epsilon)

    signal = scaled(np.maximum(seeds(at(model, f"last{tail}", x), 2), 0), "last")
    signal = unpooled(transposed(signal, kernel(model, "last")), at(model, f"second{tail}", x))
    second = np.maximum(signal, 0)
    first = np.maximum(transposed(scaled(second, "second"), kernel(model, "second")), 0)
    found = deconvolved(model, "last", [2], ["first", "second"], x)
    for name, maps in {"first": first, "second": second}.items():
        expected = maps.max((1, 2)).mean(axis=0)
        if name in found:
            np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4)
        else:
            np.testing.assert_allclose(expected, 0, atol=1e-6)


def residual() -> keras.Model:
    i = keras.Input((8, 8, 2))
    x = layers.ReLU()(layers.Conv2D(6, 3, padding="same", name="stem")(i))
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="inner")(x)
    y = layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same", name="outer")(y))
    x = layers.ReLU()(layers.Add()([x, y]))
    aside = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1, name="aside")(x))
    x = layers.Conv2D(5, 3, activation="relu", name="last")(x)
    x = layers.Concatenate()([layers.GlobalMaxPooling2D()(x), aside])
    return filled(keras.Model(i, layers.Dense(3, activation="softmax")(x)), 5)


def test_residual_networks_and_layers_that_do_not_lead_to_the_last():
    model, names = residual(), ["stem", "inner", "outer", "aside", "last"]
    before = [np.array(weight) for weight in model.get_weights()]
    data = images(12), np.arange(12) % 3
    scores = criteria.DeepLDA(last="last", keep=2).score(model, names, data)
    assert list(scores) == ["stem", "inner", "outer", "last"]
    np.testing.assert_allclose(scores["last"], criteria.LDA().score(model, ["last"], data)["last"])
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    small = prune(model, criteria.DeepLDA(last="last", keep=0.4), sparsity=0.5, data=data, exclude="aside")
    assert small.get_layer("last").filters == 2 and small.get_layer("inner").filters == 2


def test_utilities_are_joined_over_neurons_and_images_as_asked():
    model, x = residual(), images(6)
    one, other = (deconvolved(model, "last", [n], ["inner"], x)["inner"] for n in (0, 3))
    both = deconvolved(model, "last", [0, 3], ["inner"], x)["inner"]
    np.testing.assert_allclose(both, np.maximum(one, other), rtol=1e-6)
    mean = deconvolved(model, "last", [0, 3], ["inner"], x, over_neurons="mean")["inner"]
    np.testing.assert_allclose(mean, (one + other) / 2, rtol=1e-6)
    each = [deconvolved(model, "last", [0], ["inner"], image[None])["inner"] for image in x]
    most = deconvolved(model, "last", [0], ["inner"], x, over_images="max")["inner"]
    np.testing.assert_allclose(most, np.max(each, axis=0), rtol=1e-4)


@pytest.mark.parametrize(
    "arguments", [{"keep": 0}, {"keep": "2"}, {"over_images": "sum"}, {"over_neurons": "min"}]
)
def test_settings_out_of_range(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        criteria.DeepLDA(**arguments)


def test_an_unknown_last_layer_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="Unknown layer 'lsat'. Did you mean 'last'"):
        criteria.DeepLDA(last="lsat").score(residual(), ["stem"], (images(4), np.arange(4) % 2))
