"""Random masks on a Dask cluster of two workers, one of which dies."""

import functools
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import random_masks

distributed = pytest.importorskip("distributed", reason="the extra [cluster] is not installed")


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 2))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu", name="conv")(i))
    return keras.Model(i, layers.Dense(3, activation="softmax")(x))


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(48, 8, 8, 2)).astype("float32"), rng.integers(0, 3, 48)


def measured(model: keras.Model) -> float:
    return float(np.abs(model.predict_on_batch(data()[0])).max())


def measured_by_mortals(folder: str, model: keras.Model) -> float:
    """The same; but the first worker to come here ends at once, and each notes that it was here."""
    place = Path(folder)
    if os.environ.get("TFCOMPRESS_TEST_WORKER"):
        try:
            (place / "died").touch(exist_ok=False)
        except FileExistsError:
            (place / f"worker-{os.getpid()}").touch()
        else:
            os._exit(1)
    return measured(model)


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            2,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=50,
            env={"TFCOMPRESS_TEST_WORKER": "1", "KERAS_BACKEND": keras.backend.backend()},
        ) as cluster,
        cluster.get_client() as client,
    ):
        yield client


def on(executor, measure) -> keras.Model:
    return random_masks(
        network(), data(), sparsity=0.5, candidates=12, measure=measure, executor=executor, tasks=4
    )


def same(one: keras.Model, other: keras.Model) -> None:
    np.testing.assert_array_equal(one.searches[0].scores, other.searches[0].scores)
    for weight, expected in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_two_workers_find_what_one_process_finds(client):
    same(on(client.get_executor(), measured), on(None, measured))
    accuracy = random_masks(
        network(), data(), sparsity=0.5, candidates=6, executor=client.get_executor(), tasks=2
    )
    same(accuracy, random_masks(network(), data(), sparsity=0.5, candidates=6))


def test_a_worker_that_dies_changes_nothing(client, tmp_path):
    mortals = functools.partial(measured_by_mortals, str(tmp_path))
    found = on(client.get_executor(), mortals)
    names = [file.name for file in tmp_path.iterdir()]
    assert "died" in names and any(name.startswith("worker-") for name in names)
    same(found, on(None, measured))
