"""The delegate computes, bit for bit, what the stock interpreter does with int8 files."""

import keras
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
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

from tfcompress.ops import delegate

Interpreter, load_delegate = litert.Interpreter, litert.load_delegate
schema = pytest.importorskip("tensorflow.lite.python.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")

pytestmark = NEEDS_DELEGATE


def int8_file(model, tmp_path, **options):
    data = np.random.default_rng(0).normal(0.2, size=(32, *model.input_shape[1:])).astype("float32")
    return content_of(model, tmp_path, quantization="int8", representative_data=data, **options)


def same(content, x, **options):
    stock = outputs(interpreter(content), x)
    mine = outputs(interpreter(content, **options), x)
    assert len(mine) == len(stock)
    for found, expected in zip(mine, stock, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    model = thin_out(residual(outputs_inside=True), 0.2)
    return int8_file(model, tmp_path_factory.mktemp("network"))


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_residual_network(network, force, threads):
    x = np.random.default_rng(1).normal(size=(3, 20, 20, 5)).astype("float32")
    same(network, x, force=force, threads=threads)


@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_any_convolution(tmp_path_factory, data):
    x = keras.Input((data.draw(st.integers(10, 33)), data.draw(st.integers(10, 33)), 6))
    found = [layers.Conv2D(**data.draw(settings_of_convolutions()))(x) for _ in range(8)]
    model = thin_out(keras.Model(x, found), data.draw(st.sampled_from([0.03, 0.2, 1])))
    content = int8_file(model, tmp_path_factory.mktemp("any"))
    same(content, np.random.default_rng(0).normal(size=(2, *x.shape[1:])).astype("float32"), force=True)


def test_dense_layers_behind_each_other_and_on_maps(tmp_path):
    content = int8_file(thin_out(dense_layers(), 0.1), tmp_path)
    for batch in (1, 40):
        same(content, np.random.default_rng(0).normal(size=(batch, 6, 6, 8)).astype("float32"), force=True)


def test_all_of_a_network_is_taken_when_forced(network, tmp_path):
    assert "takes 19 of 19 convolutions" in report_on(network, tmp_path)


@pytest.mark.parametrize("kernel", ["lanes", "blocks"])
def test_a_kernel_may_be_named(network, kernel):
    """Of the plainest there is."""
    library, options = delegate.specification(force=True)
    given = {**options, "kernel": f"int8_{kernel}_portable"}
    runner = Interpreter(model_content=network, experimental_delegates=[load_delegate(library, given)])
    x = np.random.default_rng(1).normal(size=(1, 20, 20, 5)).astype("float32")
    for found, expected in zip(outputs(runner, x), outputs(interpreter(network), x), strict=True):
        np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------------ weights in int8 that are stored sparse


def small(tmp_path, density, **options):
    x = keras.Input((9, 9, 8))
    y = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    model = keras.Model(x, layers.Conv2D(16, 1)(y))
    return int8_file(thin_out(model, density), tmp_path, **options)


@pytest.mark.parametrize("force", [True, False])
def test_what_is_stored_sparse_runs_and_is_the_same(tmp_path, force):
    """Also where dense would be faster: nothing else runs it."""
    sparse = small(tmp_path, 0.4, sparse_encoding=True)
    dense = small(tmp_path, 0.4, sparse_encoding=False)
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 8)).astype("float32")
    (found,) = outputs(interpreter(sparse, force=force), x)
    (expected,) = outputs(interpreter(dense), x)
    np.testing.assert_array_equal(found, expected)


def test_activations_of_dynamic_int8_stay_float32(tmp_path):
    """So that outputs are closer to those of the weights than the stock interpreter's."""
    x = keras.Input((9, 9, 8))
    model = thin_out(keras.Model(x, layers.Conv2D(32, 3)(x)), 0.2)
    images = np.random.default_rng(0).normal(size=(4, 9, 9, 8)).astype("float32")
    content = content_of(model, tmp_path, quantization="dynamic_int8", sparse_encoding=False)
    kernel, bias = model.get_weights()
    scales = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    model.set_weights([np.rint(kernel / scales) * scales, bias])
    (mine,), (stock,) = (
        outputs(interpreter(content, **options), images) for options in ({"force": True}, {})
    )
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(mine, expected, atol=2e-5)
    assert np.abs(stock - expected).max() > 10 * np.abs(mine - expected).max()


# ------------------------------------------------------------------ what is left to the interpreter


def changed(content: bytes, change) -> bytes:
    """The file with other tensors of its convolution: `change(filters, output)`."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    graph = model.subgraphs[0]
    (operator,) = (
        each for each in graph.operators if codes[each.opcodeIndex] == schema.BuiltinOperator.CONV_2D
    )
    change(graph.tensors[operator.inputs[1]].quantization, graph.tensors[operator.outputs[0]].quantization)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def asymmetric(filters, output):
    filters.zeroPoint = np.full_like(filters.zeroPoint, 3)


def zero_scale(filters, output):
    filters.scale = np.zeros_like(filters.scale)


def scale_that_is_no_number(filters, output):
    output.scale = np.full_like(output.scale, np.nan)


def no_scale(filters, output):
    output.scale = None


@pytest.fixture(scope="module")
def convolution(tmp_path_factory):
    x = keras.Input((9, 9, 8))
    model = thin_out(keras.Model(x, layers.Conv2D(32, 3)(x)), 0.2)
    return int8_file(model, tmp_path_factory.mktemp("convolution"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (asymmetric, "the zero of its weights is not 0"),
        (zero_scale, "a scale is not above 0"),
        (scale_that_is_no_number, "a scale is not above 0"),
        (no_scale, "a tensor has no scale"),
    ],
)
def test_numbers_that_are_none_are_left(convolution, tmp_path, change, reason):
    report = report_on(changed(convolution, change), tmp_path)
    assert reason in report
    assert "takes 0 of 1 convolutions" in report


def test_activations_in_int16_are_left(tmp_path):
    import tensorflow as tf

    x = keras.Input((9, 9, 8))
    model = thin_out(keras.Model(x, layers.Conv2D(32, 3)(x)), 0.2)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    ops = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.target_spec.supported_ops = [ops]
    images = np.random.default_rng(0).normal(size=(8, 9, 9, 8)).astype("float32")
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    report = report_on(converter.convert(), tmp_path)
    assert "it does not compute with float32 or int8" in report
    assert "takes 0 of 1 convolutions" in report
