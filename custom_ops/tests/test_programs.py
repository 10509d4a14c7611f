"""The core as C++ programs see it: under sanitizers, on other processors, and fed with nonsense."""

import platform
import re
import sys

import core
import pytest
import thorough
from programs import SEED, build, call, need, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the programs are for Linux")
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="it is about x86-64")

# What the default kernel is on processors without AVX, and without AVX-512.
EMULATED = {"Nehalem": "portable", "Haswell": "avx2"}


@pytest.mark.parametrize(
    ("variant", "convolutions"), [("plain", 150), ("address", 25), ("thread", 5), ("aarch64", 10)]
)
def test_every_kernel_computes_what_the_plain_loops_do(variant, convolutions):
    run(variant, "kernels", SEED, convolutions)


def test_arm_has_kernels_of_its_own():
    printed = run("aarch64", "kernels", SEED, 0)
    assert "neon" in printed and "dotprod" in printed


@pytest.mark.parametrize(("rounds", "plans"), [(20, 50), (1, 1000)])
def test_plans_leave_neither_memory_nor_threads_nor_the_library_behind(rounds, plans):
    run("leak", "loading", core.file(), rounds, plans)


@pytest.mark.parametrize("variant", ["plain", "address"])
def test_sparse_tensors_of_tflite_are_read_and_broken_ones_refused(variant):
    run(variant, "encodings", SEED, 5000)


def test_work_is_divided_evenly_and_nothing_is_done_twice():
    run("plain", "divisions", SEED, 100_000)


def test_a_child_of_fork_computes_and_ends():
    run("plain", "forking")


def test_whatever_a_plan_is_made_from_it_is_a_plan_or_a_status():
    run("address", "fuzz_plan", SEED, 20_000)


@pytest.mark.thorough
def test_no_input_that_libfuzzer_finds_breaks_a_plan(tmp_path):
    # Not the memory of the process, which begins with what the process that started it had at its largest.
    limits = "-max_len=400", "-timeout=60", "-malloc_limit_mb=512", "-rss_limit_mb=0"
    run("fuzzer", "fuzz_plan", f"-seed={SEED}", "-runs=600", *limits, f"-artifact_prefix={tmp_path}/")


@on_x86
@pytest.mark.parametrize("processor", EMULATED)
def test_a_processor_gets_a_kernel_that_it_can_run(processor):
    assert EMULATED[processor] in run("plain", "loading", core.file(), 1, 2, launcher=emulated(processor))


@on_x86
@pytest.mark.parametrize("processor", thorough.beside(EMULATED, ["Nehalem"]))
def test_a_processor_runs_no_instruction_that_it_lacks(processor):
    run("plain", "kernels", SEED, 3, launcher=emulated(processor))


def emulated(processor: str) -> tuple[str, ...]:
    need("qemu-x86_64")
    return "qemu-x86_64", "-cpu", processor


@on_x86
def test_only_files_of_that_name_hold_instructions_that_a_processor_may_lack():
    need("objdump")
    beyond = {"avx512": "%zmm", "avx": r"%ymm|\tv\w+ .*%xmm"}
    for file in _objects("*.o"):
        code = call("objdump", "-d", "--no-show-raw-insn", file)
        found = {name for name, registers in beyond.items() if re.search(registers, code)}
        assert [name for name in found if name not in file.name] == [], file.name


@on_x86
def test_files_with_such_instructions_share_no_function_with_others():
    """The linker keeps one copy of an inline function, and it could be theirs."""
    need("nm")
    for file in _objects("*avx*.o"):
        assert not re.search(r" [VWu] ", call("nm", "--defined-only", file)), file.name


def _objects(pattern):
    """What the core was compiled to."""
    folder = build("plain", "kernels").parent / "CMakeFiles" / "core.dir" / "core"
    return sorted(folder.glob(pattern)) or pytest.fail(f"there is no {pattern} in {folder}")
