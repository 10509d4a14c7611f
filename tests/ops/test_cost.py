"""Predictions of time: what must hold on any machine."""

import dataclasses
import json

import numpy as np
import pytest

from tfcompress import _native
from tfcompress.ops import cost

pytestmark = pytest.mark.skipif(_native.path("core") is None, reason="the native core was not built")

SHAPE = cost.ConvShape(height=28, width=28, channels=64, filters=96, kernel_size=(3, 3))
SHAPES = [
    SHAPE,
    dataclasses.replace(SHAPE, kernel_size=(1, 1)),
    dataclasses.replace(SHAPE, strides=(2, 2), padding="valid"),
    cost.ConvShape(height=1, width=1, channels=4096, filters=1000, kernel_size=(1, 1)),
]


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """One that is not measured: a dense multiply-add takes 0.01 ns, a step of any kind 1 ns."""
    steps = (1e-9,) * cost._STEPS
    monkeypatch.setattr(cost, "measure_machine", lambda dtype: cost.Machine(1e11, steps))


@pytest.mark.parametrize("dtype", cost.DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_fewer_weights_never_take_longer_and_dense_time_does_not_depend_on_them(shape, dtype):
    counts = range(0, shape.weights, shape.weights // 7)
    found = [cost.predict(shape, weights=count, dtype=dtype) for count in counts]
    times = [each.sparse_ms for each in found]
    assert times == sorted(times)
    assert len({each.dense_ms for each in found}) == 1


def test_dense_time_is_that_of_the_multiply_adds_at_95_percent():
    macs = 28 * 28 * 64 * 96 * 9
    assert cost.predict(SHAPE, weights=0).dense_ms == pytest.approx(1000 * macs / (0.95 * 1e11))


def test_a_dense_layer_of_one_image_waits_for_its_weights():
    large = cost.ConvShape(height=1, width=1, channels=4096, filters=4096, kernel_size=(1, 1))
    bytes_of_weights = 4 * 4096 * 4096
    assert cost.predict(large, weights=0).dense_ms == pytest.approx(1000 * bytes_of_weights * 1e-9)
    small = cost.ConvShape(height=1, width=1, channels=64, filters=64, kernel_size=(1, 1))
    assert cost.predict(small, weights=0).dense_ms == pytest.approx(1000 * 64 * 64 / (0.95 * 1e11))


def test_kernels_end_with_those_that_every_processor_has():
    assert cost.kernels()[-2:] == ["lanes_portable", "blocks_portable"]


def test_kernels_of_int8_are_others():
    kinds = "lanes", "pairs", "quads", "blocks"
    assert cost.kernels("int8")[-4:] == [f"int8_{kind}_portable" for kind in kinds]


def test_in_int8_words_cost_no_more_than_what_is_scattered():
    rng = np.random.default_rng(0)
    kept = rng.random((3, 3, 16, 96)) < 0.1
    words = np.repeat(kept, 4, axis=2)
    alone = words & (np.arange(64) % 4 == 0)[:, None]  # one weight of each word
    scattered = rng.random(words.shape) < words.mean()
    one, four, any_ = (
        cost.predict(SHAPE, each, dtype="int8").sparse_ms for each in (alone, words, scattered)
    )
    assert one <= four <= any_


def test_threads_share_the_work():
    one, two = (cost.predict(SHAPE, weights=1000, threads=threads) for threads in (1, 2))
    assert two.dense_ms == pytest.approx(one.dense_ms / 2)
    assert one.sparse_ms / 2 <= two.sparse_ms <= one.sparse_ms


def test_a_kernel_counts_as_the_weights_that_it_has():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 64, 96)) * (rng.random((3, 3, 64, 96)) < 0.1)
    given = cost.predict(SHAPE, weights=np.count_nonzero(kernel))
    assert cost.predict(SHAPE, kernel).sparse_ms == pytest.approx(given.sparse_ms, rel=0.01)
    kernel[:, :, 32:] = 0  # channels that nothing reads are not even fetched
    fewer = cost.predict(SHAPE, weights=np.count_nonzero(kernel))
    assert cost.predict(SHAPE, kernel).sparse_ms < fewer.sparse_ms


@pytest.mark.parametrize("shape", SHAPES)
def test_in_the_window_sparse_is_faster_and_more_zeros_help(shape):
    window = cost.useful_window(shape)
    assert window is not None and 0 <= window.lower < window.upper <= 1

    def at(sparsity):
        return cost.predict(shape, weights=round((1 - sparsity) * shape.weights))

    for sparsity in np.linspace(window.lower + 0.01, window.upper, 5):
        assert at(sparsity).sparse_ms < at(sparsity).dense_ms
    if window.lower > 0.02:
        assert at(window.lower - 0.01).sparse_ms > at(window.lower).dense_ms
    assert at(window.upper).sparse_ms <= 2.02 * at(1).sparse_ms


def test_a_layer_that_is_never_faster_has_no_window(monkeypatch):
    slow = cost.Machine(1e15, (1e-9,) * cost._STEPS)
    monkeypatch.setattr(cost, "measure_machine", lambda dtype: slow)
    assert cost.useful_window(SHAPE) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs a kernel"),
        ({"kernel": np.ones((3, 3, 64, 95))}, r"must have the shape \(3, 3, 64, 96\), got \(3, 3, 64, 95\)"),
        ({"weights": -1}, "got -1"),
        ({"weights": 5, "threads": 0}, "threads must be"),
        ({"weights": 5, "dtype": "int4"}, "Unknown dtype 'int4'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        cost.predict(SHAPE, **given)


def test_a_filter_that_is_larger_than_the_map_is_refused():
    shape = dataclasses.replace(SHAPE, height=2, padding="valid")
    with pytest.raises(ValueError, match="these sizes make no convolution"):
        cost.predict(shape, weights=5)


def test_an_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="Unknown padding 'full'"):
        dataclasses.replace(SHAPE, padding="full")


@pytest.mark.parametrize("dtype", cost.DTYPES)
def test_a_machine_is_measured_once_and_what_is_not_sound_is_measured_again(monkeypatch, tmp_path, dtype):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measure = cost.measure_machine.__wrapped__
    machine = measure(dtype)
    (file,) = (tmp_path / "tfcompress").iterdir()
    assert measure(dtype) == machine
    for content in (
        "",
        "{",
        json.dumps({"dense": 1, "steps": [1]}),
        json.dumps({"dense": -1, "steps": [0] * 17}),
    ):
        file.write_text(content)
        assert measure(dtype).dense > 0
        assert json.loads(file.read_text())["dense"] > 0


def test_where_nothing_can_be_written_it_is_measured_all_the_same(monkeypatch, tmp_path):
    monkeypatch.undo()
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert cost.measure_machine.__wrapped__().dense > 0


def test_without_the_core_the_error_says_what_to_do(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(_native, "path", lambda name: None)
    cost._core.cache_clear()
    try:
        with pytest.raises(
            RuntimeError, match=r"was not built, so no time can be predicted. Install a C\+\+"
        ):
            cost.predict(SHAPE, weights=5)
    finally:
        cost._core.cache_clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "height must be"),
        ({"filters": 2**31}, "filters must be"),
        ({"channels": 2.5}, "channels must be"),
        ({"kernel_size": 3}, "kernel_size must be two"),
        ({"kernel_size": (3,)}, "kernel_size must be two"),
        ({"strides": (0, 1)}, "strides must be two"),
        ({"groups": 0}, "groups must be"),
        ({"groups": 3}, "groups=3 must divide"),
    ],
)
def test_sizes_that_are_none_are_refused(change, message):
    sizes = {"height": 8, "width": 8, "channels": 16, "filters": 16, "kernel_size": (3, 3)}
    with pytest.raises(ValueError, match=message):
        cost.ConvShape(**{**sizes, **change})


@pytest.mark.parametrize(
    "arguments", [{"weights": 10**12}, {"weights": -1}, {}, {"weights": 9, "threads": 0}]
)
def test_predictions_of_what_cannot_be_are_refused(arguments):
    shape = cost.ConvShape(8, 8, 16, 16, (3, 3))
    with pytest.raises(ValueError, match="must be|how many of 2304 weights"):
        cost.predict(shape, **arguments)
