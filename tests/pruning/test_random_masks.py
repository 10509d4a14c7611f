"""Masks at random: exact counts, the best of many, the same on any executor."""

import concurrent.futures
import multiprocessing

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import random_masks, strip
from tfcompress.layers import MaskedLayer


def network() -> keras.Model:
    rng = np.random.default_rng(0)
    i = keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, name="first")(i)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(6, 3, activation="relu", name="second")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(i, layers.Dense(3, activation="softmax", name="head")(x))
    for weight in model.weights:
        low = 0.5 if "variance" in weight.path else -1.0
        weight.assign(rng.uniform(low, 1.0, weight.shape))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def data(count: int = 90, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 8, 8, 2)).astype("float32"), rng.integers(0, 3, count)


def accuracy(model: keras.Model) -> float:
    x, y = data()
    return float((model.predict(x, verbose=0).argmax(axis=1) == y).mean())


def masks(model: keras.Model) -> dict[str, np.ndarray]:
    return {layer.name: layer.masked[0].kept for layer in model.layers if isinstance(layer, MaskedLayer)}


@pytest.mark.parametrize("share", [0.25, 0.5, 0.6])
def test_feature_maps_are_removed_in_exact_numbers(share):
    model = network()
    small = random_masks(model, data(), sparsity=share, candidates=4)
    assert small.get_layer("first").filters == 8 - round(share * 8)
    assert small.get_layer("second").filters == 6 - round(share * 6)
    (search,) = small.searches
    assert search.names == ("first", "second") and search.scores.shape == (4,)
    assert search.scores[search.best] == search.scores.max() >= search.scores.mean()
    assert accuracy(small) == pytest.approx(search.scores.max())  # what was measured is what comes out
    assert sum(removal.before - removal.after for removal in small.removed) == 14 - sum(
        small.get_layer(name).filters for name in ("first", "second")
    )


@pytest.mark.parametrize(
    ("granularity", "units"), [("kernel", 16 + 48 + 18), ("intra_kernel", 144 + 432 + 18)]
)
def test_kernels_and_weights_are_masked_in_exact_numbers(granularity, units):
    masked = random_masks(network(), data(), sparsity=0.5, granularity=granularity, candidates=4)
    found = masks(masked)
    assert list(found) == ["first", "second", "head"]
    taps = {"first": 9, "second": 9, "head": 1}
    for name, mask in found.items():
        if granularity == "kernel":  # one answer for all taps
            assert (mask == mask.any(axis=(0, 1))).all() if mask.ndim == 4 else True
        unit = taps[name] if granularity == "kernel" else 1
        assert (~mask).sum() == round(0.5 * mask.size / unit) * unit
        assert mask.any(axis=tuple(range(mask.ndim - 1))).all()  # every output keeps something
    (search,) = masked.searches
    assert accuracy(strip(masked)) == pytest.approx(search.scores.max())


def test_more_candidates_are_never_worse_and_the_first_stay_the_same():
    few, many = (
        random_masks(network(), data(), sparsity=0.5, candidates=count).searches[0] for count in (3, 9)
    )
    np.testing.assert_array_equal(many.scores[:3], few.scores)
    assert many.scores.max() >= few.scores.max()


def test_feature_maps_first_then_kernels_among_what_is_left():
    found = random_masks(
        network(), data(), sparsity=0.5, granularity=["feature_map", "kernel", "intra_kernel"], candidates=3
    )
    assert [search.granularity for search in found.searches] == ["feature_map", "kernel", "intra_kernel"]
    second = masks(found)["second"]
    assert second.shape == (3, 3, 4, 3)
    assert second.sum() == 54 // 2  # half of the kernels are left, and half of their weights
    assert accuracy(strip(found)) == pytest.approx(found.searches[-1].scores.max())


def test_layer_by_layer_each_with_the_best_of_those_before():
    small = random_masks(network(), data(), sparsity=0.5, candidates=5, scope="layer")
    assert [search.names for search in small.searches] == [("first",), ("second",)]
    assert accuracy(small) == pytest.approx(small.searches[-1].scores.max())


def test_the_loss_and_ones_own_measure():
    by_loss = random_masks(network(), data(), sparsity=0.5, candidates=4, measure="loss")
    x, y = data()
    by_loss.compile(loss="sparse_categorical_crossentropy")
    assert by_loss.evaluate(x, y, verbose=0) == pytest.approx(-by_loss.searches[0].scores.max(), rel=1e-4)
    own = random_masks(network(), data(), sparsity=0.5, candidates=4, measure=accuracy)
    best = random_masks(network(), data(), sparsity=0.5, candidates=4)
    np.testing.assert_allclose(own.searches[0].scores, best.searches[0].scores)


def test_nothing_is_compiled_for_a_candidate():
    traced = []

    @keras.saving.register_keras_serializable("test_random_masks")
    class Counting(layers.Layer):
        def call(self, x):
            traced.append(1)
            return x

    i = keras.Input((8, 8, 2))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(Counting()(i)))
    model = keras.Model(i, layers.Dense(3, activation="softmax")(x))

    def count(candidates):
        traced.clear()
        random_masks(model, data(), sparsity=0.5, candidates=candidates)
        return len(traced)

    assert count(12) == count(1)


class Losing(concurrent.futures.Executor):
    """Runs what it is given at once, but loses every second task, and takes no more after the fourth."""

    def __init__(self):
        self.taken = 0

    def submit(self, function, /, *args, **kwargs):
        self.taken += 1
        if self.taken > 4:
            raise RuntimeError("a process of the pool died")
        future = concurrent.futures.Future()
        if self.taken % 2:
            future.set_result(function(*args, **kwargs))
        else:
            future.set_exception(OSError("the worker is gone"))
        return future


def on_executor(executor, **arguments):
    return random_masks(
        network(), data(), sparsity=0.5, candidates=7, executor=executor, tasks=6, **arguments
    )


def test_a_lost_worker_changes_nothing():
    here = random_masks(network(), data(), sparsity=0.5, candidates=7)
    with pytest.warns(UserWarning, match="4 of 6 tasks came to nothing.*a process of the pool died"):
        lost = on_executor(Losing())
    np.testing.assert_array_equal(lost.searches[0].scores, here.searches[0].scores)
    for one, other in zip(lost.get_weights(), here.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_threads_and_processes_give_the_same(kind):
    spawn = multiprocessing.get_context("spawn")
    pools = {
        "threads": lambda: concurrent.futures.ThreadPoolExecutor(2),
        "processes": lambda: concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn),
    }
    stages = ["feature_map", "kernel", "intra_kernel"]
    with pools[kind]() as pool:
        found = on_executor(pool, granularity=stages)
    here = random_masks(network(), data(), sparsity=0.5, candidates=7, granularity=stages)
    for one, other in zip(found.searches, here.searches, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)


def test_an_error_of_the_measure_itself_comes_through():
    def broken(model):
        raise ZeroDivisionError("not measured")

    with pytest.raises(ZeroDivisionError, match="not measured"):
        random_masks(
            network(), data(), sparsity=0.5, candidates=2, measure=broken, executor=Losing(), tasks=2
        )


def test_the_model_given_is_not_changed():
    model = network()
    before = [np.array(weight) for weight in model.get_weights()]
    random_masks(model, data(), sparsity=0.5, granularity="intra_kernel", candidates=2)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"granularity": "kernels"}, "Unknown granularity 'kernels'. Did you mean 'kernel'"),
        ({"granularity": ["kernel", "feature_map"]}, "Feature maps come first"),
        ({"granularity": []}, "Unknown granularity"),
        ({"candidates": 0}, "candidates must be"),
        ({"tasks": 0}, "tasks must be"),
        ({"measure": "precision"}, "Unknown measure 'precision'.*or a function of a model"),
        ({"scope": "group"}, "Unknown scope"),
        ({"test": data(5)}, "5 of the images"),
        ({"include": "frist"}, "Did you mean 'first'"),
        ({"data": data()[0]}, "needs labels"),
    ],
)
def test_bad_arguments(arguments, message):
    given = {"data": data(), "sparsity": 0.5, "candidates": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        random_masks(network(), given.pop("data"), **given)
