"""What pip builds from an sdist works away from the checkout, and without a C++ compiler too."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from programs import ROOT, call, cmake, need

import tfcompress

LIBRARIES = "tfcompress/_native/libtfcompress_"
NAME = f"tfcompress-{tfcompress.__version__}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    script = f"import setuptools.build_meta as backend; backend.build_sdist({str(folder)!r})"
    call(sys.executable, "-c", script, cwd=ROOT)
    return folder / f"{NAME}.tar.gz"


@pytest.fixture
def sdist(archive, tmp_path):
    """The sdist, unpacked."""
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    return tmp_path / NAME


def wheel(source: Path, folder: Path, **environment: str) -> tuple[Path, str]:
    """The wheel that pip builds, and what it prints on the way."""
    options = "--no-deps --no-index --no-build-isolation --verbose".split()
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, source]
    printed = call(*command, cwd=folder, env=os.environ | environment)
    (file,) = folder.glob("*.whl")
    return file, printed


def libraries(file: Path) -> list[str]:
    with zipfile.ZipFile(file) as archive:
        return [name for name in archive.namelist() if name.startswith(LIBRARIES)]


def test_an_sdist_holds_the_native_sources(sdist):
    tracked = [path for path in ROOT.glob("custom_ops/**/*") if path.is_file() and path.suffix != ".pyc"]
    missing = [path for path in tracked if not (sdist / path.relative_to(ROOT)).is_file()]
    assert missing == []


def test_a_wheel_that_was_installed_elsewhere_computes_a_convolution(sdist, tmp_path):
    cmake()
    need("g++")
    file, _ = wheel(sdist, tmp_path)
    platform = file.stem.removeprefix(f"{NAME}-py3-none-")
    assert platform not in (file.stem, "any") and len(libraries(file)) >= 2
    installed = tmp_path / "installed"
    install = "--no-deps --no-index --quiet --target".split()
    call(sys.executable, "-m", "pip", "install", *install, installed, file)
    script = """
import core, numpy as np, tensorflow as tf, sys
from tfcompress import _native
assert str(_native.path("core")).startswith(sys.argv[1]), _native.path("core")
shape = core.Shape(height=9, width=9, channels=3, filters=5, kernel_height=3, kernel_width=3)
weights, x = np.ones(shape.weights, "float32"), np.ones((1, 9, 9, 3), "float32")
np.testing.assert_array_equal(core.convolve(shape, weights, None, None, x), np.full((1, 7, 7, 5), 27))
tf.load_op_library(str(_native.path("tf")))
"""
    path = os.pathsep.join(map(str, (installed, ROOT / "custom_ops" / "tests")))
    environment = os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    call(sys.executable, "-c", script, installed, cwd=tmp_path, env=environment)


def test_without_a_compiler_the_wheel_is_pure_and_says_so_once(sdist, tmp_path):
    file, printed = wheel(sdist, tmp_path, CXX="/no/such/compiler")
    assert file.name == f"{NAME}-py3-none-any.whl" and libraries(file) == []
    assert printed.count("WITHOUT its native libraries, because there is no C++ compiler") == 1


def test_a_build_that_fails_is_no_error_unless_it_was_asked_for_strictly(sdist, tmp_path):
    need("g++")
    (sdist / "custom_ops" / "core" / "shape.h").write_text("#error\n")  # all files include it
    (sdist / "tfcompress" / "_native" / "libtfcompress_core.so").touch()  # of a build before
    strict = [sys.executable, "setup.py", "build_ops", "--inplace", "--strict"]
    done = subprocess.run(strict, cwd=sdist, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "cannot be built" in done.stderr
    file, printed = wheel(sdist, tmp_path)
    assert file.name == f"{NAME}-py3-none-any.whl" and libraries(file) == []
    assert printed.count("WITHOUT its native libraries, because their compilation failed") == 1
