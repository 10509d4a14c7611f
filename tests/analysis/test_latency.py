"""What a latency states, and what is measured when. No test depends on how fast anything is."""

import pathlib

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfcompress._runtimes import child, conversion, process
from tfcompress._runtimes.signature import Signature
from tfcompress.analysis.latency import Latency, LatencyRatio, latency, latency_ratio

DATA = np.ones((5, 4, 3), "float32")
FACTS = {"batch": 1, "threads": 1, "runtime": "LiteRT 0"}
TIMES = st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=30)


def model_of_open_length():
    x = keras.Input((None, 3), name="x")
    return keras.Model(x, layers.Dense(2)(x))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A .tflite file that is open in its second axis."""
    path, model = tmp_path_factory.mktemp("files") / "open.tflite", model_of_open_length()
    path.write_bytes(conversion.tflite_files(model, Signature.of(model))[False])
    return path


@pytest.fixture
def measured(monkeypatch):
    """What the process that measures is asked for; its answers are made up."""
    asked = []

    def call(script, function, **arguments):
        asked.append(arguments)
        return {"times_ms": [[1.0, 2.0] for _ in arguments["paths"]], "version": "LiteRT 0"}

    monkeypatch.setattr(process, "call", call)
    return asked


@given(TIMES)
def test_spread_encloses_the_median(times):
    found = Latency.of(times, **FACTS)
    assert found.min_ms <= found.p10_ms <= found.median_ms <= found.p90_ms <= max(times)
    assert found.runs == len(times)


def test_latency_of_known_times():
    found = Latency.of([3.0, 1.0, 2.0], batch=4, threads=2, runtime="LiteRT 0")
    assert (found.median_ms, found.p10_ms, found.p90_ms, found.min_ms) == (2.0, 1.2, 2.8, 1.0)
    assert str(found) == "2 ms (p10 1.2, p90 2.8, min 1; 3 runs of batch 4, 2 threads, LiteRT 0)"


@given(TIMES, st.floats(0.01, 100))
def test_ratio_of_proportional_times_has_no_spread(times, factor):
    found = LatencyRatio.of([factor * time for time in times], times, **FACTS)
    assert [found.p10, found.median, found.p90] == pytest.approx([factor] * 3)


def test_ratio_is_taken_pair_by_pair():
    found = LatencyRatio.of([1.0, 10.0, 3.0], [2.0, 20.0, 6.0], **FACTS)
    assert found.median == 0.5
    assert (found.first.median_ms, found.second.median_ms) == (3.0, 6.0)
    assert str(found).startswith("0.5 times (p10 0.5, p90 0.5): 3 ms against 6 ms")


def test_file_is_run_as_often_as_asked(file):
    found = latency(file, repeats=7, warmup=0, batch=5, threads=2, data=DATA)
    assert (found.runs, found.batch, found.threads) == (7, 5, 2)
    assert found.median_ms > 0
    assert found.runtime.startswith("LiteRT ")


def test_timing_ends_when_time_is_up(file):
    assert latency(file, repeats=10**9, warmup=0, seconds=0, data=DATA).runs == 3


def test_two_files_run_in_turn(file):
    found = latency_ratio(file, file, repeats=9, data={"x": DATA})
    assert found.first.runs == found.second.runs == 9
    assert found.p10 <= found.median <= found.p90


def test_open_length_needs_data(file):
    with pytest.raises(ValueError, match="shape of input 'x' is open.*data="):
        latency(file)


def test_made_up_inputs_have_the_shape_and_type_that_are_wanted():
    numbers, words = child._stub("x", [None, 4], np.float32, 3), child._stub("x", [3, 4], np.int64, 3)
    assert (numbers.shape, numbers.dtype) == ((3, 4), np.float32)
    assert (words.shape, words.dtype) == ((3, 4), np.int64)


def test_fixed_batch_size_of_a_file_is_respected():
    with pytest.raises(ValueError, match="input 'x' takes batches of 4, not of 1"):
        child._stub("x", [4, 3], np.float32, 1)


def test_keras_model_is_timed_in_tensorflow_too():
    x = keras.Input((3,), name="x")
    found = latency(
        keras.Model(x, layers.Dense(2)(x)), runtime="saved_model", repeats=3, data=np.ones((2, 3))
    )
    assert (found.runs, found.batch) == (3, 1)
    assert found.runtime.startswith("TensorFlow ")


def test_keras_model_is_converted_first_and_the_file_deleted_after(measured, monkeypatch):
    monkeypatch.setattr(conversion, "tflite_files", lambda *args, **kwargs: {False: b"file"})
    assert latency(model_of_open_length()).median_ms == 1.5
    (path,) = measured[0]["paths"]
    assert path.endswith("model.tflite")
    assert not pathlib.Path(path).exists()


def test_settings_reach_the_process(measured, file):
    latency(file, threads=3, batch=2, repeats=4, warmup=1, seconds=0.5, data=DATA)
    inputs = measured[0].pop("inputs")
    assert inputs.shape == (2, 4, 3)
    assert measured[0] == {
        "runtime": "litert",
        "paths": [str(file)],
        "delegates": [None],
        "threads": 3,
        "batch": 2,
        "repeats": 4,
        "warmup": 1,
        "seconds": 0.5,
    }


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"runtime": "litrt"}, "Unknown runtime 'litrt'. Did you mean 'litert'?"),
        ({"threads": 0}, "threads must be a whole number of at least 1, got 0"),
        ({"repeats": 0}, "repeats must be a whole number of at least 1"),
        ({"warmup": -1}, "warmup must be a whole number of at least 0"),
        ({"batch": 3, "data": np.ones((2, 3))}, "fewer examples than the batch of 3"),
        ({"runtime": "saved_model"}, "is not the folder of a SavedModel"),
    ],
)
def test_wrong_setting_is_refused(file, settings, match):
    with pytest.raises(ValueError, match=match):
        latency(file, **settings)


def test_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        latency(tmp_path / "model.tflite")


def test_what_is_neither_file_nor_model_is_refused():
    with pytest.raises(ValueError, match=r"Expected a path or a keras.Model, got int"):
        latency(3)


def test_file_that_does_not_run_is_named(tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"no flatbuffer")
    with pytest.raises(ValueError, match=r"No latency of '.*broken.tflite': ValueError"):
        latency(tmp_path / "broken.tflite")
