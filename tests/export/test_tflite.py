"""Every .tflite file does what its Keras model does, or there is none."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfcompress import _native, export
from tfcompress._runtimes import conversion
from tfcompress._runtimes.signature import Signature
from tfcompress.export import ExportError, inputs, verify
from tfcompress.export.tflite import _cause

ROWS = 40


def two_way_model():
    """Two inputs, one of integers and named so that they sort the other way; two outputs of one shape."""
    words = keras.Input((5,), dtype="int32", name="words")
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(32, 3, use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(48, 3)(x))
    y = layers.Flatten()(layers.Embedding(30, 6)(words))
    return keras.Model([words, image], [layers.Dense(4)(y), layers.Dense(4)(layers.Concatenate()([x, y]))])


def two_way_data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 30, (ROWS, 5)), rng.normal(size=(ROWS, 8, 8, 3)).astype("float32")


def dense_model(zeros=0.0, units=128):
    x = keras.Input((64,), name="x")
    layer = layers.Dense(units, use_bias=False)
    model = keras.Model(x, layer(x))
    kernel = np.random.default_rng(0).normal(size=(64, units))
    layer.set_weights([np.where(np.random.default_rng(1).random(kernel.shape) < zeros, 0, kernel)])
    return model


def tiny_model():
    x = keras.Input((3,), name="x")
    return keras.Model(x, layers.Dense(2)(x))


@pytest.fixture(scope="module")
def two_way():
    return two_way_model()


@pytest.fixture(scope="module")
def exported(two_way, tmp_path_factory):
    return export.tflite(two_way, tmp_path_factory.mktemp("export") / "model.tflite", data=two_way_data())


@pytest.fixture
def converted_to(monkeypatch):
    """Makes the converter return these contents, by encoding, without converting anything."""

    def set_files(files):
        monkeypatch.setattr(conversion, "tflite_files", lambda *args, **kwargs: dict(files))

    return set_files


# What is written


def test_exported_file_gives_the_outputs_of_the_model(two_way, exported):
    words, image = two_way_data()
    found = export.run_tflite(exported.path, {"image": image, "words": words})
    for name, expected in zip(["output_0", "output_1"], two_way([words, image]), strict=True):
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


def test_report_states_what_is_on_disk(two_way, exported):
    assert exported.size_bytes == exported.path.stat().st_size
    assert exported.gzip_bytes < exported.size_bytes
    assert exported.float32_bytes == 4 * two_way.count_params()
    assert (exported.format, exported.quantization, exported.sparse_encoding) == ("tflite", None, False)


def test_report_states_the_comparison_and_the_runtime(exported):
    assert (exported.examples, exported.data, exported.tolerance) == (ROWS, "given", 1e-4)
    assert 0 <= exported.relative_error < 1e-5
    assert exported.latency.threads == exported.latency.batch == 1
    assert exported.latency.runtime.startswith("LiteRT ")


def test_report_is_readable(exported):
    text = str(exported)
    for part in ("model.tflite", f"{exported.size_bytes:,} bytes", "40 given examples", "1 thread, LiteRT"):
        assert part in text


def test_any_batch_size_runs(exported):
    words, image = two_way_data()
    one = export.run_tflite(exported.path, {"words": words[:1], "image": image[:1]})
    all_ = export.run_tflite(exported.path, {"words": words, "image": image})
    np.testing.assert_allclose(one["output_1"], all_["output_1"][:1], atol=1e-6)


@pytest.mark.parametrize(
    ("quantization", "quantizer", "least_gain"),
    [("float16", "converter", 1.5), ("int8", "converter", 2), ("int8", "ai_edge", 2)],
)
def test_quantized_file_is_smaller_and_within_tolerance(
    two_way, exported, tmp_path, quantization, quantizer, least_gain
):
    if quantizer == "ai_edge":
        pytest.importorskip("ai_edge_quantizer", reason="the extra [ai-edge] is not installed")
    words, image = two_way_data()
    labelled = [((words[i : i + 8], image[i : i + 8]), np.zeros(8)) for i in range(0, ROWS, 8)]
    report = export.tflite(
        two_way,
        tmp_path / "q.tflite",
        quantization=quantization,
        quantizer=quantizer,
        representative_data=labelled,
    )
    assert report.size_bytes * least_gain < exported.size_bytes
    assert 0 < report.relative_error <= report.tolerance == verify.TOLERANCES[quantization]
    assert (report.data, report.examples) == ("representative", ROWS)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A half precision model of open image size whose inputs and outputs are dicts, and its report."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        image, flags = keras.Input((None, None, 3), name="image"), keras.Input((4,), name="flags")
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(image))
        outputs = {"second": layers.Dense(2)(x), "first": [layers.Dense(2)(flags), x - flags]}
    finally:
        keras.config.set_dtype_policy("float32")
    model = keras.Model({"image": image, "flags": flags}, outputs)
    return model, export.tflite(model, tmp_path_factory.mktemp("export") / "keyed.tflite")


def test_dict_inputs_and_outputs_keep_their_keys(keyed):
    model, report = keyed
    data = {"flags": np.eye(4, dtype="float32"), "image": np.ones((4, 9, 7, 3), "float32")}
    found, expected = export.run_tflite(report.path, data), model(data)
    assert sorted(found) == ["first_0", "first_1", "second"]
    for name, tensor in zip(sorted(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(found[name], tensor, atol=1e-2)


def test_half_precision_model_is_exported_in_float32(keyed):
    model, report = keyed
    assert report.tolerance == 1e-2
    assert report.size_bytes > report.float32_bytes
    assert {layer.compute_dtype for layer in model.layers if layer.weights} == {"float16"}


def test_subclassed_model_takes_the_integers_of_its_data(tmp_path):
    class Bag(keras.Model):
        def __init__(self):
            super().__init__()
            self.table, self.head = layers.Embedding(9, 3), layers.Dense(2)

        def call(self, words):
            return self.head(self.table(words))

    model, words = Bag(), np.arange(9)[None]
    expected = model(words)
    report = export.tflite(model, tmp_path / "bag.tflite", data=words)
    np.testing.assert_allclose(export.run_tflite(report.path, words), expected, atol=1e-6)


def test_recurrent_model_is_exported_for_one_example_at_a_time(tmp_path):
    words = keras.Input((4,), dtype="int32", name="words")
    model = keras.Model(words, layers.Dense(3)(layers.LSTM(4)(layers.Embedding(9, 3)(words))))
    report = export.tflite(model, tmp_path / "lstm.tflite")
    data = np.arange(20).reshape(5, 4) % 9
    np.testing.assert_allclose(export.run_tflite(report.path, data), model(data), atol=1e-6)


def test_loop_over_time_that_cannot_be_calibrated_is_named(tmp_path):
    x = keras.Input((5, 3), name="x")
    outputs = layers.Dense(2)(layers.Bidirectional(layers.GRU(4, name="steps"))(x))
    data = np.random.default_rng(0).normal(size=(8, 5, 3)).astype("float32")
    check_refused(
        keras.Model(x, outputs),
        tmp_path / "model.tflite",
        r"int8 in a loop over time steps.*'backward_steps' \(GRU\), 'forward_steps' \(GRU\).*unroll=True",
        quantization="int8",
        representative_data=data,
    )


def test_unrolled_loop_over_time_is_calibrated(tmp_path):
    x = keras.Input((5, 3), name="x")
    model = keras.Model(x, layers.Dense(2)(layers.LSTM(4, unroll=True)(x)))
    data = np.random.default_rng(0).normal(size=(8, 5, 3)).astype("float32")
    report = export.tflite(model, tmp_path / "m.tflite", quantization="int8", representative_data=data)
    assert report.relative_error <= 0.2


# Zeros


def test_zeros_make_the_file_smaller(tmp_path):
    sparse = export.tflite(dense_model(zeros=0.9), tmp_path / "sparse.tflite")
    assert sparse.sparse_encoding
    assert sparse.size_bytes < 0.4 * sparse.float32_bytes
    assert sparse.relative_error < 1e-6


def test_zeros_are_stored_densely_where_interpreters_do_not_run_the_sparse_file(tmp_path):
    report = export.tflite(dense_model(zeros=0.9), tmp_path / "model.tflite", quantization="dynamic_int8")
    assert not report.sparse_encoding
    assert report.gzip_bytes < 0.4 * report.size_bytes < 0.2 * report.float32_bytes


@pytest.mark.parametrize(
    ("zeros", "quantization", "sparse_encoding", "tried"),
    [
        (0.9, None, "auto", (False, True)),
        (0.1, None, "auto", (False,)),
        (0.9, "int8", "auto", (False,)),
        (0.9, None, False, (False,)),
        (0.1, "float16", True, (True,)),
    ],
)
def test_encodings_that_are_tried(monkeypatch, tmp_path, zeros, quantization, sparse_encoding, tried):
    def stop(*args, encodings, **kwargs):
        raise InterruptedError(encodings)

    monkeypatch.setattr(conversion, "tflite_files", stop)
    options = {"quantization": quantization, "sparse_encoding": sparse_encoding}
    if quantization == "int8":
        options["representative_data"] = np.ones((2, 64))
    with pytest.raises(InterruptedError) as caught:
        export.tflite(dense_model(zeros), tmp_path / "model.tflite", **options)
    assert caught.value.args == (tried,)


def test_sparse_file_that_is_not_smaller_is_not_used(converted_to, monkeypatch, tmp_path):
    converted_to({False: b"1234", True: b"12345"})
    proof = verify.Proof(0.0, 0.0, False, False, latency=None)
    monkeypatch.setattr(verify, "prove", lambda *args: proof)
    export.tflite(dense_model(zeros=0.9), tmp_path / "model.tflite")
    assert (tmp_path / "model.tflite").read_bytes() == b"1234"


def test_sparse_file_that_was_insisted_on_and_does_not_run_is_an_error(converted_to, tmp_path):
    converted_to({True: b"no flatbuffer"})
    with pytest.raises(ExportError, match="does not run.*sparse_encoding='auto' falls back"):
        export.tflite(dense_model(zeros=0.9), tmp_path / "model.tflite", sparse_encoding=True)


WITH_DELEGATE = pytest.mark.skipif(_native.path("tflite") is None, reason="the delegate was not built")


@WITH_DELEGATE
@pytest.mark.parametrize("quantization", ["int8", "dynamic_int8"])
def test_the_smallest_file_of_int8_needs_the_delegate_and_says_so(quantization, tmp_path):
    data = np.random.default_rng(0).normal(size=(32, 64)).astype("float32")
    options = {"quantization": quantization, "representative_data": data}
    dense = export.tflite(dense_model(zeros=0.9), tmp_path / "dense.tflite", **options)
    sparse = export.tflite(
        dense_model(zeros=0.9), tmp_path / "sparse.tflite", sparse_encoding=True, **options
    )
    assert sparse.needs_delegate and not dense.needs_delegate
    assert "needs tfcompress.load_delegate()" in str(sparse)
    assert sparse.size_bytes < 0.65 * dense.size_bytes
    with pytest.raises(ValueError, match="does not run"):
        export.run_tflite(sparse.path, data)
    found = export.run_tflite(sparse.path, data, delegate=True)
    np.testing.assert_allclose(found, export.run_tflite(dense.path, data), atol=0.02 * np.abs(found).max())


def test_a_file_that_needs_the_delegate_is_refused_where_it_was_not_built(monkeypatch, tmp_path):
    monkeypatch.setattr(_native, "path", lambda name: None)
    check_refused(
        dense_model(zeros=0.9),
        tmp_path / "model.tflite",
        "Stock interpreters do not run.*was not built.*falls back",
        quantization="dynamic_int8",
        sparse_encoding=True,
    )


# Files that are wrong


def check_refused(model, path, match, **options):
    """The export fails with this message, and leaves the folder as it was."""
    path.write_bytes(b"an earlier file")
    with pytest.raises(ExportError, match=match):
        export.tflite(model, path, **options)
    assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [
        (path.name, b"an earlier file")
    ]


def test_file_of_another_model_is_refused(two_way, exported, converted_to, tmp_path):
    converted_to({False: exported.path.read_bytes()})
    keras.utils.set_random_seed(1)
    other = two_way_model()
    check_refused(other, tmp_path / "model.tflite", "its output 'output_.' differs by .* above the tolerance")


def test_file_with_swapped_outputs_is_refused(two_way, exported, converted_to, tmp_path):
    converted_to({False: exported.path.read_bytes()})
    swapped = keras.Model(two_way.inputs, two_way.outputs[::-1])
    check_refused(swapped, tmp_path / "model.tflite", "differs by", data=two_way_data())


def test_file_with_another_output_shape_is_refused(exported, converted_to, two_way, tmp_path):
    converted_to({False: exported.path.read_bytes()})
    first, second = two_way.outputs
    other = keras.Model(two_way.inputs, [first, layers.Dense(7)(second)])
    check_refused(other, tmp_path / "model.tflite", r"'output_1' of the file is \(8, 4\), .* \(8, 7\)")


def test_file_that_is_no_model_is_refused(converted_to, tmp_path):
    converted_to({False: b"no flatbuffer"})
    check_refused(tiny_model(), tmp_path / "model.tflite", "does not run.*ValueError")


def test_file_that_crashes_the_interpreter_is_refused(converted_to, monkeypatch, tmp_path):
    converted_to({False: b""})
    (tmp_path / "child.py").write_text("import os\ndef prove(**arguments): os.abort()")
    monkeypatch.setattr(conversion, "CHILD", tmp_path / "child.py")
    (tmp_path / "out").mkdir()
    check_refused(tiny_model(), tmp_path / "out" / "model.tflite", "crashed: it was killed by SIGABRT")


def test_operation_that_tflite_lacks_is_named(tmp_path):
    x = keras.Input((3,), name="x")
    model = keras.Model(x, keras.ops.erfinv(x))
    check_refused(
        model, tmp_path / "model.tflite", "it has no operation for Erfinv", data=np.zeros((2, 3), "float32")
    )


def test_cause_of_a_failed_conversion_is_short():
    assert (
        _cause("x: error\nTF Select ops: Conv2D, Relu\nDetails:\n") == "it has no operation for Conv2D, Relu"
    )
    assert _cause("ConverterError: " + 9999 * "y").count("y") < 999


# Arguments


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"quantization": "int4"}, "Unknown quantization 'int4'. Did you mean 'int8'?"),
        ({"quantization": "int8"}, "needs representative_data"),
        ({"quantizer": "ai-edge"}, "Did you mean 'ai_edge'"),
        ({"quantization": "float16", "quantizer": "ai_edge"}, "for float16 leave it out"),
        ({"quantization": "int8", "representative_data": np.empty((0, 3))}, "data is empty"),
        ({"quantization": "int8", "representative_data": iter([])}, "data is empty"),
        ({"quantization": "int8", "representative_data": 3}, "Expected arrays, a dataset or an iterable"),
        ({"sparse_encoding": "yes"}, "Available: auto, True, False"),
        ({"data": np.ones((2, 4))}, r"Input 'x' takes arrays of shape \(None, 3\); the data has \(2, 4\)"),
        ({"data": {"y": np.ones((2, 3))}}, "takes 1 input: 'x' .* a dict with the keys 'y'"),
        ({"data": np.full((2, 3), np.nan)}, "itself returns NaN or infinite values on the given inputs"),
        ({"tolerance": 0.0}, "tolerance must be a number above 0"),
        ({"tolerance": float("nan")}, "tolerance must be a number above 0"),
    ],
)
def test_wrong_argument_is_refused_before_anything_is_converted(monkeypatch, tmp_path, options, match):
    monkeypatch.setattr(conversion, "tflite_files", None)
    with pytest.raises(ValueError, match=match):
        export.tflite(tiny_model(), tmp_path / "model.tflite", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "match"),
    [("model.lite", "must end in .tflite"), ("no/model.tflite", "no folder"), ("d.tflite", "is a folder")],
)
def test_path_that_cannot_be_written_is_refused(tmp_path, path, match):
    (tmp_path / "d.tflite").mkdir()
    with pytest.raises(ValueError, match=match):
        export.tflite(tiny_model(), tmp_path / path)


def test_model_that_is_not_built_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not built"):
        export.tflite(keras.Sequential([layers.Dense(2)]), tmp_path / "model.tflite")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Expected a keras.Model, got str"):
        export.tflite("model.keras", tmp_path / "model.tflite")


def test_subclassed_half_precision_model_is_refused_with_a_way_out(tmp_path):
    class Head(keras.Model):
        def __init__(self):
            super().__init__(dtype="mixed_float16")
            self.head = layers.Dense(2, dtype="mixed_float16")

        def call(self, x):
            return self.head(x)

    model = Head()
    model(np.ones((1, 3), "float32"))
    with pytest.raises(ValueError, match="computes in float16.*set_dtype_policy"):
        export.tflite(model, tmp_path / "model.tflite")


def test_export_under_another_backend_is_refused(monkeypatch, tmp_path):
    model = tiny_model()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="it runs on jax.*KERAS_BACKEND=tensorflow"):
        export.tflite(model, tmp_path / "model.tflite")


def test_input_that_is_missing_is_named_when_a_file_is_run(exported):
    with pytest.raises(ValueError, match=r"has the inputs \['image', 'words'\], got \['words'\]"):
        export.run_tflite(exported.path, {"words": two_way_data()[0]})


def test_running_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        export.run_tflite(tmp_path / "model.tflite", np.ones((1, 3)))


# The forms of data


WORDS, IMAGE = two_way_data()
LABELS = np.arange(ROWS)


@pytest.mark.parametrize(
    "data",
    [
        (WORDS, IMAGE),
        [WORDS, IMAGE],
        {"image": IMAGE, "words": WORDS},
        ((WORDS, IMAGE), LABELS),
        ([WORDS, IMAGE], LABELS),
        [(WORDS[:7], IMAGE[:7]), (WORDS[7:], IMAGE[7:])],
        iter([((WORDS, IMAGE), LABELS, LABELS)]),
    ],
    ids=["tuple", "list", "dict", "labels", "list and labels", "batches", "batches with labels and weights"],
)
def test_every_form_of_data_gives_the_same_examples(two_way, data):
    _, batches = inputs.batches(data, Signature.of(two_way))
    np.testing.assert_array_equal(np.concatenate([batch["words"] for batch in batches]), WORDS)
    np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in batches]), IMAGE)
    assert {batch["words"].dtype.name for batch in batches} == {"int32"}


def test_tensorflow_dataset_is_read(two_way):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(((WORDS, IMAGE), LABELS)).batch(16)
    _, batches = inputs.batches(dataset, Signature.of(two_way))
    assert [len(batch["words"]) for batch in batches] == [16, 16, 8]
    np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in batches]), IMAGE)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.booleans())
def test_batches_of_any_size_hold_every_example_once(sizes, labelled):
    rows = np.arange(3 * sum(sizes)).reshape(-1, 3)
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    data = [(part, np.zeros(len(part))) for part in parts] if labelled else parts
    x = keras.Input((3,), name="x")
    _, batches = inputs.batches(data, Signature.of(keras.Model(x, x)))
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), rows)


def test_fixed_batch_size_leaves_out_what_does_not_fill_a_batch():
    x = keras.Input(batch_shape=(4, 3), name="x")
    _, batches = inputs.batches(np.ones((10, 3)), Signature.of(keras.Model(x, x)))
    assert [len(batch["x"]) for batch in batches] == [4, 4]


def test_random_integers_are_valid_for_every_embedding(two_way):
    (batch,) = inputs.random(two_way, Signature.of(two_way))
    assert batch["words"].min() >= 0 and 1 < batch["words"].max() < 30


# The measure


def reference_of(arrays, tolerance):
    return verify.Reference(
        None, [{"x": array} for array in arrays], [{"y": a} for a in arrays], "given", tolerance, ""
    )


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=9), st.floats(1e-3, 10), st.floats(0.1, 10)
)
def test_relative_error_does_not_depend_on_the_scale(values, shift, scale):
    values = np.array([1.0, *values])
    tall, flat = (
        verify.compare(reference_of([factor * values], np.inf), [[factor * (values + shift)]])
        for factor in (scale, 1.0)
    )
    assert tall[0] == pytest.approx(scale * flat[0])
    assert tall[1] == pytest.approx(flat[1]) == pytest.approx(shift / np.abs(values).max())


def test_relative_error_is_measured_against_the_largest_value_of_all_batches():
    expected = reference_of([np.array([100.0]), np.array([1.0])], tolerance=0.1)
    assert verify.compare(expected, [[np.array([100.0])], [np.array([2.0])]]) == (1.0, 0.01)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(wrong):
    with pytest.raises(ExportError, match="differs by inf"):
        verify.compare(reference_of([np.ones(2)], 0.1), [[np.array([1.0, wrong])]])
