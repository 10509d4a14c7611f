"""The CUDA kernels: what their threads do, done on the host, is what the plain loops do; and all compiles.

Without a GPU that is as far as it goes. Where there is one, the program `cuda_device` runs on it.
"""

import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")

import core  # noqa: E402
import programs  # noqa: E402
from test_core import GOOD, convolutions  # noqa: E402

OPS = Path(__file__).parents[1]
# What of the core the blocks need.
SOURCES = [
    OPS / name
    for name in ("tests/cuda_blocks.cc", "cuda/layout.cc", "core/shape.cc", "core/strip.cc", "core/tiling.cc")
]
NO_GPU = 77  # what `cuda_device` says then
TARGETS = ["tfcompress_cuda", "tfcompress_tf", "tfcompress_tf_gpu", "cuda_device", "cuda_device_on_host"]


class Order(ctypes.Structure):
    """`tfc_blocks_order`."""

    _fields_ = [(name, ctypes.c_int32) for name in ("last_thread_first", "late_copies")]


class Options(ctypes.Structure):
    """`tfc_blocks_options`."""

    _fields_ = [
        ("kernel", ctypes.c_char_p),
        *((name, ctypes.c_int32) for name in ("multiprocessors", "shared_bytes", "batch")),
        ("values", ctypes.c_void_p),
        ("order", Order),
    ]


@functools.cache
def blocks() -> ctypes.CDLL:
    file = Path(tempfile.mkdtemp(prefix="tfcompress-cuda-")) / "blocks.so"
    flags = "-O1 -std=c++17 -fPIC -fvisibility=hidden -Wall -Wextra -Werror -shared".split()
    subprocess.run(["g++", *flags, *map(str, SOURCES), "-o", str(file)], check=True)
    library = ctypes.CDLL(str(file))
    library.tfc_blocks_kernel_name.restype = ctypes.c_char_p
    library.tfc_blocks_run.argtypes = (
        [ctypes.c_void_p] * 3 + [ctypes.c_int32] + [ctypes.c_void_p] * 3 + [ctypes.c_int32]
    )
    return library


def kernels() -> list[str]:
    names = []
    while name := blocks().tfc_blocks_kernel_name(len(names)):
        names.append(name.decode())
    return names


def run(
    shape, weights, bias, activation, x, kernel=None, multiprocessors=132, batch=1, order=(0, 0), values=None
) -> tuple[int, np.ndarray]:
    """The status and the output; weights may be dense."""
    weights = core.Weights.of(weights) if isinstance(weights, np.ndarray) else weights
    name = None if kernel is None else kernel.encode()
    replaced = None if values is None else values.ctypes.data
    options = Options(name, multiprocessors, 99 * 1024, batch, replaced, Order(*order))
    size = [ctypes.c_int32() for _ in range(2)]
    core.library().tfc_output_size(ctypes.byref(shape), *map(ctypes.byref, size))
    out = np.full((len(x), size[0].value, size[1].value, shape.filters), np.nan, "float32")
    arguments = core.pointer(bias), core.ACTIVATIONS.get(activation, activation), ctypes.byref(options)
    status = blocks().tfc_blocks_run(
        ctypes.byref(shape), ctypes.byref(weights), *arguments, core.pointer(x), core.pointer(out), len(x)
    )
    return status, out


def assert_close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * (1 + np.abs(expected).max(initial=0)))


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.sampled_from([1, 20, 132]), st.sampled_from([1, 3, 256]))
def test_blocks_of_threads_compute_what_the_plain_loops_do(case, multiprocessors, batch):
    expected = core.reference(*case)
    for kernel in [None, *kernels()]:
        status, out = run(*case, kernel=kernel, multiprocessors=multiprocessors, batch=batch)
        assert status == core.OK
        assert_close(out, expected)


@settings(max_examples=20, deadline=None)
@given(convolutions(), st.integers(0, 99))
def test_neither_the_order_of_threads_nor_when_copies_end_changes_a_result(case, kernel):
    name = kernels()[kernel % len(kernels())]
    first, *others = [run(*case, kernel=name, order=(reverse, late)) for reverse in (0, 1) for late in (0, 1)]
    assert first[0] == core.OK
    for _, out in others:
        np.testing.assert_array_equal(out, first[1])


@settings(max_examples=20, deadline=None)
@given(convolutions(), st.integers(0, 99))
def test_values_handed_to_a_run_replace_those_of_the_plan(case, seed):
    shape, weights, _, activation, x = case
    dense = np.random.default_rng(seed).normal(size=weights.shape).astype("float32") * (weights != 0)
    values = dense.ravel()[np.flatnonzero(weights)]
    status, out = run(shape, weights, None, activation, x, values=values)
    assert status == core.OK
    assert_close(out, core.reference(shape, dense, None, activation, x))


def test_each_image_of_a_batch_is_convolved_by_itself():
    """Also by a kernel that sees each pixel alone and puts those of several images in one tile."""
    rng = np.random.default_rng(0)
    for kernel in (1, 3):
        pads = {f"pad_{side}": kernel // 2 for side in ("top", "bottom", "left", "right")}
        sizes = {"height": 7, "width": 7, "channels": 20, "filters": 9}
        shape = core.Shape(**sizes, kernel_height=kernel, kernel_width=kernel, **pads)
        weights = rng.normal(size=shape.weights).astype("float32") * (rng.random(shape.weights) < 0.3)
        x = rng.normal(size=(5, 7, 7, 20)).astype("float32")
        _, together = run(shape, weights, None, None, x, kernel="bundle2_pixels4")
        for image, out in zip(x, together, strict=True):
            _, alone = run(shape, weights, None, None, image[None], kernel="bundle2_pixels4")
            np.testing.assert_array_equal(alone[0], out)


ONES = np.ones((3, 3, 4, 6), "float32")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"filters": 0}, core.BAD_SHAPE),
        ({"stride_width": -1}, core.BAD_SHAPE),
        ({"groups": 4}, core.BAD_SHAPE),
        ({"kernel_height": 9}, core.BAD_SHAPE),
        ({"height": 2**20, "width": 2**20}, core.TOO_LARGE),
        # A plane does not fit into shared memory.
        ({"height": 400, "width": 400, "kernel_height": 300, "kernel_width": 300}, core.TOO_LARGE),
        # Places in the input do not fit in 32 bits.
        ({"pad_left": 2**31 - 1, "pad_right": 2**31 - 1, "stride_width": 2**30}, core.TOO_LARGE),
    ],
)
def test_sizes_that_make_no_convolution_are_refused(change, status):
    x = np.ones((1, 8, 8, 4), "float32")
    assert run(core.Shape(**{**GOOD, **change}), core.Weights([], []), None, None, x[:0])[0] == status


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [1, 2])
def test_weights_that_are_not_finite_are_refused(value, where):
    arguments = [
        core.Shape(**GOOD),
        ONES.copy(),
        np.zeros(6, "float32"),
        None,
        np.ones((1, 8, 8, 4), "float32"),
    ]
    arguments[where].flat[-1] = value
    assert run(*arguments)[0] == core.NOT_FINITE


@pytest.mark.parametrize("indices", [[-1], [3 * 3 * 4 * 6], [5, 5], [7, 2]])
def test_places_out_of_range_or_order_are_refused(indices):
    weights = core.Weights(np.array(indices), np.ones(len(indices)))
    x = np.ones((1, 8, 8, 4), "float32")
    assert run(core.Shape(**GOOD), weights, None, None, x)[0] == core.BAD_ARGUMENT


@pytest.mark.parametrize("change", [{"kernel": "bundle3_pixels5"}, {"batch": 0}, {"activation": 7}])
def test_unknown_arguments_are_refused(change):
    given = {"bias": None, "activation": None, "x": np.ones((1, 8, 8, 4), "float32"), **change}
    assert run(core.Shape(**GOOD), ONES, **given)[0] == core.BAD_ARGUMENT


@pytest.mark.thorough
def test_no_thread_steps_past_shared_memory_maps_or_weights():
    """The sanitizers of addresses and of arithmetic would say so."""
    assert programs.run("address", "cuda_blocks", programs.SEED, 2).split() == kernels()


# ---------------------------------------------------------------- with nvcc


@functools.cache
def built() -> Path:
    """The folder of the libraries and programs, compiled with nvcc."""
    programs.need("nvcc")
    tensorflow = Path(pytest.importorskip("tensorflow").sysconfig.get_lib())
    tree = programs.TREE.parent / "cuda"
    options = "-DTFC_CUDA=ON", f"-DTFC_TENSORFLOW={tensorflow}"
    programs.call(programs.cmake(), "-S", OPS, "-B", tree, *options)
    programs.call(programs.cmake(), "--build", tree, "--parallel", "2", "--target", *TARGETS)
    return tree


def test_the_kernels_compute_what_the_plain_loops_do_on_a_gpu():
    done = subprocess.run([built() / "cuda_device", "check", "1", "30"], capture_output=True, text=True)
    if done.returncode == NO_GPU:
        pytest.skip("there is no GPU: the kernels were compiled, not run")
    assert done.returncode == 0, done.stdout


def test_plans_hand_the_kernels_what_they_need():
    """The same program over memory of the host, where kernels run as in `blocks`."""
    assert "20 convolutions, 0 wrong results" in programs.call(
        built() / "cuda_device_on_host", "check", 1, 20
    )


def test_bad_arguments_are_refused_before_any_look_for_a_gpu():
    library = ctypes.CDLL(str(built() / "libtfcompress_cuda.so"))
    shape, weights = core.Shape(**GOOD), core.Weights.of(ONES)
    kernel, plan, x = b"bundle3_pixels5", ctypes.c_void_p(), np.ones((1, 8, 8, 4), "float32")
    bad = core.Shape(**{**GOOD, "groups": 3})

    def create(shape, weights, kernel=None, batch=1):
        at = [None if value is None else ctypes.byref(value) for value in (shape, weights)]
        return library.tfc_cuda_plan_create(*at, None, 0, kernel, batch, ctypes.byref(plan))

    assert create(None, weights) == create(shape, None) == core.BAD_ARGUMENT
    assert create(shape, weights, kernel) == create(shape, weights, batch=0) == core.BAD_ARGUMENT
    assert create(bad, weights) == core.BAD_SHAPE
    assert library.tfc_cuda_plan_run(None, core.pointer(x), core.pointer(x), 1, None) == core.BAD_ARGUMENT
    assert not plan
    library.tfc_cuda_plan_destroy(None)


# Needs a process of its own: an op can be loaded only once.
REGISTERED = """
import ctypes, sys
from pathlib import Path
import tensorflow as tf

class Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t)]

tf.load_op_library(sys.argv[1])
tf.load_library(sys.argv[2])
c = ctypes.CDLL(str(next(Path(tf.sysconfig.get_lib()).glob("libtensorflow_cc.so*"))))
c.TF_NewStatus.restype = ctypes.c_void_p
c.TF_GetRegisteredKernelsForOp.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
c.TF_GetRegisteredKernelsForOp.restype = ctypes.POINTER(Buffer)
found = c.TF_GetRegisteredKernelsForOp(b"TfcompressSparseConv2D", c.TF_NewStatus()).contents
print(ctypes.string_at(found.data, found.length))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="names of libraries as on Linux")
def test_tensorflow_knows_the_op_on_cpus_and_gpus():
    files = [built() / name for name in ("libtfcompress_tf.so", "libtfcompress_tf_gpu.so")]
    found = programs.call(sys.executable, "-c", REGISTERED, *files)
    assert "CPU" in found and "GPU" in found and "indices" in found
