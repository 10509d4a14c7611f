"""The code on the page for those who come from tfmot runs."""

import pathlib
import re

import numpy as np
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "migrating-from-tfmot.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
BEFORE, AFTER, OWN = BLOCKS


def run(block: str) -> dict:
    names: dict = {}
    exec(compile(block, PAGE, "exec"), names)
    return names


def sparsities(model) -> list[float]:
    kernels = [weight for weight in model.get_weights() if weight.ndim > 1]
    return [round(float((kernel == 0).mean()), 3) for kernel in kernels]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_code_for_tfmot_runs():
    pytest.importorskip("tensorflow_model_optimization")
    np.testing.assert_allclose(sparsities(run(BEFORE)["final"]), 0.8, atol=0.005)


def test_code_for_compat_differs_in_two_lines_and_runs():
    lines = zip(BEFORE.splitlines(), AFTER.splitlines(), strict=True)
    assert [new for old, new in lines if old != new] == [
        "from tfcompress.compat import tfmot",
        "import keras",
    ]
    np.testing.assert_allclose(sparsities(run(AFTER)["final"]), 0.8, atol=0.005)


def test_code_for_the_own_interface_runs():
    names = run(OWN)
    np.testing.assert_allclose(sparsities(names["final"])[0], 0.8, atol=0.005)
    assert pathlib.Path("small.tflite").is_file()
