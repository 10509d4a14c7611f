"""The native op, and the dense convolutions in its place, compute one and the same."""

import contextlib
import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from backends import NEEDS_TENSORFLOW
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import array
from sparse_convs import (
    LINUX,
    MODULE,
    NEEDS_LIBRARY,
    WITHOUT_WARNING,
    images,
    library_at,
    thread_count,
)

from tfcompress import _native, ops

pytestmark = [NEEDS_TENSORFLOW, WITHOUT_WARNING]


@dataclass(frozen=True)
class Case:
    """The arguments of a call. A quarter of the weights is left."""

    map_shape: tuple[int, ...]
    filter_shape: tuple[int, ...]
    strides: tuple[int, int] = (1, 1)
    dilation_rate: tuple[int, int] = (1, 1)
    padding: str = "same"
    activation: str | None = None
    seed: int = 0

    @property
    def kernel(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        return rng.normal(size=self.filter_shape) * (rng.random(self.filter_shape) < 0.25)

    def tensors(self) -> list:
        """Inputs, indices, values and bias."""
        import tensorflow as tf

        flat = self.kernel.ravel().astype("float32")
        places = np.flatnonzero(flat).astype("int32")
        bias = np.linspace(-1, 1, self.filter_shape[-1], dtype="float32")
        return [tf.constant(a) for a in (images(self.map_shape, self.seed), places, flat[places], bias)]

    @property
    def options(self) -> dict:
        names = "filter_shape strides dilation_rate padding activation".split()
        return {name: getattr(self, name) for name in names}

    def call(self, *tensors):
        return ops.sparse_conv2d(*(tensors or self.tensors()), **self.options)

    def gradients(self, *tensors) -> list[np.ndarray]:
        """Outputs, and gradients of a sum of their squares by inputs, values and bias."""
        import tensorflow as tf

        inputs, indices, values, bias = tensors or self.tensors()
        with tf.GradientTape() as tape:
            tape.watch([inputs, values, bias])
            made = self.call(inputs, indices, values, bias)
            loss = tf.reduce_sum(made**2)
        return [made, *tape.gradient(loss, [inputs, values, bias])]


SMALL = Case((2, 6, 7, 4), (3, 3, 4, 5), activation="relu")


@st.composite
def cases(draw) -> Case:
    groups, depth, filters = (draw(st.integers(1, 3)) for _ in range(3))
    window = draw(st.sampled_from(["strides", "dilation_rate"]))
    return Case(
        (draw(st.integers(1, 3)), draw(st.integers(7, 12)), draw(st.integers(7, 20)), groups * depth),
        (draw(st.integers(1, 3)), draw(st.integers(1, 3)), depth, groups * filters),
        **{window: (draw(st.integers(1, 3)), draw(st.integers(1, 3)))},
        padding=draw(st.sampled_from(["same", "valid"])),
        activation=draw(st.sampled_from([None, "relu", "relu6"])),
        seed=draw(st.integers(0, 99)),
    )


def assert_close(expected, got, tolerance=1e-5) -> None:
    for a, b in zip(map(array, expected), map(array, got), strict=True):
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance * max(np.abs(a).max(initial=0), 1))


@NEEDS_LIBRARY
@settings(max_examples=15)
@given(cases())
def test_native_op_and_dense_convolution_agree_in_outputs_and_gradients(case):
    native = case.gradients()
    with library_at(None):
        assert_close(case.gradients(), native)


@pytest.mark.parametrize("hidden", [False, True])
def test_outputs_are_those_of_a_plain_convolution(hidden):
    x, _, _, bias = map(array, SMALL.tensors())
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    expected = bias + sum(
        padded[:, row : row + 6, column : column + 7] @ SMALL.kernel[row, column]
        for row in range(3)
        for column in range(3)
    )
    with library_at(None) if hidden else contextlib.nullcontext():
        np.testing.assert_allclose(array(SMALL.call()), np.maximum(expected, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_function_agrees_with_eager_call(jit_compile, hidden):
    import tensorflow as tf

    with library_at(None) if hidden else contextlib.nullcontext():
        compiled = tf.function(SMALL.gradients, jit_compile=jit_compile)
        assert_close(SMALL.gradients(), compiled(*SMALL.tensors()))


@NEEDS_LIBRARY
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_second_derivatives_agree(activation):
    import tensorflow as tf

    case = Case((1, 5, 5, 2), (3, 3, 2, 3), activation=activation)

    def curvature():
        inputs, indices, values, bias = case.tensors()
        with tf.GradientTape() as tape:
            tape.watch(values)
            _, by_inputs, *_ = case.gradients(inputs, indices, values, bias)
            loss = tf.reduce_sum(by_inputs**2)
        return [tape.gradient(loss, values)]

    native = curvature()
    with library_at(None):
        assert_close(curvature(), native)


@NEEDS_LIBRARY
def test_op_tells_rank_batch_and_filters_of_its_output():
    import tensorflow as tf

    module, _ = MODULE._library()
    attributes = MODULE._Conv.of((3, 3, 4, 5), 1, 1, "same", None).attributes
    spec = tf.TensorSpec
    types = spec([2, None, 7, 4]), spec([9], tf.int32), spec([9]), spec([5])
    call = tf.function(lambda *tensors: module.tfcompress_sparse_conv2d(*tensors, **attributes))
    assert call.get_concrete_function(*types).output_shapes.as_list() == [2, None, None, 5]
    with pytest.raises(ValueError, match="must be rank 4"):
        call.get_concrete_function(spec([2, 4]), *types[1:])


def test_output_shape_is_known_where_the_size_of_the_map_is():
    import tensorflow as tf

    case = Case((1, 9, 9, 4), (3, 2, 4, 5), strides=(2, 3), padding="valid")
    call = tf.function(lambda x: case.call(x, *case.tensors()[1:]))
    open_width = tf.TensorSpec([None, 9, None, 4])
    assert call.get_concrete_function(open_width).output_shapes.as_list() == [None, 4, None, 5]
    assert case.call().shape == (1, 4, 3, 5)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.assign(values * 2),
        lambda values: values.assign_sub(values / 3),
        lambda values: values.scatter_nd_add([[0], [2]], [7.0, 9.0]),
        lambda values: keras.optimizers.SGD(0.5).apply([values * 1.0], [values]),
    ],
    ids=["assign", "assign_sub", "scatter", "optimizer"],
)
def test_values_that_change_in_place_are_seen(change):
    import tensorflow as tf

    inputs, indices, values, bias = SMALL.tensors()
    variable = tf.Variable(values)
    call = tf.function(lambda: SMALL.call(inputs, indices, variable, bias))
    seen = [array(call())]
    for _ in range(3):
        change(variable)
        seen.append(array(call()))
        with library_at(None):
            assert_close([SMALL.call(inputs, indices, tf.identity(variable), bias)], seen[-1:])
    assert all(np.abs(a - b).max() > 0.01 for a, b in itertools.pairwise(seen))


def test_many_layers_of_one_kind_do_not_get_in_each_others_way():
    cases = [Case((1, 4, 4 + seed % 2, 3), (3, 3, 3, 4), seed=seed) for seed in range(20)]
    with library_at(None):
        expected = [case.call() for case in cases]
    for _ in range(2):
        assert_close(expected, [case.call() for case in cases])


def test_calls_from_several_threads_at_once_agree():
    import tensorflow as tf

    cases = [Case((2, 5 + seed % 3, 6, 3), (3, 3, 3, 4), seed=seed) for seed in range(6)]
    call = tf.function(lambda *tensors: cases[0].call(*tensors), reduce_retracing=True)
    expected = [array(call(*case.tensors())) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda case: array(call(*case.tensors())), cases * 5))
    for a, b in zip(expected * 5, made, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("weights", [0, 1])
def test_hardly_any_weights_and_no_images_are_fine(weights):
    x = np.ones((2, 3, 3, 1), "float32")
    options = {"filter_shape": (1, 1, 1, 1), "activation": "relu"}
    made = ops.sparse_conv2d(x, np.arange(weights), np.full(weights, 5.0), [1.0], **options)
    np.testing.assert_array_equal(made, np.full((2, 3, 3, 1), 1 + 5 * weights))
    assert ops.sparse_conv2d(x[:0], np.arange(weights), np.ones(weights), **options).shape == (0, 3, 3, 1)


# The library


def test_missing_library_warns_once_and_computes_the_same():
    expected = SMALL.call()
    with library_at(None):
        with pytest.warns(UserWarning, match="densely.*the native op was not built.*C\\+\\+17 compiler"):
            made = SMALL.call()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            SMALL.call()
        with pytest.raises(RuntimeError, match="not there: the native op was not built"):
            ops.load_library()
    assert_close([expected], [made])


def test_library_of_another_platform_warns_with_the_reason(tmp_path):
    file = tmp_path / "libtfcompress_tf.so"
    file.write_bytes(b"\x7fELF of another processor")
    expected = SMALL.call()
    with library_at(file):
        with pytest.warns(UserWarning, match=f"densely.*does not load .*{file.name}"):
            made = SMALL.call()
        with pytest.raises(RuntimeError, match=f"does not load .*{file.name}"):
            ops.load_library()
    assert_close([expected], [made])


@NEEDS_LIBRARY
def test_library_is_loaded_by_name_and_again():
    ops.load_library()
    with library_at(_native.path("tf")):
        ops.load_library()
        assert_close(SMALL.gradients(), SMALL.gradients())


@NEEDS_LIBRARY
@LINUX
def test_op_uses_as_many_threads_as_tensorflow_may(monkeypatch):
    """Threads once started stay, so each setting is above the one before."""
    import tensorflow as tf

    running = []
    for threads in (9, 12, 13):
        monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda n=threads: n)
        with library_at(_native.path("tf")):
            Case((8, 32, 32, 16), (3, 3, 16, 16)).call()
        running.append(thread_count())
    monkeypatch.undo()
    with library_at(_native.path("tf")):
        Case((8, 32, 32, 16), (3, 3, 16, 16)).call()
    assert np.diff([*running, thread_count()]).tolist() == [3, 1, 0]


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filter_shape": (3, 3, 4)}, "filter_shape must be 4 whole numbers above 0, got"),
        ({"filter_shape": (3, 3, 3, 5)}, "do not fit inputs of 4 channels"),
        ({"filter_shape": (3, 3, 8, 5)}, "do not fit inputs of 4 channels"),
        ({"filter_shape": (3, 3, 2, 5)}, "groups must divide the channels and the filters"),
        ({"filter_shape": (3, 3, 4, 6)}, "bias must be \\(6,\\)"),
        ({"filter_shape": (7, 3, 4, 5), "padding": "valid"}, "span 7 pixels do not fit into a map of 6"),
        ({"strides": 0}, "strides must be 2 whole numbers above 0, got 0"),
        ({"dilation_rate": (1, 2.5)}, "dilation_rate must be 2 whole numbers"),
        ({"strides": 2, "dilation_rate": 2}, "strides .* do not go with dilation_rate"),
        ({"padding": "causal"}, "Unknown padding 'causal'"),
        ({"activation": "tanh"}, "activation must be None, 'relu' or 'relu6', got 'tanh'"),
        ({"indices": [0, 0]}, "indices must increase and lie in 0 ... 179"),
        ({"indices": [5, 180]}, "indices must increase and lie in 0 ... 179"),
        ({"indices": [-1, 3]}, "indices must increase and lie in 0 ... 179"),
        ({"indices": [1, 2, 3]}, "indices and values must be \\(n,\\), n the same"),
        ({"inputs": np.ones((6, 7, 4))}, "Expected inputs \\(batch, height, width, channels\\)"),
        ({"bias": np.ones(4)}, "bias must be \\(5,\\), one for each filter, got \\(4,\\)"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    inputs = {"inputs": images((2, 6, 7, 4)), "indices": [3, 4], "values": [1.0, 2.0], "bias": np.ones(5)}
    arguments = {**inputs, "filter_shape": (3, 3, 4, 5), "padding": "same", **change}
    with pytest.raises(ValueError, match=message):
        ops.sparse_conv2d(**arguments)


def test_other_types_are_refused():
    import tensorflow as tf

    inputs, indices, values, bias = SMALL.tensors()
    with pytest.raises(ValueError, match="inputs must be float32, got float64. tf.cast"):
        SMALL.call(tf.cast(inputs, tf.float64), indices, values, bias)
    with pytest.raises(ValueError, match="indices must be int32, got int64"):
        SMALL.call(inputs, tf.cast(indices, tf.int64), values, bias)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda indices, values, bias: (indices, values * np.nan, bias), "infinite or not a number"),
        (lambda indices, values, bias: (indices, values, bias * np.inf), "infinite or not a number"),
        (lambda indices, values, bias: (indices[::-1], values, bias), "indices must increase"),
        (lambda indices, values, bias: (indices + 180, values, bias), "indices"),
    ],
)
def test_bad_weights_are_an_error_when_the_op_runs(change, message, compiled, hidden):
    import tensorflow as tf

    inputs, *weights = SMALL.tensors()
    call = tf.function(SMALL.call) if compiled else SMALL.call
    with library_at(None) if hidden else contextlib.nullcontext():
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            call(inputs, *change(*weights))
        assert np.isfinite(array(call(inputs, *weights))).all()
