"""Losses between gradients by the inputs, which are differentiated once more."""

import keras
import numpy as np
import pytest
from distilling import data, loss_of_labels, network, numpy
from keras import layers

from tfcompress import _gradients, distillation

SMOOTH = "tanh"  # so that differences tell slopes


def smooth(width, name, seed):
    keras.utils.set_random_seed(seed)
    x = i = keras.Input((6, 6, 2))
    x = layers.Conv2D(width, 3, activation=SMOOTH, name=f"{name}_conv")(x)
    return keras.Model(i, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def images(count=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 6, 6, 2)).astype("float32"), rng.integers(0, 4, count)


def slopes(model, x, y):
    """dL/dx of every image, by central differences."""
    found = np.zeros(x.shape)
    for place in np.ndindex(*x.shape[1:]):
        step = np.zeros(x.shape[1:], "float32")
        step[place] = 1e-2
        up, down = (numpy(loss_of_labels().call(y, model(x + sign * step))) for sign in (1, -1))
        found[(slice(None), *place)] = (up - down) / 2e-2
    return found


def distiller(loss, large, small):
    made = distillation.Distiller(large, small, loss, student_loss_weight=0.0)
    made.compile(keras.optimizers.SGD(1.0), loss_of_labels())
    return made


def value(made, x, y):
    return made.evaluate(x, y, batch_size=len(x), verbose=0, return_dict=True)["loss"]


def test_it_compares_derivatives_by_the_images():
    large, small, (x, y) = smooth(5, "t", 1), smooth(3, "s", 2), images()
    apart = slopes(small, x, y) - slopes(large, x, y)
    expected = 0.7 / 2 * np.linalg.norm(apart.reshape(3, -1), axis=1).mean()
    found = value(distiller(distillation.GradientAttention(0.7), large, small), x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-2)


def test_it_compares_the_student_with_its_mirror_image():
    large, small, (x, y) = smooth(5, "t", 1), smooth(3, "s", 2), images()
    apart = slopes(small, x, y) - slopes(small, x[:, :, ::-1], y)[:, :, ::-1]
    expected = 0.7 / 2 * np.linalg.norm(apart.reshape(3, -1), axis=1).mean()
    found = value(distiller(distillation.GradientSymmetry(0.7), large, small), x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-2)


@pytest.mark.parametrize("kind", [distillation.GradientAttention, distillation.GradientSymmetry])
def test_the_step_follows_the_slope_of_the_loss(kind):
    large, small, (x, y) = smooth(5, "t", 1), smooth(3, "s", 2), images()
    made = distiller(kind(), large, small)
    before = small.get_weights()
    made.train_on_batch(x, y)
    steps = [one - other for one, other in zip(before, small.get_weights(), strict=True)]  # rate 1
    small.set_weights(before)
    rng = np.random.default_rng(0)
    direction = [rng.normal(size=w.shape).astype("float32") for w in before]
    expected = sum((step * d).sum() for step, d in zip(steps, direction, strict=True))
    values = []
    for sign in (1, -1):
        small.set_weights([w + sign * 1e-2 * d for w, d in zip(before, direction, strict=True)])
        values.append(value(made, x, y))
    np.testing.assert_allclose(expected, (values[0] - values[1]) / 2e-2, rtol=2e-2)


def test_equal_networks_have_no_loss_and_mirrored_kernels_no_asymmetry():
    model, (x, y) = smooth(3, "t", 1), images()
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    assert value(distiller(distillation.GradientAttention(), model, twin), x, y) < 1e-6
    kernel, *rest = twin.get_layer("t_conv").get_weights()
    twin.get_layer("t_conv").set_weights([kernel + kernel[:, ::-1], *rest])
    assert value(distiller(distillation.GradientSymmetry(), model, twin), x, y) < 1e-5


def test_a_mirrored_run_leaves_statistics_alone():
    large, small = network((6, 8), name="t", seed=1), network((3, 4), name="s", seed=2)
    plain = keras.models.clone_model(small)
    plain.set_weights(small.get_weights())
    x, y = data()
    for losses, model in (
        ([distillation.SoftTargets()], plain),
        ([distillation.SoftTargets(), distillation.GradientSymmetry(0.0)], small),
    ):
        distiller(losses, large, model).train_on_batch(x, y)
    for one, other in zip(plain.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [distillation.GradientAttention, distillation.DecoupledTargets])
def test_labels_are_wanted(kind):
    made = distillation.Distiller(smooth(5, "t", 1), smooth(3, "s", 2), kind(), student_loss_weight=0.0)
    made.compile("sgd", loss_of_labels())
    with pytest.raises(ValueError, match="wants labels"):
        made.fit(images()[0], verbose=0)


def test_pullback_differentiates_what_was_run_once():
    runs = []

    def square(values):
        runs.append(1)
        return [values["x"] ** 2], "aside"

    outputs, aside, pull = _gradients.pullback(square, {"x": keras.ops.array([1.0, 3.0])}, [])
    assert aside == "aside" and numpy(outputs[0]).tolist() == [1, 9]
    assert numpy(pull([keras.ops.array([1.0, 2.0])])["x"]).tolist() == [2, 12]
    assert len(runs) == 1
