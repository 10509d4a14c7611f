"""Every SavedModel does what its Keras model does, or the folder stays as it was."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import export
from tfcompress._runtimes import conversion
from tfcompress.export import ExportError


def keyed_model():
    """Inputs and outputs by key, of one shape, and integers among them."""
    a, b = keras.Input((3,), name="b", dtype="int32"), keras.Input((3,), name="a")
    x = layers.Dense(2)(layers.Flatten()(layers.Embedding(5, 2)(a)))
    return keras.Model({"b": a, "a": b}, {"z": x, "y": layers.Dense(2)(b)})


def tiny_model():
    x = keras.Input((3,), name="x")
    return keras.Model(x, layers.Dense(2)(x))


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export.saved_model(keyed_model(), tmp_path_factory.mktemp("export") / "model")


@pytest.fixture
def earlier(tmp_path):
    """A folder that looks like a SavedModel."""
    path = tmp_path / "model"
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"an earlier model")
    return path


def test_saved_model_gives_the_outputs_of_the_model(exported):
    assert exported.relative_error < 1e-6
    assert (exported.examples, exported.data, exported.tolerance) == (8, "random", 1e-4)


def test_report_counts_every_file_of_the_folder(exported):
    files = contents(exported.path)
    assert exported.size_bytes == sum(map(len, files.values()))
    assert any(file.name == "saved_model.pb" for file in files)
    assert exported.latency.runtime.startswith("TensorFlow ")
    assert (exported.format, exported.quantization, exported.sparse_encoding) == ("saved_model", None, False)


def test_earlier_saved_model_is_replaced(earlier, monkeypatch):
    monkeypatch.setattr(conversion, "CHILD", fake_child(earlier.parent, "outputs"))
    x = keras.Input((3,), name="x")
    export.saved_model(keras.Model(x, layers.ReLU()(x)), earlier, data=np.zeros((1, 3), "float32"))
    assert (earlier / "saved_model.pb").read_bytes() != b"an earlier model"
    assert [file.name for file in earlier.parent.iterdir() if file.is_dir()] == ["model"]


def fake_child(folder, outputs):
    """Stands in for TensorFlow, which takes seconds to start: every output is 0, or the process dies."""
    answer = "{'outputs': [[np.zeros((1, 3))]], 'sparse': False, 'times_ms': [[1.0]], 'version': 'none'}"
    path = folder / "child.py"
    path.write_text(
        f"import os\nimport numpy as np\ndef prove(**a): return {answer if outputs else 'os.abort()'}"
    )
    return path


@pytest.mark.parametrize(
    ("outputs", "value", "match"),
    [(True, 1.0, "its output 'output_0' differs by 1,"), (False, 0.0, "killed by SIGABRT")],
    ids=["differs", "crashes"],
)
def test_what_is_wrong_leaves_the_folder_as_it_was(earlier, monkeypatch, outputs, value, match):
    monkeypatch.setattr(conversion, "CHILD", fake_child(earlier.parent, outputs))
    before = contents(earlier.parent)
    x = keras.Input((3,), name="x")
    with pytest.raises(ExportError, match=match):
        export.saved_model(keras.Model(x, layers.ReLU()(x)), earlier, data=np.full((1, 3), value, "float32"))
    assert contents(earlier.parent) == before


def test_folder_that_cannot_be_moved_is_put_back(earlier, monkeypatch):
    monkeypatch.setattr(conversion, "CHILD", fake_child(earlier.parent, outputs=True))
    rename = type(earlier).rename

    def fail_for_the_new_one(self, target):
        if target == earlier and self.name == "model":
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(type(earlier), "rename", fail_for_the_new_one)
    x = keras.Input((3,), name="x")
    with pytest.raises(OSError, match="disk full"):
        export.saved_model(keras.Model(x, layers.ReLU()(x)), earlier, data=np.zeros((1, 3), "float32"))
    assert (earlier / "saved_model.pb").read_bytes() == b"an earlier model"


def test_outputs_that_a_saved_model_cannot_hold_are_explained(tmp_path):
    x = keras.Input((3,), name="x")
    model = keras.Model(x, {"a": [layers.Dense(2)(x), x]})
    with pytest.raises(ExportError, match="cannot be written as a SavedModel: .*'a'"):
        export.saved_model(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_no_saved_model_is_not_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("my thesis")
    with pytest.raises(ValueError, match=r"is no SavedModel, so it is not replaced: \['thesis.txt'\]"):
        export.saved_model(tiny_model(), tmp_path / "model")
    assert (tmp_path / "model" / "thesis.txt").read_text() == "my thesis"


def test_file_is_not_replaced(tmp_path):
    (tmp_path / "model").write_text("my thesis")
    with pytest.raises(ValueError, match="is no SavedModel"):
        export.saved_model(tiny_model(), tmp_path / "model")


def test_folder_of_the_folder_must_exist(tmp_path):
    with pytest.raises(ValueError, match="There is no folder"):
        export.saved_model(tiny_model(), tmp_path / "no" / "model")


def test_export_under_another_backend_is_refused(monkeypatch, tmp_path):
    model = tiny_model()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="it runs on jax"):
        export.saved_model(model, tmp_path / "model")
