"""Masks at random on a cluster: two Dask workers on this machine find what one process finds."""

import concurrent.futures
import functools
import os

import keras
import mortal_workers
import numpy as np
import pytest
from keras import layers
from surgery import randomize

from tfcompress import random_masks

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client():
    one_thread = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", env=one_thread
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


class Watched(concurrent.futures.Executor):
    """Another executor, and what it was given to do."""

    def __init__(self, executor):
        self.executor, self.futures = executor, []

    def submit(self, function, /, *args, **kwargs):
        self.futures.append(self.executor.submit(function, *args, **kwargs))
        return self.futures[-1]


def network() -> keras.Model:
    x = i = keras.Input((8, 8, 2))
    for width in (8, 6):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(width, 3)(x)))
    x = layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(i, layers.Dense(3, activation="softmax")(x)))


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(90, 8, 8, 2)).astype("float32"), rng.integers(0, 3, 90)


def assert_same_on(client, search) -> None:
    """Whether the workers do all tasks, and find what this process finds."""
    with client.get_executor() as executor:
        watched = Watched(executor)
        there = search(executor=watched, tasks=4)
    assert [future.exception() for future in watched.futures] == [None] * len(watched.futures) != []
    here = search()
    for one, other in zip(here.searches, there.searches, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
        assert one.best == other.best
    for one, other in zip(here.get_weights(), there.get_weights(), strict=True):  # masks are among them
        np.testing.assert_array_equal(one, other)


def test_workers_find_what_one_process_finds(client):
    search = functools.partial(random_masks, network(), data(), sparsity=0.5, candidates=9)
    assert_same_on(client, functools.partial(search, granularity=["feature_map", "kernel"]))


def test_a_worker_that_dies_changes_nothing(client, tmp_path):
    x, y = data()
    workers = client.run(os.getpid).values()
    measure = functools.partial(
        mortal_workers.share_of_first_class, images=x, folder=tmp_path, home=os.getpid()
    )
    search = functools.partial(random_masks, network(), (x, y), sparsity=0.5, measure=measure, candidates=12)
    assert_same_on(client, search)
    assert int((tmp_path / "died").read_text()) in workers
