"""Neurons worth learning from: the energy, its minimisation against brute force, and the loss."""

import itertools

import keras
import numpy as np
import pytest
from distilling import data, loss_of_labels, network, numpy
from hypothesis import given
from hypothesis import strategies as st

from tfcompress import distillation
from tfcompress.distillation import neuron_selection
from tfcompress.distillation.neuron_selection import absolute_correlation, energy, minimize, separation

SEEDS = st.integers(0, 10**6)


def problem(seed, width):
    rng = np.random.default_rng(seed)
    pairs = np.abs(rng.normal(size=(width, width)))
    pairs = (pairs + pairs.T) * (1 - np.eye(width))
    return rng.normal(-0.5, 1, width), pairs * rng.choice([0.02, 0.2, 1.0])


def brute_force(unary, pairs, count=None):
    masks = np.array(list(itertools.product([False, True], repeat=len(unary))))
    masks = masks[masks.sum(axis=1) == count if count else masks.any(axis=1)]
    energies = masks @ unary + np.einsum("mi,ij,mj->m", masks, pairs, masks) / 2
    return energies.min(), energies.mean()


@given(SEEDS, st.integers(2, 11), st.sampled_from([None, 1, 2]))
def test_the_search_comes_near_the_best_of_all_selections(seed, width, count):
    unary, pairs = problem(seed, width)
    best, mean = brute_force(unary, pairs, count)
    chosen = minimize(unary, pairs, count)
    found = energy(unary, pairs, chosen)
    assert chosen.sum() == (count or max(1, chosen.sum()))
    assert best - 1e-9 <= found <= best + 0.1 * (mean - best) + 1e-9


@given(SEEDS, st.integers(2, 30), st.sampled_from([None, 2]))
def test_the_energy_never_rises(seed, width, count):
    unary, pairs = problem(seed, width)
    chosen = np.zeros(width, bool)
    history = []
    while (
        change := neuron_selection._best_step(unary, pairs, chosen, free=True) if chosen.any() else (0, [0])
    ):
        chosen[change[1]] ^= True
        history.append(energy(unary, pairs, chosen))
    assert (np.diff(history) < 0).all()


@given(SEEDS)
def test_without_correlation_each_neuron_stands_for_itself(seed):
    unary, pairs = problem(seed, 9)
    chosen = minimize(unary, 0 * pairs)
    expected = unary < 0
    expected[unary.argmin()] = True
    np.testing.assert_array_equal(chosen, expected)
    np.testing.assert_array_equal(np.flatnonzero(minimize(unary, 0 * pairs, 3)), np.sort(unary.argsort()[:3]))


def test_a_repeated_neuron_is_chosen_once():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 200)
    one = label + 0.1 * rng.normal(size=200)
    features = np.stack([one, one, rng.normal(size=200), one], axis=1)
    unary = 0.5 - separation(features, label[:, None].astype(float))
    chosen = minimize(unary, 5.0 * absolute_correlation(features))
    assert chosen[[0, 1, 3]].sum() == 1


@given(SEEDS)
def test_separation_is_the_share_of_pairs_in_order(seed):
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 4, (12, 3)).astype(float)
    attributes = np.stack([rng.permutation([0] * 5 + [1] * 7), rng.permutation([0] * 9 + [1] * 3)], axis=1)
    expected = np.zeros((2, 3))
    for a, n in itertools.product(range(2), range(3)):
        ones, others = features[attributes[:, a] == 1, n], features[attributes[:, a] == 0, n]
        area = np.mean([(x > y) + 0.5 * (x == y) for x in ones for y in others])
        expected[a, n] = max(area, 1 - area)
    np.testing.assert_allclose(separation(features, attributes.astype(float)), expected.max(axis=0))


def selected(**arguments):
    model = network((6, 8), name="t")
    x, y = data(60)
    return model, distillation.select_neurons(model, "t_relu1", (x, y), **arguments)


def test_neurons_that_never_fire_are_not_selected():
    model = network((6, 8), name="t")
    normalization = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)][1]
    gamma, beta, *rest = normalization.get_weights()
    beta[[2, 5]] = -100
    normalization.set_weights([gamma, beta, *rest])
    found = distillation.select_neurons(model, "t_relu1", data(60), strength=0.0)
    assert not {2, 5} & set(found.neurons) and np.isinf(found.unary[[2, 5]]).all()
    with pytest.raises(ValueError, match="from 1 to 6"):
        distillation.select_neurons(model, "t_relu1", data(60), count=7)


def test_attributes_that_do_not_matter_repel():
    model, (x, y) = network((6, 8), name="t"), data(60)
    wanted, unwanted = (y == 0).astype(int), (y == 1).astype(int)
    one, other = (
        distillation.select_neurons(
            model, "t_pool", x, attributes=wanted, other_attributes=unwanted, aversion=a
        )
        for a in (0.0, 3.0)
    )
    assert (other.unary >= one.unary).all()
    assert not np.array_equal(one.unary, other.unary)


@pytest.mark.parametrize("width", [8, 3])
def test_the_loss_is_half_the_squared_distance_to_the_selected(width):
    model, found = selected(count=3)
    student = network((3, width), name="s")
    loss = found.loss("s_pool")
    made = distillation.Distiller(model, student, loss, student_loss_weight=0.0)
    made.compile(keras.optimizers.SGD(0.05), loss_of_labels())
    x, y = data(12)
    found_loss = made.evaluate(x, y, batch_size=12, verbose=0, return_dict=True)["loss"]
    teaching = numpy(keras.Model(model.input, model.get_layer("t_pool").output)(x))[:, list(found.neurons)]
    learning = numpy(keras.Model(student.input, student.get_layer("s_pool").output)(x))
    if width != 3:
        kernel, bias = loss.get_weights()
        learning = learning @ kernel + bias
    expected = 0.5 * (((teaching - found.mean) / found.deviation - learning) ** 2).sum(axis=1).mean()
    np.testing.assert_allclose(found_loss, expected, rtol=1e-4)
    assert len(loss.trainable_variables) == (0 if width == 3 else 2)


def test_a_student_that_says_the_same_has_no_loss():
    _, found = selected(count=3)
    loss = distillation.SelectedNeurons("x", found.neurons)
    said = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    loss.build([(None, 8)], [(None, 3)])
    np.testing.assert_allclose(numpy(loss.compare(said, said[:, list(found.neurons)])), 0, atol=1e-6)
    again = type(loss).from_config(loss.get_config())
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": -1}, "strength must be"),
        ({"aversion": "x"}, "aversion must be"),
        ({"count": 0}, "count must be"),
        ({"attributes": np.ones((60, 2))}, "the same in all images"),
        ({"attributes": np.ones((5, 2))}, "must be 60 rows"),
        ({"attributes": np.full((60, 1), 0.5)}, "of 0 and 1"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        selected(**arguments)


def test_labels_that_are_missing_are_said():
    model, (x, y) = network(name="t"), data()
    with pytest.raises(ValueError, match="labels"):
        distillation.select_neurons(model, "t_pool", x)
    with pytest.raises(ValueError, match="all images are of class"):
        distillation.select_neurons(model, "t_pool", (x, 0 * y))
    with pytest.raises(ValueError, match="Unknown layer"):
        distillation.select_neurons(model, "pol", (x, y))
