"""What teachers said, kept on disk: the same training, without the teacher."""

import keras
import numpy as np
import pytest
from distilling import EVERY, REMEMBERED, counting, data, loss_of_labels, network, student, teacher, weights

from tfcompress import distillation
from tfcompress.distillation import SoftTargets


def distiller(losses, large=None):
    made = distillation.Distiller(large or teacher(), student(), losses, student_loss_weight=0.3)
    made.compile(keras.optimizers.SGD(0.05), loss_of_labels(), metrics=["accuracy"])
    return made


@pytest.mark.parametrize("name", ["soft_targets", "attention", "hints", "gradients"])
def test_cached_answers_train_as_the_teacher_does(name, tmp_path):
    x, y = data(10)
    asked, cached = (distiller([EVERY[name]()]) for _ in range(2))
    if name == "hints":  # adapters begin at random
        cached.distillation_losses[0].set_weights(asked.distillation_losses[0].get_weights())
    one = asked.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    lessons = cached.cached(x, y, tmp_path / "said", batch_size=4, shuffle=False)
    other = cached.fit(lessons, epochs=2, shuffle=False, verbose=0).history
    for key in one:
        np.testing.assert_allclose(one[key], other[key], rtol=1e-4, atol=1e-6)
    for before, after in zip(weights(asked), weights(cached), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-6)


def test_an_ensemble_is_cached_too(tmp_path):
    x, y = data(10)
    large = [network((6, 8), name="t", seed=seed) for seed in (1, 5)]
    losses = lambda: [SoftTargets(), distillation.AttentionTransfer()]  # noqa: E731
    asked, cached = (distiller(losses(), large) for _ in range(2))
    one = asked.evaluate(x, y, batch_size=10, verbose=0)
    other = cached.evaluate(cached.cached(x, y, tmp_path / "said", batch_size=10), verbose=0)
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_teacher_is_asked_once_about_every_image(tmp_path):
    large = counting(teacher())
    made = distiller([SoftTargets(), distillation.AttentionTransfer()], large)
    made.fit(made.cached(*data(10), tmp_path / "said", batch_size=4), epochs=3, verbose=0)
    assert [float(count) for count in large.get_layer("counting").get_weights()] == [0, 3 * REMEMBERED]


def test_a_folder_is_read_again_by_another_distiller(tmp_path):
    written = []
    for _ in range(2):
        distiller([SoftTargets()]).cached(*data(10), tmp_path / "said")
        written.append((tmp_path / "said" / "facts.json").stat().st_mtime_ns)
    assert written[0] == written[1]


def test_what_was_said_of_something_else_is_asked_again(tmp_path):
    x, y = data(10)
    made = distiller([SoftTargets()])
    made.cached(x, y, tmp_path / "said")
    other = made.cached(x + 1, y, tmp_path / "said", shuffle=False)
    expected = made.teacher(x + 1)
    np.testing.assert_allclose(other[0][0]["tfcompress_said"]["0000"], expected, rtol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["said"]


def test_every_epoch_has_an_order_of_its_own_and_rows_stay_together(tmp_path):
    x, y = data(10)
    made = distiller([SoftTargets()])
    lessons = made.cached(x, y, tmp_path / "said", batch_size=4, sample_weight=np.arange(10.0))
    orders = []
    for _ in range(2):
        batches = [lessons[number] for number in range(len(lessons))]
        order = np.concatenate([batch[2] for batch in batches]).astype(int)
        assert sorted(order) == list(range(10))
        np.testing.assert_array_equal(np.concatenate([batch[1] for batch in batches]), y[order])
        np.testing.assert_array_equal(
            np.concatenate([batch[0]["tfcompress_inputs"] for batch in batches]), x[order]
        )
        orders.append(order.tolist())
        lessons.on_epoch_end()
    assert orders[0] != orders[1]


def test_unlabelled_images_are_cached(tmp_path):
    made = distillation.Distiller(teacher(), student(), SoftTargets(), student_loss_weight=0.0)
    made.compile("sgd")
    history = made.fit(made.cached(data()[0], folder=tmp_path / "said"), epochs=6, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("cat")
    made = distiller([SoftTargets()])
    with pytest.raises(ValueError, match="holds something else"):
        made.cached(*data(), tmp_path / "photos")
    with pytest.raises(ValueError, match="as many rows"):
        made.cached(data()[0], np.zeros(3), tmp_path / "said")
    loaded = distillation.Distiller(None, student(), SoftTargets())
    with pytest.raises(ValueError, match="no teacher: call attach"):
        loaded.cached(*data(), tmp_path / "said")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_a_cache_that_fails_leaves_no_half(tmp_path):
    made = distiller([SoftTargets()])
    x, y = data()
    with pytest.raises(Exception):  # noqa: B017  (what the backend says of a wrong shape)
        made.cached(x[..., :2], y, tmp_path / "said")
    assert list(tmp_path.iterdir()) == []
