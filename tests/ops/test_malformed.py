"""Files that no converter writes: with the delegate an error or what stock does, never a crash."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from delegated import NEEDS_DELEGATE
from keras import layers

from tfcompress import export
from tfcompress.ops import delegate

schema = pytest.importorskip("tensorflow.lite.python.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")

pytestmark = NEEDS_DELEGATE
DENSIFY, CONV_2D = schema.BuiltinOperator.DENSIFY, schema.BuiltinOperator.CONV_2D


def read(path: Path):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))


def write(model, path: Path) -> Path:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def operators(model, code: int) -> list:
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return [op for op in model.subgraphs[0].operators if codes[op.opcodeIndex] == code]


def exported(path: Path, channels: int = 16, **options) -> Path:
    x = keras.Input((8, 8, channels))
    model = keras.Model(x, layers.Conv2D(32, 3, padding="same", activation="relu")(x))
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, channels, 32)) * (rng.random((3, 3, channels, 32)) < 0.05)
    model.layers[-1].set_weights([kernel, rng.normal(size=32)])
    export.tflite(model, path, tolerance=1, **options)
    return path


def long_bias(folder: Path):
    """A bias in half precision with far more entries than there are filters."""
    model = read(exported(folder / "model.tflite", quantization="float16", sparse_encoding=False))
    (bias,) = (t for t in model.subgraphs[0].tensors if list(t.shape) == [32] and t.type == 1)
    bias.shape = np.array([4_000_000], "int32")
    model.buffers[bias.buffer].data = np.ones(4_000_000, "float16").view("uint8")
    return model


def endless(folder: Path):
    """Two nodes that make weights dense, each from what the other makes."""
    model = read(exported(folder / "model.tflite", sparse_encoding=True))
    graph, (first,) = model.subgraphs[0], operators(model, DENSIFY)
    graph.tensors.append(copy.deepcopy(graph.tensors[first.outputs[0]]))
    second = copy.deepcopy(first)
    first.inputs = np.array([len(graph.tensors) - 1], "int32")
    second.inputs, second.outputs = np.array(first.outputs), np.array(first.inputs)
    graph.operators.insert(0, second)
    return model


def from_nothing(folder: Path):
    """A node that makes weights dense, of nothing."""
    model = read(exported(folder / "model.tflite", sparse_encoding=True))
    operators(model, DENSIFY)[0].inputs = np.array([], "int32")
    return model


def shallow(folder: Path):
    """Filters of 12 channels for maps of 16."""
    model = read(exported(folder / "model.tflite", channels=12, sparse_encoding=False))
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shape = np.array([1, 8, 8, 16], "int32")
    return model


def undilated(folder: Path):
    """A dilation of 0."""
    model = read(exported(folder / "model.tflite", sparse_encoding=False))
    operators(model, CONV_2D)[0].builtinOptions.dilationHFactor = 0
    return model


CASES = (long_bias, endless, from_nothing, shallow, undilated)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, str]:
    """All in one other process, which a crash or an endless loop would end."""
    folder = tmp_path_factory.mktemp("malformed")
    files = [write(case(folder), folder / f"{case.__name__}.tflite") for case in CASES]
    library, options = delegate.specification(force=True)
    command = [sys.executable, Path(__file__).with_name("malformed.py"), library, json.dumps(options), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == len(CASES), f"{done.returncode} after {lines}: {done.stderr[-1000:]}"
    return dict(zip((case.__name__ for case in CASES), lines, strict=True))


@pytest.mark.parametrize("case", [case.__name__ for case in CASES if case is not long_bias])
def test_a_file_that_the_interpreter_refuses_is_refused(results, case):
    assert results[case].startswith("refused")


def test_a_bias_that_changes_its_size_is_not_read_over_its_end(results):
    assert results["long_bias"] == "ran"  # as the interpreter alone does
