"""The native libraries show what they should and leave the process that loads them alone."""

import platform
import re
import sys

import core
import numpy as np
import pytest
from programs import ROOT, call, need

from tfcompress import _native

BACKENDS = {
    "x86_64": ("avx512", "avx512amx", "avx512vnni", "avxvnni", "avx2"),
    "aarch64": ("neon", "dotprod"),
}
NAMES = ("core", "tf", "tflite")
HEADER = ROOT / "custom_ops" / "core" / "sparse_conv.h"
SHOWN = {
    "core": set(re.findall(r"TFC_EXPORT [^;(]*?(tfc_\w+)\(", HEADER.read_text(encoding="utf-8"))),
    "tf": set(),  # it registers its op when it is loaded
    "tflite": {"tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"},
}


@pytest.fixture(params=NAMES)
def library(request):
    file = _native.path(request.param)
    if file is None:
        pytest.skip(f"the native library {request.param} was not built")
    return request.param, file


def test_where_there_is_a_compiler_the_libraries_are_built():
    need("g++")
    folders = [name for name in NAMES if name == "core" or list((ROOT / "custom_ops" / name).glob("*.cc"))]
    assert [name for name in folders if _native.path(name) is None] == []


def test_a_name_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="Unknown native library 'cuda'. Available: 'core', 'tf', 'tflite'"):
        _native.path("cuda")


def test_a_library_shows_its_c_interface_and_nothing_else(library):
    need("nm")
    name, file = library
    lines = call("nm", "--dynamic", "--defined-only", "--format=posix", file).splitlines()
    assert {line.split()[0] for line in lines} == SHOWN[name]


def test_a_library_has_no_stack_to_execute_and_no_path_to_search(library):
    need("readelf")
    _, file = library
    (stack,) = re.findall(r"GNU_STACK.* ([RWE]+) ", call("readelf", "--segments", "--wide", file))
    assert stack == "RW"
    assert not re.search("RPATH|RUNPATH", call("readelf", "--dynamic", file))


def test_a_library_was_not_linked_with_fast_math(library):
    """That would bring along a function which flushes denormals in the whole process."""
    need("nm")
    _, file = library
    assert "set_fast_math" not in call("nm", file)


def test_denormals_are_kept_where_the_core_was_loaded():
    core.library()
    assert sys.float_info.min / 2 > 0


def test_kernels_have_names_of_their_own_and_the_last_one_runs_everywhere():
    lib, names = core.library(), core.compiled()
    assert len(set(names)) == len(names)
    assert lib.tfc_kernel_supported(len(names) - 1) == 1
    for outside in (-1, len(names), 2**31 - 1):
        assert lib.tfc_kernel_name(outside) is None and lib.tfc_kernel_supported(outside) == 0


def test_every_file_of_a_kernel_is_a_kernel_on_some_processor():
    here = (*BACKENDS.get(platform.machine(), ()), "portable")
    files = {file.stem for file in core.SOURCES.glob("*_*.cc") if file.stem.endswith(here)}
    kernels = {*core.compiled(), *core.compiled("int8_")}
    assert {name.replace("pairs", "lanes").replace("quads", "lanes") for name in kernels} == files


def test_the_default_kernel_is_of_the_best_backend_that_the_processor_supports():
    weights = np.ones((1, 1, 1, 1), "float32")
    backend = core.kernels()[0].split("_")[1]
    for kernel in (None, *core.compiled()):
        status, plan = core.create(core.Shape(), weights, kernel=kernel)
        if kernel is not None and kernel not in core.kernels():
            assert status == core.NOT_ON_THIS_CPU and not plan
            continue
        assert status == core.OK
        assert core.library().tfc_plan_kernel(plan).decode().endswith(kernel or backend)
        core.library().tfc_plan_destroy(plan)
