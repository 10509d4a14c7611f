"""The TFLite delegate computes what the stock interpreter does, whatever it takes over."""

import concurrent.futures
from unittest import mock

import keras
import numpy as np
import pytest
from delegated import (
    NEEDS_DELEGATE,
    content_of,
    dense_layers,
    interpreter,
    outputs,
    report_on,
    residual,
    settings_of_convolutions,
    thin_out,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import tfcompress
from tfcompress import _native, analysis, export
from tfcompress.ops import cost, delegate

pytestmark = NEEDS_DELEGATE


# How much of the weights stays, and how the file has them.
CASES = {
    "zeros left out": (0.1, {"sparse_encoding": True}),
    "zeros stored, an inner map wanted": (0.3, {"sparse_encoding": False}),
    "float16": (0.3, {"quantization": "float16", "sparse_encoding": False}),
    "float16, zeros left out": (0.1, {"quantization": "float16", "sparse_encoding": True}),
    "dense": (1, {"sparse_encoding": False}),
}


def close(found, expected):
    assert len(found) == len(expected)
    for mine, stock in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, stock, rtol=0, atol=1e-5 * (1 + np.abs(stock).max()))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {
        name: content_of(thin_out(residual(outputs_inside="inner" in name), density), folder, **options)
        for name, (density, options) in CASES.items()
    }


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("package", ["litert", "tensorflow"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_outputs_are_those_of_the_stock_interpreter(files, case, package, force):
    x = np.random.default_rng(1).normal(size=(3, 20, 20, 5)).astype("float32")
    expected = outputs(interpreter(files[case], package=package), x)
    close(outputs(interpreter(files[case], package=package, force=force), x), expected)


def branching(draw):
    """A model of convolutions, poolings and additions of maps of one size, in any order."""
    x = keras.Input((9, 11, 8))
    maps, kinds = [x], st.sampled_from(["relu", "linear", "tanh", "pool", "add", "add"])
    for kind in draw(st.lists(kinds, min_size=3, max_size=10)):
        y, other = (maps[draw(st.integers(0, len(maps) - 1))] for _ in range(2))
        if kind == "pool":
            maps.append(layers.MaxPooling2D(3, strides=1, padding="same")(y))
        elif kind == "add":
            maps.append(layers.Activation(draw(st.sampled_from(["linear", "relu"])))(layers.add([y, other])))
        else:
            maps.append(layers.Conv2D(8, draw(st.sampled_from([1, 3])), padding="same", activation=kind)(y))
    ends = [maps[-1], *draw(st.lists(st.sampled_from(maps[1:]), max_size=2))]
    return keras.Model(x, list({id(end): end for end in ends}.values()))


@settings(max_examples=5, deadline=None)  # each is a conversion
@given(data=st.data())
def test_any_branches_are_right_whatever_of_them_is_taken(tmp_path_factory, data):
    model = thin_out(branching(data.draw), 0.3)
    content = content_of(model, tmp_path_factory.mktemp("branches"), sparse_encoding=False)
    costs = data.draw(st.lists(st.floats(1e-10, 1e-8), min_size=cost._STEPS, max_size=cost._STEPS))
    machine = cost.Machine(data.draw(st.floats(1e8, 1e12)), tuple(costs))
    x = np.random.default_rng(0).normal(size=(2, 9, 11, 8)).astype("float32")
    expected = outputs(interpreter(content), x)
    with mock.patch.object(cost, "measure_machine", lambda dtype="float32": machine):
        for force in True, False:
            close(outputs(interpreter(content, force=force), x), expected)


def test_an_addition_may_wait_for_what_is_left_to_others(tmp_path):
    """As in Xception: the convolution beside a pooling is ready before it."""
    x = keras.Input((20, 20, 8))
    y = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    pooled = layers.MaxPooling2D(3, strides=2, padding="same")(layers.Conv2D(16, 3, padding="same")(y))
    y = layers.add([pooled, layers.Conv2D(16, 1, strides=2)(y)])
    content = content_of(thin_out(keras.Model(x, y), 0.3), tmp_path)
    images = np.random.default_rng(0).normal(size=(2, 20, 20, 8)).astype("float32")
    close(outputs(interpreter(content, force=True), images), outputs(interpreter(content), images))


def test_the_batch_may_change_and_threads_do_not_matter(files):
    runner = interpreter(files["zeros left out"], force=True, threads=3)
    stock = interpreter(files["zeros left out"])
    for batch in (1, 4, 2):
        x = np.random.default_rng(batch).normal(size=(batch, 20, 20, 5)).astype("float32")
        close(outputs(runner, x), outputs(stock, x))


def test_interpreters_may_share_a_delegate_and_run_at_once(files):
    from ai_edge_litert.interpreter import Interpreter

    shared = tfcompress.load_delegate(force=True)
    contents = [files["zeros left out"], files["zeros stored, an inner map wanted"]]
    runners = [Interpreter(model_content=content, experimental_delegates=[shared]) for content in contents]
    x = np.random.default_rng(0).normal(size=(2, 20, 20, 5)).astype("float32")
    expected = [outputs(interpreter(content), x) for content in contents]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            for found, stock in zip(pool.map(outputs, runners, [x, x]), expected, strict=True):
                close(found, stock)


@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_any_convolution_is_right(tmp_path_factory, data):
    x = keras.Input((data.draw(st.integers(10, 33)), data.draw(st.integers(10, 33)), 6))
    found = [layers.Conv2D(**data.draw(settings_of_convolutions()))(x) for _ in range(8)]
    model = thin_out(keras.Model(x, found), data.draw(st.sampled_from([0.03, 0.2, 1])))
    content = content_of(model, tmp_path_factory.mktemp("any"), sparse_encoding="auto")
    images = np.random.default_rng(0).normal(size=(2, *x.shape[1:])).astype("float32")
    close(outputs(interpreter(content, force=True), images), outputs(interpreter(content), images))


def test_dense_layers_are_right_behind_each_other_and_on_maps(tmp_path):
    content = content_of(thin_out(dense_layers(), 0.1), tmp_path)
    runner, stock = interpreter(content, force=True), interpreter(content)
    for batch in (1, 40):
        images = np.random.default_rng(0).normal(size=(batch, 6, 6, 8)).astype("float32")
        close(outputs(runner, images), outputs(stock, images))


def test_maps_of_another_size_get_plans_of_their_own(tmp_path):
    x = keras.Input((None, None, 4))
    y = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    model = thin_out(keras.Model(x, layers.Conv2D(8, 3, padding="same")(y)), 0.1)
    shape = np.zeros((1, 9, 9, 4), "float32")
    content = content_of(model, tmp_path, data=shape)
    runner, stock = interpreter(content, force=True), interpreter(content)
    for size in ((1, 9, 9, 4), (2, 30, 17, 4), (1, 9, 9, 4)):
        images = np.random.default_rng(0).normal(size=size).astype("float32")
        close(outputs(runner, images), outputs(stock, images))


def two_inputs():
    a, b = keras.Input((8, 8, 16)), keras.Input((8, 8, 16))
    return keras.Model([a, b], layers.Add()([layers.Conv2D(16, 3, padding="same")(a), b]))


def pooled_and_added():
    x = keras.Input((None, None, 16))
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return keras.Model(x, layers.Add()([layers.Conv2D(16, 1)(pooled), x]))


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (two_inputs, [(3, 8, 8, 16), (1, 8, 8, 16)]),
        (two_inputs, [(1, 8, 8, 16), (3, 8, 8, 16)]),
        (pooled_and_added, [(2, 9, 7, 16)]),
    ],
    ids=["batches of 3 and 1", "batches of 1 and 3", "a mean added to a map"],
)
def test_additions_may_turn_out_to_be_of_maps_of_two_sizes(tmp_path, build, shapes, force):
    content = content_of(thin_out(build(), 0.05), tmp_path)
    rng = np.random.default_rng(0)
    images = [rng.normal(size=shape).astype("float32") for shape in shapes]

    def run(**options):
        runner = interpreter(content, **options)
        places = sorted(runner.get_input_details(), key=lambda detail: detail["name"])
        for detail, image in zip(places, images, strict=True):
            runner.resize_tensor_input(detail["index"], image.shape)
        runner.allocate_tensors()
        for detail, image in zip(places, images, strict=True):
            runner.set_tensor(detail["index"], image)
        runner.invoke()
        return [runner.get_tensor(detail["index"]) for detail in runner.get_output_details()]

    close(run(force=force), run())


def test_what_is_not_a_number_stays_so(tmp_path):
    x = keras.Input((12, 12, 16))
    y = layers.Conv2D(16, 3, padding="same", activation="relu6")(x)
    model = thin_out(keras.Model(x, layers.Conv2D(16, 3, padding="same", activation="relu")(y)), 0.1)
    image = np.random.default_rng(0).normal(size=(1, 12, 12, 16)).astype("float32")
    image[0, 5, 5, 3] = np.nan
    content = content_of(model, tmp_path)
    (mine,) = outputs(interpreter(content, force=True), image)
    assert np.isnan(mine).any()  # only the outputs whose weights see it
    assert (np.isnan(mine) <= np.isnan(outputs(interpreter(content), image)[0])).all()


def test_weights_that_are_not_numbers_are_left_to_the_interpreter(tmp_path):
    x = keras.Input((8, 8, 16))
    model = thin_out(keras.Model(x, layers.Conv2D(32, 3)(x)), 0.1)
    content = bytearray(content_of(model, tmp_path, sparse_encoding=False))
    weight = model.layers[-1].get_weights()[0]
    value = weight[np.nonzero(weight)][0].astype("float32").tobytes()
    place = content.index(value)
    content[place : place + 4] = np.float32(np.nan).tobytes()
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 16)).astype("float32")
    mine, stock = (outputs(interpreter(bytes(content), **o), image)[0] for o in ({"force": True}, {}))
    np.testing.assert_array_equal(np.isnan(mine), np.isnan(stock))
    assert np.isnan(mine).any()
    assert "infinite or not a number" in report_on(bytes(content), tmp_path)


def test_deep_networks_are_planned_in_no_time(tmp_path):
    """The search once looked at the whole network for every layer that it turned over, at every turn."""
    x = i = keras.Input((8, 8, 32))
    for number in range(90):
        x = layers.Conv2D(32, 1, activation="relu" if number % 2 else None)(x)
        x = layers.DepthwiseConv2D(3, padding="same")(x) if number % 3 == 0 else x
    content = content_of(thin_out(keras.Model(i, x), 0.3), tmp_path)
    image = np.zeros((1, 8, 8, 32), "float32")
    close(outputs(interpreter(content, force=False), image), outputs(interpreter(content), image))


def test_the_report_tells_how_much_is_taken(files, tmp_path):
    assert "takes 19 of 19 convolutions" in report_on(files["zeros left out"], tmp_path)


def test_the_report_tells_why_something_is_left(tmp_path):
    x = keras.Input((None, None, 16))
    model = thin_out(keras.Model(x, layers.Conv2D(32, 3)(x)), 0.1)
    report = report_on(content_of(model, tmp_path), tmp_path)
    assert "its sizes are not known, or make no convolution" in report
    assert "takes 0 of 1 convolutions" in report


def test_latency_can_be_measured_with_and_without_it(files, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(files["zeros left out"])
    found = analysis.latency(path, repeats=3, delegate=True)
    assert found.median_ms > 0
    ratio = analysis.latency_ratio(path, path, delegate=(True, False), repeats=3)
    assert ratio.median > 0


@pytest.mark.parametrize("delegate", [(True,), [True, False, True], "yes", (1, 0)])
def test_latency_ratio_wants_one_answer_or_one_for_each(delegate):
    with pytest.raises(ValueError, match="delegate must be True or False"):
        analysis.latency_ratio("a.tflite", "b.tflite", delegate=delegate)


def test_run_tflite_takes_it(files, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(files["zeros left out"])
    x = np.random.default_rng(1).normal(size=(3, 20, 20, 5)).astype("float32")
    close([export.run_tflite(path, x, delegate=True)], [export.run_tflite(path, x)])


@pytest.mark.parametrize(
    "options",
    [
        {"threads": "2"},
        {"num_threads": "0"},
        {"num_threads": "two"},
        {"force": "2"},
        {"verbosity": "9"},
        {"machine": "1"},
    ],
)
def test_options_that_are_none_are_refused(options):
    from ai_edge_litert.interpreter import load_delegate

    with pytest.raises(ValueError, match="tfcompress: the option"):
        load_delegate(delegate.specification()[0], options)


def test_a_kernel_that_is_not_there_is_refused():
    from ai_edge_litert.interpreter import load_delegate

    with pytest.raises(ValueError, match="lanes_mmx"):
        load_delegate(delegate.specification()[0], {"kernel": "lanes_mmx"})


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"threads": "2"},
        {"threads": 2.5},
        {"threads": True},
        {"threads": 5000},
        {"verbosity": 3},
        {"verbosity": "1"},
        {"force": "yes"},
        {"force": None},
    ],
)
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        tfcompress.load_delegate(**options)


def test_without_the_library_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(_native, "path", lambda name: None)
    with pytest.raises(RuntimeError, match="was not built. Install a C\\+\\+ compiler"):
        tfcompress.load_delegate()
