"""Losses between features, against plain NumPy: attention, hints, similarities, relations, selectivity."""

import itertools

import keras
import numpy as np
import pytest
from distilling import numpy
from hypothesis import given
from hypothesis import strategies as st

from tfcompress import distillation
from tfcompress.distillation.maps import same_size

SEEDS = st.integers(0, 10**6)


def maps(seed, channels=(3, 5), batch=4, size=(2, 3)):
    rng = np.random.default_rng(seed)
    return [np.maximum(rng.normal(size=(batch, *size, c)), 0).astype("float32") + 0.01 for c in channels]


def of(loss, teacher, student):
    return numpy(loss([teacher], [student]))


def attention(values, p=2.0, pool=np.sum):
    flat = pool(np.abs(values.astype("float64")) ** p, axis=-1).reshape(len(values), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@given(SEEDS, st.sampled_from([1.0, 2.0, 4.0]), st.sampled_from(["sum", "max"]))
def test_attention_transfer_is_the_papers_formula_and_the_codes(seed, p, pool):
    teacher, student = maps(seed)
    apart = attention(student, p, getattr(np, pool)) - attention(teacher, p, getattr(np, pool))
    paper = distillation.AttentionTransfer("x", p=p, pool=pool, beta=0.3)
    code = distillation.AttentionTransfer("x", p=p, pool=pool, beta=7.0, form="code")
    np.testing.assert_allclose(
        of(paper, teacher, student), 0.15 * np.linalg.norm(apart, axis=1), rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(of(code, teacher, student), 7 * (apart**2).mean(axis=1), rtol=1e-3, atol=1e-6)


@given(SEEDS, st.sampled_from([1e-6, 0.3, 1e4]), st.integers(1, 3))
def test_attention_ignores_scale_and_repeated_channels(seed, scale, copies):
    teacher, student = maps(seed)
    loss = distillation.AttentionTransfer("x", beta=1.0)
    changed = np.tile(teacher, copies) * np.float32(scale)
    np.testing.assert_allclose(of(loss, changed, student), of(loss, teacher, student), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of(loss, teacher, changed), 0, atol=1e-6)


def test_attention_of_equal_or_empty_maps_has_a_finite_slope():
    from tfcompress._gradients import gradients

    teacher, _ = maps(0)
    teacher[1] = 0
    for form in ("paper", "code"):
        loss = distillation.AttentionTransfer("x", form=form)

        def total(values, loss=loss):
            return keras.ops.sum(loss([teacher], [values["s"]])), keras.ops.zeros(())

        for student in (teacher, np.zeros_like(teacher)):
            _, slopes = gradients(total, {"s": keras.ops.convert_to_tensor(student)})
            assert np.isfinite(numpy(slopes["s"])).all()
    assert of(loss, teacher, teacher).max() == 0


@given(SEEDS, st.integers(1, 7), st.integers(1, 7))
def test_larger_maps_are_averaged_over_windows(seed, have, want):
    rng = np.random.default_rng(seed)
    large, small = rng.normal(size=(2, have, 4, 3)), rng.normal(size=(2, want, 4, 5))
    one, other = (numpy(found) for found in same_size(large, small))
    fewer = min(have, want)
    assert one.shape[1] == other.shape[1] == fewer
    pooled, source = (one, large) if have > want else (other, small)
    for i in range(fewer if have != want else 0):
        window = slice(i * source.shape[1] // fewer, -(-(i + 1) * source.shape[1] // fewer))
        np.testing.assert_allclose(pooled[:, i], source[:, window].mean(axis=1), rtol=1e-5, atol=1e-6)


@given(SEEDS)
def test_hints_are_half_the_mean_square_behind_the_adapter(seed):
    teacher, student = maps(seed)
    loss = distillation.Hints("x")
    loss.build([teacher.shape], [student.shape])
    (adapter,) = loss.adapters
    kernel, bias = adapter.get_weights()
    expected = 0.5 * ((teacher - student @ kernel - bias) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(of(loss, teacher, student), expected, rtol=1e-4)


def test_hints_have_no_adapter_between_equal_widths_unless_asked():
    for adapt, weights in ((False, 0), (True, 2)):
        loss = distillation.Hints("x", adapt=adapt)
        loss.build([(None, 4)], [(None, 4)])
        assert len(loss.trainable_variables) == weights


def normalized(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@given(SEEDS)
def test_similarities_are_those_of_examples(seed):
    teacher, student = maps(seed)
    ones, others = (
        normalized((flat := m.reshape(4, -1).astype("float64")) @ flat.T) for m in (teacher, student)
    )
    found = of(distillation.SimilarityPreserving("x"), teacher, student)
    np.testing.assert_allclose(found.mean(), ((ones - others) ** 2).sum() / 16, rtol=1e-3, atol=1e-9)


def huber(x):
    return np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5)


@given(SEEDS)
def test_relational_distances_are_those_of_pairs(seed):
    def distances(m):
        flat = m.reshape(len(m), -1).astype("float64")
        found = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
        return found / found[found > 0].mean()

    teacher, student = maps(seed)
    expected = huber(distances(student) - distances(teacher)).mean()
    found = of(distillation.RelationalDistance("x"), teacher, student)
    np.testing.assert_allclose(found.mean(), expected, rtol=1e-3, atol=1e-7)


@given(SEEDS)
def test_relational_angles_are_those_of_triples(seed):
    def cosines(m):
        flat = m.reshape(len(m), -1).astype("float64")
        found = np.zeros((4, 4, 4))
        for i, j, k in itertools.product(range(4), repeat=3):
            a, b = flat[i] - flat[j], flat[k] - flat[j]
            if a.any() and b.any():
                found[i, j, k] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        return found

    teacher, student = maps(seed)
    expected = huber(cosines(student) - cosines(teacher)).mean()
    found = of(distillation.RelationalAngle("x"), teacher, student)
    np.testing.assert_allclose(found.mean(), expected, rtol=1e-3, atol=1e-6)


@given(SEEDS)
def test_neuron_selectivity_is_the_discrepancy_of_channels(seed):
    teacher, student = maps(seed)

    def discrepancy(one, other):
        x, y = (normalized(m.reshape(-1, m.shape[-1]).T.astype("float64")) for m in (one, other))
        return ((x @ x.T) ** 2).mean() + ((y @ y.T) ** 2).mean() - 2 * ((x @ y.T) ** 2).mean()

    expected = [discrepancy(*pair) for pair in zip(teacher, student, strict=True)]
    found = of(distillation.NeuronSelectivity("x"), teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


FEATURE_LOSSES = [
    distillation.AttentionTransfer,
    distillation.Hints,
    distillation.SimilarityPreserving,
    distillation.RelationalDistance,
    distillation.RelationalAngle,
    distillation.NeuronSelectivity,
]


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_what_equals_the_teacher_has_no_loss(kind):
    teacher, _ = maps(1)
    np.testing.assert_allclose(of(kind("x"), teacher, teacher), 0, atol=1e-6)


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_several_pairs_add_up(kind):
    (a, b), (c, d) = maps(1, (4, 4)), maps(2, (4, 4))
    both = numpy(kind("x")([a, c], [b, d]))
    np.testing.assert_allclose(both, of(kind("x"), a, b) + of(kind("x"), c, d), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_a_loss_is_made_again_from_its_config(kind):
    loss = kind(["a", "b.*"], "c", name="mine")
    assert kind.from_config(loss.get_config()).get_config() == loss.get_config()


@pytest.mark.parametrize("kind", [distillation.AttentionTransfer, distillation.NeuronSelectivity])
def test_what_has_no_positions_is_refused(kind):
    with pytest.raises(ValueError, match="has no positions"):
        kind("x").build([(None, 4)], [(None, 4)])


def test_other_sizes_are_said():
    loss = distillation.AttentionTransfer("x")
    with pytest.warns(UserWarning, match=r"maps of \(8, 8\) of the teacher with maps of \(4, 4\)"):
        loss.build([(None, 8, 8, 3)], [(None, 4, 4, 2)])
    with pytest.raises(ValueError, match="as many axes"):
        distillation.Hints("x").build([(None, 8, 8, 3)], [(None, 3)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"p": 0}, "p must be"), ({"pool": "mean"}, "Unknown pool"), ({"form": "papr"}, "Did you mean 'paper'")],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        distillation.AttentionTransfer("x", **arguments)
