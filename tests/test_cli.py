"""The command line opens compressed files, and says in one line what is wrong."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from absl import app
from masks import array, data, network
from surgery import randomize

from tfcompress import cli, save_compressed


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tfcompress.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "model.tfc"
    save_compressed(randomize(network()), path)
    return path


def test_a_file_is_inspected(file):
    done = run("inspect", file)
    assert done.returncode == 0 and "head/kernel" in done.stdout and "encoded" in done.stdout


def test_a_model_is_unpacked(file, tmp_path):
    assert run("unpack", file, tmp_path / "model.keras").returncode == 0
    model = keras.saving.load_model(tmp_path / "model.keras")
    x = data()[0]
    np.testing.assert_array_equal(array(model(x)), array(randomize(network())(x)))
    pytest.importorskip("tensorflow")
    done = run("unpack", file, tmp_path / "model.tflite", "--quantization", "float16")
    assert done.returncode == 0 and "float16" in done.stdout and (tmp_path / "model.tflite").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["unpac"], "Did you mean 'unpack'"),
        (["unpack", "a.tfc"], "takes 2 arguments, got 1"),
        (["inspect", "none.tfc"], "No such file"),
        (["inspect", __file__], "no .tfc file"),
        (["unpack", "FILE", "model.h5"], "should end in one of .keras, .tflite"),
    ],
)
def test_bad_arguments(arguments, message, file):
    with pytest.raises((app.UsageError, SystemExit), match=message):
        cli.main(["tfcompress", *(str(file) if argument == "FILE" else argument for argument in arguments)])


def test_an_error_is_one_line():
    done = run("inspect", "none.tfc")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tfcompress: [Errno 2] No such file")
