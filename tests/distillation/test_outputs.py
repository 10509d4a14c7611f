"""Losses between outputs: Hinton's soft targets and decoupled ones, whatever the networks end in."""

import keras
import numpy as np
import pytest
from distilling import numpy
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from tfcompress import distillation
from tfcompress._gradients import gradients
from tfcompress.distillation.heads import head_of

SEEDS = st.integers(0, 10**6)
TEMPERATURES = st.sampled_from([0.5, 1.0, 4.0, 20.0])


def logits(seed, count=2, classes=5, batch=6):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 2, (batch, classes)).astype("float32") for _ in range(count)]


def declared(loss, teachers=("linear",), student="linear", classes=5):
    loss.declare([[kind] for kind in teachers], [student], [classes])
    return loss


def of(loss, teachers, student, labels=None):
    return numpy(loss.of_ensemble([[one] for one in teachers], [student], labels))


@given(SEEDS, TEMPERATURES)
def test_soft_targets_are_the_scaled_divergence(seed, temperature):
    v, z = logits(seed)
    p, q = (softmax(one.astype("float64") / temperature, axis=1) for one in (v, z))
    expected = temperature**2 * (p * np.log(p / q)).sum(axis=1)
    loss = declared(distillation.SoftTargets(temperature))
    np.testing.assert_allclose(of(loss, [v], z), expected, rtol=1e-3, atol=1e-5)


@given(SEEDS, TEMPERATURES, st.floats(-5, 5))
def test_soft_targets_are_zero_for_equal_logits_up_to_a_constant(seed, temperature, constant):
    v, _ = logits(seed)
    loss = declared(distillation.SoftTargets(temperature))
    np.testing.assert_allclose(of(loss, [v], v), 0, atol=1e-4)
    np.testing.assert_allclose(of(loss, [v], v + np.float32(constant)), 0, atol=1e-3)


@given(SEEDS, TEMPERATURES)
def test_the_gradient_is_the_difference_of_probabilities(seed, temperature):
    v, z = logits(seed)
    loss = declared(distillation.SoftTargets(temperature))
    found = slopes(loss, v, z)
    expected = temperature * (softmax(z / temperature, axis=1) - softmax(v / temperature, axis=1)) / len(v)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def slopes(loss, v, z):
    """Of the mean loss, by the student's logits."""

    def mean(values):
        return keras.ops.mean(loss.of_ensemble([[v]], [values["z"]], None)), keras.ops.zeros(())

    return numpy(gradients(mean, {"z": keras.ops.convert_to_tensor(z)})[1]["z"])


@given(SEEDS)
def test_gradients_at_high_temperatures_do_not_depend_on_it(seed):
    v, z = logits(seed)
    hot, hotter = (slopes(declared(distillation.SoftTargets(t)), v, z) for t in (200.0, 1000.0))
    np.testing.assert_allclose(hot, hotter, atol=0.03 * np.abs(hotter).max())
    centered = (z - z.mean(axis=1, keepdims=True)) - (v - v.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(hotter, centered / centered.size, atol=0.01 * np.abs(hotter).max())


@given(SEEDS, TEMPERATURES, st.booleans(), st.booleans())
def test_probabilities_count_as_the_logits_they_come_from(seed, temperature, of_teacher, of_student):
    v, z = logits(seed)
    expected = of(declared(distillation.SoftTargets(temperature)), [v], z)
    kinds = ["softmax" if probabilities else "linear" for probabilities in (of_teacher, of_student)]
    loss = declared(distillation.SoftTargets(temperature), kinds[:1], kinds[1])
    found = of(loss, [softmax(v, axis=1) if of_teacher else v], softmax(z, axis=1) if of_student else z)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@given(SEEDS, TEMPERATURES)
def test_an_ensemble_is_the_mean_of_its_probabilities(seed, temperature):
    *v, z = logits(seed, count=4)
    p = np.mean([softmax(one.astype("float64") / temperature, axis=1) for one in v], axis=0)
    q = softmax(z.astype("float64") / temperature, axis=1)
    loss = declared(distillation.SoftTargets(temperature), ["linear"] * 3)
    expected = temperature**2 * (p * np.log(p / q)).sum(axis=1)
    np.testing.assert_allclose(of(loss, v, z), expected, rtol=1e-3, atol=1e-4)


@given(SEEDS, TEMPERATURES, st.booleans())
def test_sigmoids_are_compared_unit_by_unit(seed, temperature, as_probabilities):
    *v, z = logits(seed, count=3)
    p = np.mean([expit(one.astype("float64") / temperature) for one in v], axis=0)
    q = expit(z.astype("float64") / temperature)
    expected = temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(axis=1)
    kind = "sigmoid" if as_probabilities else "linear"
    loss = declared(distillation.SoftTargets(temperature, activation="sigmoid"), [kind, kind], kind)
    given_ = [expit(one) if as_probabilities else one for one in (*v, z)]
    np.testing.assert_allclose(of(loss, given_[:2], given_[2]), expected, rtol=2e-2, atol=1e-3)


def test_a_single_unit_is_a_coin():
    loss = declared(distillation.SoftTargets(1.0), classes=1)
    found = of(loss, [np.float32([[2.0]])], np.float32([[-1.0]]))
    p, q = expit(2.0), expit(-1.0)
    np.testing.assert_allclose(found, [p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))], rtol=1e-5)


@given(SEEDS, TEMPERATURES, st.sampled_from(["numbers", "column", "one_hot"]))
def test_decoupled_targets_make_up_hintons(seed, temperature, form):
    v, z = logits(seed)
    right = np.random.default_rng(seed).integers(0, 5, len(v))
    labels = {"numbers": right, "column": right[:, None], "one_hot": np.eye(5, dtype="float32")[right]}[form]
    whole = of(declared(distillation.SoftTargets(temperature)), [v], z)
    right_class, others = (
        of(declared(distillation.DecoupledTargets(temperature, *weights)), [v], z, [labels])
        for weights in ((1.0, 0.0), (0.0, 1.0))
    )
    wrong = 1 - softmax(v / temperature, axis=1)[np.arange(len(v)), right]
    np.testing.assert_allclose(right_class + wrong * others, whole, rtol=1e-3, atol=1e-4)


def test_maps_of_classes_are_averaged_over_positions():
    v, z = logits(0, batch=12)
    flat = of(declared(distillation.SoftTargets(2.0)), [v], z)
    maps = of(declared(distillation.SoftTargets(2.0)), [v.reshape(2, 2, 3, 5)], z.reshape(2, 2, 3, 5))
    np.testing.assert_allclose(maps, flat.reshape(2, 6).mean(axis=1), rtol=1e-5)


class Own(keras.layers.Layer):
    def call(self, x):
        return keras.ops.softmax(x)


def ends_in(*layers_):
    x = i = keras.Input((6,))
    for layer in layers_:
        x = layer(x)
    return keras.Model(i, x)


DENSE, RESHAPE = keras.layers.Dense, keras.layers.Reshape


@pytest.mark.parametrize(
    ("last", "expected"),
    {
        "dense": ([lambda: DENSE(3)], "linear"),
        "softmax": ([lambda: DENSE(3, activation="softmax")], "softmax"),
        "sigmoid": ([lambda: DENSE(1, activation="sigmoid")], "sigmoid"),
        "activation": ([lambda: DENSE(3), lambda: keras.layers.Activation("softmax")], "softmax"),
        "softmax layer": ([lambda: DENSE(3), keras.layers.Softmax], "softmax"),
        "operation": ([lambda: DENSE(3), lambda: keras.ops.softmax], "softmax"),
        "moved": ([lambda: DENSE(3, "softmax"), lambda: RESHAPE((1, 3)), keras.layers.Flatten], "softmax"),
        "nested": ([lambda: ends_in(DENSE(3, activation="softmax"))], "softmax"),
        "mixed precision": (
            [lambda: DENSE(3, "softmax"), lambda: keras.layers.Activation("linear")],
            "softmax",
        ),
        "relu": ([lambda: DENSE(3), keras.layers.ReLU], "linear"),
        "own layer": ([lambda: DENSE(3), Own], None),
        "own function": ([lambda: DENSE(3, activation=lambda x: keras.ops.softmax(x))], None),
    }.values(),
)
def test_the_last_layer_tells_what_outputs_are(last, expected):
    assert head_of(ends_in(*[make() for make in last])) == [expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"temperature": -1.0}, "temperature must be a number above 0"),
        ({"temperature": "hot"}, "temperature must be a number above 0"),
        ({"temperature": float("nan")}, "temperature must be a number above 0"),
        ({"activation": "relu"}, "Unknown activation"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        distillation.SoftTargets(**arguments)


def test_what_nobody_can_tell_must_be_said():
    with pytest.raises(ValueError, match="Say student_from_logits=True or False"):
        distillation.SoftTargets().declare([["softmax"]], [None], [3])
    distillation.SoftTargets(student_from_logits=False).declare([["softmax"]], [None], [3])


@pytest.mark.parametrize("kind", [distillation.SoftTargets, distillation.DecoupledTargets])
def test_a_loss_is_made_again_from_its_config(kind):
    loss = kind(3.0, activation="softmax", outputs=["a"], teacher_from_logits=True, name="mine")
    assert kind.from_config(loss.get_config()).get_config() == loss.get_config()
