"""Write a Keras model as a SavedModel that has been run.

>>> import keras, tempfile
>>> x = keras.Input((4,))
>>> model = keras.Model(x, keras.layers.Dense(2)(x))
>>> with tempfile.TemporaryDirectory() as folder:
...     report = saved_model(model, folder + "/model")
>>> report.relative_error < 1e-5
True
"""

import pathlib
from typing import Any

import keras

from tfcompress._runtimes import conversion
from tfcompress.export import verify
from tfcompress.export.report import ExportReport
from tfcompress.export.verify import ExportError

CONTENTS = {"saved_model.pb", "fingerprint.pb", "keras_metadata.pb", "variables", "assets", "assets.extra"}


def saved_model(
    model: keras.Model, path: Any, *, data: Any = None, tolerance: float | None = None
) -> ExportReport:
    """Writes a SavedModel with `model.export`, runs it, and returns what was measured.

    The folder is loaded by `tf.saved_model.load` in a process of its own, on the CPU, and its endpoint
    `serve` compared with the Keras model before it takes its place: on an error nothing is left behind,
    and a SavedModel that was at `path` stays as it was.

    Args:
        model: any built Keras model that TensorFlow can trace; it is not changed.
        path: the folder to write. It may be an earlier SavedModel, which is replaced.
        data: the inputs to compare on: an array `(examples, ...)`; for several inputs a tuple or list of
            arrays or a dict; or an iterable of batches of these. Labels are ignored: a tuple is
            (inputs, labels) unless it has exactly the arrays that the model takes. Without it:
            8 random examples.
        tolerance: largest max |difference| / max |Keras output| that is accepted, for each output over
            all examples. Without it 1e-4, or 1e-2 (5e-2) for a model that computes in float16 (bfloat16).

    Raises:
        ValueError: an argument is wrong, or the model is not built.
        ExportError: TensorFlow cannot trace the model, or what was written does not run or differs. It
            is a ValueError, too.
    """
    path = _checked_path(path)
    conversion.check_backend()
    expected = verify.reference(model, data=data, tolerance=tolerance)
    with verify.staged(path) as temporary:
        try:
            model.export(str(temporary), format="tf_saved_model", verbose=False)
        except Exception as error:
            cause = " ".join(str(error).split())[:600]
            raise ExportError(f"'{model.name}' cannot be written as a SavedModel: {cause}") from error
        proof = verify.prove(temporary, "saved_model", expected)
        facts = {"format": "saved_model", "quantization": None}
        report = ExportReport.of(model, path, temporary, expected, proof, **facts)
        _replace(path, temporary)
    return report


def _checked_path(path: Any) -> pathlib.Path:
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder '{path.parent}' to write '{path.name}' to.")
    if not path.exists():
        return path
    others = {file.name for file in path.iterdir()} - CONTENTS if path.is_dir() else {path.name}
    if others:
        raise ValueError(
            f"'{path}' is there already and is no SavedModel, so it is not replaced: {sorted(others)[:3]}."
        )
    return path


def _replace(path: pathlib.Path, temporary: pathlib.Path) -> None:
    """Moves a folder to `path`; one that was there is put back if that fails, and deleted if not."""
    old = temporary.with_name("old")
    if path.exists():
        path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
