"""What was made for Keras's own Distiller works in ours, and without its defects."""

import keras
import numpy as np
import pytest
from distilling import data, loss_of_labels, network, numpy, student, teacher

from tfcompress import distillation
from tfcompress.distillation import Distiller

LOGITS, FEATURES = keras.distillation.LogitsDistillation, keras.distillation.FeatureDistillation
DIVERGENCE = keras.losses.KLDivergence


@keras.saving.register_keras_serializable("test_keras_losses")
class Own(keras.distillation.DistillationLoss):
    """One that a user wrote for Keras."""

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return keras.ops.mean(keras.ops.abs(teacher_outputs - student_outputs))

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


# Keras forgets that its default, the name "kl_divergence", is a divergence of probabilities.
LOSSES = {
    "logits": lambda: LOGITS(3.0, loss=DIVERGENCE()),
    "other logits": lambda: LOGITS(2.0, loss="mse"),
    "outputs": lambda: FEATURES("mse"),
    "features": lambda: FEATURES("mae", teacher_layer_name="t_pool", student_layer_name="s_pool"),
    "cosine": lambda: FEATURES(keras.losses.CosineSimilarity(), "t_relu0", "s_relu0"),
    "own": lambda: Own(),
}


def pair():
    return network((6, 8), name="t", seed=1), network((6, 8), name="s", seed=2)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_that_of_keras(name):
    x, y = data()
    found = []
    for kind in (Distiller, keras.distillation.Distiller):
        large, small = pair()
        small.trainable = False  # Keras's evaluate trains the student's statistics
        made = kind(large, small, LOSSES[name](), student_loss_weight=0.3)
        made.compile("sgd", loss_of_labels())
        found.append(made.evaluate(x, y, batch_size=12, verbose=0, return_dict=True))
    np.testing.assert_allclose(found[0]["distillation_loss"], found[1]["distillation_loss"], rtol=1e-4)
    np.testing.assert_allclose(found[0]["student_loss"], found[1]["student_loss"], rtol=1e-5)
    np.testing.assert_allclose(found[0]["loss"], found[1]["total_loss"], rtol=1e-4)


def test_the_default_divergence_is_one_of_probabilities():
    (ours,) = Distiller(teacher(), student(), LOGITS(3.0)).distillation_losses
    assert isinstance(ours, distillation.SoftTargets) and ours.temperature == 3.0


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "own"])
def test_weights_of_examples_count(name):
    x, y = data()
    large, small = pair()
    made = Distiller(large, small, LOSSES[name](), student_loss_weight=0.0)
    made.compile("sgd", loss_of_labels())
    each = [
        made.evaluate(x[i : i + 1], y[i : i + 1], verbose=0, return_dict=True)["loss"] for i in range(len(x))
    ]
    weights = np.random.default_rng(0).uniform(0, 2, len(x))
    found = made.evaluate(x, y, sample_weight=weights, batch_size=12, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(found, np.mean(each * weights), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["logits", "features", "own"])
def test_they_are_saved_with_the_distiller(name, tmp_path):
    large, small = pair()
    made = Distiller(large, small, LOSSES[name]())
    made.compile("sgd", loss_of_labels())
    made.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras").attach(large)
    x, y = data()
    assert made.evaluate(x, y, verbose=0) == pytest.approx(again.evaluate(x, y, verbose=0))


def test_a_layer_of_the_teacher_alone_is_compared_with_the_students_outputs():
    x, y = data()
    large, small = pair()
    made = Distiller(large, small, FEATURES("mse", teacher_layer_name="t_head"), student_loss_weight=0.0)
    made.compile("sgd", loss_of_labels())
    expected = ((numpy(large(x)) - numpy(small(x))) ** 2).mean()
    np.testing.assert_allclose(
        made.evaluate(x, y, batch_size=12, verbose=0, return_dict=True)["loss"], expected, 1e-5
    )


def test_unknown_layers_are_near_misses():
    with pytest.raises(ValueError, match="Did you mean 't_pool'"):
        Distiller(teacher(), student(), FEATURES("mse", teacher_layer_name="t_poll"))
