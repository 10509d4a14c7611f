"""The Distiller: one run of the student per step, nothing lost, nothing left behind."""

import zipfile

import keras
import numpy as np
import pytest
from distilling import (
    EVERY,
    REMEMBERED,
    assert_equal,
    counting,
    data,
    loss_of_labels,
    network,
    numpy,
    student,
    teacher,
    weights,
)
from keras import layers

import tfcompress
from tfcompress import distillation
from tfcompress.distillation import Distiller, SoftTargets


def distiller(losses=None, small=None, large=None, head="linear", **arguments):
    losses = SoftTargets() if losses is None else losses
    made = Distiller(large or teacher(), small or student(), losses, **arguments)
    made.compile(keras.optimizers.SGD(0.05), loss_of_labels(head), metrics=["accuracy"])
    return made


@pytest.mark.parametrize("name", EVERY)
def test_every_loss_trains_the_student_and_falls(name):
    made = distiller([EVERY[name]()], student_loss_weight=0.0)
    x, y = data(32)
    before, history = weights(made.student), made.fit(x, y, epochs=8, verbose=0, shuffle=False).history
    assert history["distillation_loss"][-1] < history["distillation_loss"][0]
    assert any((one != other).any() for one, other in zip(before, weights(made.student), strict=True))


def test_the_teacher_is_not_changed():
    large = teacher()
    before = weights(large)
    distiller([make() for make in EVERY.values()], large=large).fit(*data(), verbose=0)
    assert_equal(before, weights(large))
    assert large.trainable


def test_the_student_and_the_teacher_run_once_per_step_however_many_losses():
    small, large = counting(student()), counting(teacher())
    losses = [
        make()
        for name, make in EVERY.items()
        if name in ("soft_targets", "decoupled", "attention", "gradients")
    ]
    losses.append(distillation.Hints(".*/t_relu1", ".*/s_relu1"))
    made = distiller(losses, small, large)
    made.fit(*data(12), batch_size=4, epochs=2, verbose=0)
    counts = {
        model: [float(w) for w in model.get_layer("counting").get_weights()] for model in (small, large)
    }
    assert counts[small] == [6, 0]
    assert counts[large] == [0, 6 * REMEMBERED]


def test_evaluating_and_predicting_leave_everything_alone():
    made = distiller([make() for make in EVERY.values()])
    x, y = data()
    made.fit(x, y, verbose=0)
    state = weights(made), weights(made.student), [numpy(v) for v in made.optimizer.variables]
    results = made.evaluate(x, y, verbose=0, return_dict=True)
    outputs = made.predict(x, verbose=0)
    for before, after in zip(
        state,
        (weights(made), weights(made.student), [numpy(v) for v in made.optimizer.variables]),
        strict=True,
    ):
        assert_equal(before, after)
    assert results == made.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_array_equal(outputs, made.student.predict(x, verbose=0))


def test_without_weight_of_the_others_it_is_plain_training():
    x, y = data(16)
    plain, small = student(), student()
    plain.compile(keras.optimizers.SGD(0.05), loss_of_labels())
    made = distiller(small=small, student_loss_weight=1.0)
    ones, others = (
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"]
        for model in (plain, made)
    )
    np.testing.assert_allclose(ones, others, rtol=1e-6)
    for one, other in zip(weights(plain), weights(small), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def by_hand(made, x, y, share):
    """Of Hinton's distillation, in evaluation."""
    z, v = (numpy(model(x)) for model in (made.student, made.teacher))
    values = loss_of_labels().call(y, z)
    loss = SoftTargets()
    loss.declare([["linear"]], ["linear"], [4])
    return share * numpy(values), (1 - share) * numpy(loss.of_ensemble([[v]], [z], None))


def test_regularization_counts_once_and_whole():
    made = distiller(small=student(regularizer=keras.regularizers.L2(0.1)), student_loss_weight=0.3)
    x, y = data()
    labels, soft = by_hand(made, x, y, 0.3)
    found = made.evaluate(x, y, batch_size=12, verbose=0, return_dict=True)
    regular = float(sum(made.student.losses))
    assert regular > 0.01
    np.testing.assert_allclose(found["loss"], labels.mean() + soft.mean() + regular, rtol=1e-5)
    np.testing.assert_allclose(found["student_loss"], labels.mean() / 0.3, rtol=1e-5)
    np.testing.assert_allclose(found["distillation_loss"], soft.mean() / 0.7, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sample_weight", "class_weight"])
def test_weights_of_examples_count_in_all_losses(kind):
    made = distiller(student_loss_weight=0.3)
    x, y = data()
    given = np.random.default_rng(0).uniform(0, 2, 12).astype("float32")
    by_class = {0: 0.5, 1: 2.0, 2: 0.0, 3: 1.5}
    chosen = given if kind == "sample_weight" else np.array([by_class[label] for label in y])
    expected = float((sum(by_hand(made, x, y, 0.3)) * chosen).mean())
    argument = given if kind == "sample_weight" else by_class
    made.compile(keras.optimizers.SGD(0.0), loss_of_labels())
    for layer in made.student.layers:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    found = made.fit(x, y, batch_size=12, verbose=0, **{kind: argument}).history["loss"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def two_headed(name, width, *, as_dict):
    x = i = keras.Input((6,))
    x = layers.Dense(width, "relu", name=f"{name}_body")(x)
    heads = {"a": layers.Dense(3, name="a")(x), "b": layers.Dense(1, activation="sigmoid", name="b")(x)}
    return keras.Model(i, heads if as_dict else list(heads.values()))


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("outputs", [None, ["a"]])
def test_several_outputs(as_dict, outputs):
    large, small = two_headed("t", 8, as_dict=as_dict), two_headed("s", 3, as_dict=as_dict)
    made = Distiller(large, small, SoftTargets(outputs=outputs), student_loss_weight=0.5)
    of_labels = {
        "a": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "b": "binary_crossentropy",
    }
    made.compile("sgd", of_labels if as_dict else list(of_labels.values()))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 6)).astype("float32")
    y = {"a": rng.integers(0, 3, 10), "b": rng.integers(0, 2, (10, 1)).astype("float32")}
    y = y if as_dict else list(y.values())
    found = made.evaluate(x, y, batch_size=10, verbose=0, return_dict=True)
    (va, vb), (za, zb) = ([numpy(t) for t in keras.tree.flatten(model(x))] for model in (large, small))
    a, b = SoftTargets(), SoftTargets()
    a.declare([["linear"]], ["linear"], [3])
    b.declare([["sigmoid"]], ["sigmoid"], [1])
    expected = numpy(a.of_ensemble([[va]], [za], None))
    expected = expected + (numpy(b.of_ensemble([[vb]], [zb], None)) if outputs is None else 0)
    np.testing.assert_allclose(found["distillation_loss"], expected.mean(), rtol=1e-4)
    made.fit(x, y, verbose=0)
    assert keras.tree.map_structure(np.shape, made.predict(x, verbose=0)) == keras.tree.map_structure(
        np.shape, small.predict(x, verbose=0)
    )


@pytest.mark.parametrize("heads", [("softmax", "linear"), ("linear", "softmax"), ("softmax", "softmax")])
def test_logits_and_probabilities_mix(heads):
    found = [
        distiller(large=teacher(head=one), small=student(head=other), head=other).evaluate(
            *data(), batch_size=12, verbose=0, return_dict=True
        )["distillation_loss"]
        for one, other in (("linear", "linear"), heads)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_an_ensemble_teaches():
    large = [network((6, 8), name="t", seed=seed) for seed in (1, 5)]
    made = distiller([SoftTargets(), distillation.Hints("t_relu1", "s_relu1")], large=large)
    made.fit(*data(), verbose=0)
    x, _ = data()
    mean = sum(numpy(model(x)) for model in large) / 2
    np.testing.assert_allclose(numpy(made.teacher(x)), mean, rtol=1e-5)


def test_a_weight_may_follow_a_schedule():
    falling = keras.optimizers.schedules.PiecewiseConstantDecay([2], [1.0, 0.0])
    made = distiller(student_loss_weight=0.0, distillation_weight=falling)
    x, y = data()
    losses = [made.train_on_batch(x, y, return_dict=True)["loss"] for _ in range(5)]
    assert losses[0] > 0 and losses[2] > 0 and made.step == 5
    made.reset_metrics()
    assert made.evaluate(x, y, verbose=0, return_dict=True)["loss"] == 0


def test_unlabelled_images_are_enough_without_a_loss_by_labels():
    made = Distiller(teacher(), student(), SoftTargets(), student_loss_weight=0.0)
    made.compile("sgd")
    history = made.fit(data(24)[0], epochs=6, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_a_file_holds_the_student_and_not_the_teacher(tmp_path):
    made = distiller([SoftTargets(2.0), distillation.Hints("t_relu1", "s_relu1")], student_loss_weight=0.2)
    x, y = data()
    made.fit(x, y, verbose=0)
    made.save(tmp_path / "d.keras")
    with zipfile.ZipFile(tmp_path / "d.keras") as file:
        assert b"t_relu1" not in b"".join(file.read(name) for name in file.namelist() if "weights" in name)
        assert b'"t_head"' not in file.read("config.json")
    again = keras.saving.load_model(tmp_path / "d.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), made.student.predict(x, verbose=0))
    assert again.teacher is None
    with pytest.raises(ValueError, match="attach"):
        again.fit(x, y, verbose=0)
    again.attach(teacher())
    assert made.evaluate(x, y, verbose=0) == pytest.approx(again.evaluate(x, y, verbose=0))
    one, other = (model.train_on_batch(x, y) for model in (made, again))
    assert one == pytest.approx(other)
    assert_equal(weights(made), weights(again))


def test_the_dtype_is_in_the_file_too(tmp_path):
    made = distiller(dtype="mixed_bfloat16")
    made.save(tmp_path / "d.keras")
    assert keras.saving.load_model(tmp_path / "d.keras").dtype_policy.name == "mixed_bfloat16"


def test_the_student_is_a_plain_model(tmp_path):
    made = distiller([make() for make in EVERY.values()])
    made.fit(*data(), verbose=0)
    assert (
        len(made.trainable_variables)
        > len(made.student.trainable_variables)
        == len(student().trainable_variables)
    )
    made.student.save(tmp_path / "s.keras")
    assert "tfcompress" not in zipfile.ZipFile(tmp_path / "s.keras").read("config.json").decode()


def test_it_goes_on_after_an_interruption(tmp_path):
    x, y = data(16)
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 8, 0.0)

    def run(epochs, stop=None):
        made = distiller(
            [SoftTargets(), distillation.Hints("t_relu1", "s_relu1")], distillation_weight=schedule
        )
        backup = keras.callbacks.BackupAndRestore(tmp_path / f"backup{stop}")
        stopping = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: 1 / (epoch != stop))
        try:
            made.fit(
                x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[backup, stopping]
            )
        except ZeroDivisionError:
            made = distiller(
                [SoftTargets(), distillation.Hints("t_relu1", "s_relu1")], distillation_weight=schedule
            )
            made.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[backup])
        return made

    whole, interrupted = run(3), run(3, stop=2)
    assert whole.step == interrupted.step == 12
    for one, other in zip(weights(whole), weights(interrupted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}, {"steps_per_execution": 3}],
)
def test_all_ways_of_compiling_agree(arguments):
    if keras.backend.backend() != "tensorflow" and "run_eagerly" in arguments:
        pytest.skip("of TensorFlow")
    histories = []
    for given in ({"jit_compile": False}, arguments):
        made = distiller(
            [make() for name, make in EVERY.items() if name in ("soft_targets", "hints", "gradients")]
        )
        made.compile(keras.optimizers.SGD(0.05), loss_of_labels(), **given)
        histories.append(made.fit(*data(), batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-3)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        made = distiller([make() for make in EVERY.values()])
        history = made.fit(*data(), epochs=4, verbose=0).history["loss"]
        assert np.isfinite(history).all() and history[-1] < history[0]
        assert made.student.get_layer("s0").compute_dtype == "float16"
    finally:
        keras.config.set_dtype_policy("float32")


def test_masked_students_stay_masked():
    small = tfcompress.wrap(student(), tfcompress.layers.MagnitudePruning(0.5))
    made = distiller([SoftTargets(), distillation.AttentionTransfer(".*relu1")], small)
    made.fit(*data(), epochs=2, verbose=0, callbacks=[tfcompress.callbacks.UpdateMasks()])
    kernel = tfcompress.strip(made.student).get_layer("s1").get_weights()[0]
    assert (kernel == 0).mean() == pytest.approx(0.5, abs=0.05)


def test_distilling_is_the_retraining_after_pruning():
    large, (x, y) = teacher(), data()
    large.compile("sgd", loss_of_labels())

    def retrain(small):
        made = distiller(SoftTargets(), small, large)
        made.fit(x, y, verbose=0)

    small = tfcompress.prune_layerwise(large, "l1", sparsity=0.5, retrain=retrain)
    assert small.count_params() < large.count_params()


def test_subclassed_models_are_compared_by_outputs():
    class Own(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x, training=None):
            return self.inner(x, training=training)

    x, y = data()
    large, small = Own(teacher()), Own(student())
    for model in (large, small):
        model(x)
    losses = [SoftTargets(teacher_from_logits=True, student_from_logits=True)]
    distiller(losses, small, large).fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="Say teacher_from_logits"):
        distiller(SoftTargets(), small, large)
    with pytest.raises(ValueError, match="subclassed model"):
        distiller(distillation.Hints("t_relu1"), small, large)


@pytest.mark.parametrize(
    ("arguments", "message"),
    {
        "no layer": ({"losses": distillation.Hints("t_rely1", "s_relu1")}, "In .*Did you mean 't_relu1'"),
        "too many": (
            {"losses": distillation.Hints("t_relu.", "s_relu1")},
            "one by one, but there are 2 and 1",
        ),
        "one way": (
            {"losses": distillation.Hints("last_of_each_resolution", "s0")},
            "for both networks or for none",
        ),
        "no loss": ({"losses": []}, "at least one distillation loss"),
        "another thing": ({"losses": ["mse"]}, "A distillation loss is one of"),
        "weights": ({"distillation_loss_weights": [1, 2]}, "1 distillation losses and 2 weights"),
        "negative": ({"distillation_loss_weights": [-1]}, "at least 0"),
        "share": ({"student_loss_weight": 1.5}, "from 0 to 1 unless distillation_weight"),
        "text": ({"student_loss_weight": "half"}, "student_loss_weight must be a number"),
        "names": ({"losses": [SoftTargets(name="a"), SoftTargets(name="a")]}, "a name of its own"),
        "no model": ({"large": [3]}, "The teacher is a keras.Model"),
        "outputs": ({"losses": SoftTargets(outputs=["heads"])}, "Unknown output 'heads'"),
    }.values(),
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        distiller(**arguments)


def test_networks_that_do_not_fit_are_refused():
    other = network((6, 8), name="t", size=10)
    with pytest.raises(ValueError, match="both see the same inputs"):
        distiller(large=other)
    x = keras.Input((8, 8, 3))
    classes = keras.Model(x, layers.Dense(7)(layers.Flatten()(x)))
    with pytest.raises(ValueError, match="compares classes"):
        distiller(large=classes)
    with pytest.raises(ValueError, match="must end alike"):
        distiller(distillation.GradientAttention(), large=teacher(head="softmax"))
    with pytest.raises(ValueError, match="not built"):
        distiller(small=keras.Sequential([layers.Dense(4)]))


def test_a_teacher_that_would_be_trained_is_refused():
    large = teacher()
    shared = keras.Model(large.input, layers.Dense(4)(large.get_layer("t_pool").output))
    with pytest.raises(ValueError, match="would be trained"):
        distiller(small=shared, large=large)
    for layer in large.layers:
        layer.trainable = False
    distiller(small=shared, large=large).fit(*data(), verbose=0)
