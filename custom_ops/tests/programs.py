"""The C++ programs of this folder and of fuzz/: built with CMake, by several compilers, and run.

What a machine lacks is a reason to skip the tests that need it.
"""

import contextlib
import functools
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREE = ROOT / ".build" / "programs"
SEED = 1
_ENVIRONMENT = os.environ | {
    # A plan of few weights asks for no more than this, whatever sizes it claims.
    "ASAN_OPTIONS": "max_allocation_size_mb=512",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "QEMU_LD_PREFIX": "/usr/aarch64-linux-gnu",
}


@dataclass(frozen=True)
class Variant:
    """How programs are compiled, and what they are started with."""

    compiler: str = "g++"
    sanitizer: str = ""
    options: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()


VARIANTS = {
    "plain": Variant(options=("-DCMAKE_COMPILE_WARNING_AS_ERROR=ON",)),
    "address": Variant(sanitizer="address,undefined"),
    "leak": Variant(sanitizer="leak"),
    "thread": Variant(sanitizer="thread"),
    "aarch64": Variant(
        "aarch64-linux-gnu-g++",
        options=("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"),
        launcher=("qemu-aarch64",),
    ),
    "fuzzer": Variant("clang++", sanitizer="fuzzer-no-link,address,undefined"),
}


def cmake() -> str:
    """That of this Python environment, where it has one."""
    found = shutil.which("cmake", path=sysconfig.get_path("scripts")) or shutil.which("cmake")
    return found or pytest.skip("there is no cmake")


@functools.cache
def build(variant: str, program: str) -> Path:
    """The program's file."""
    how, tree = VARIANTS[variant], TREE / variant
    for tool in (how.compiler, *how.launcher[:1]):
        need(tool)
    if how.sanitizer and not _links(how.compiler, how.sanitizer):
        pytest.skip(f"{how.compiler} cannot link -fsanitize={how.sanitizer}")
    options = f"-DCMAKE_CXX_COMPILER={how.compiler}", f"-DTFC_SANITIZE={how.sanitizer}", *how.options
    with _alone(variant):
        call(cmake(), "-S", ROOT / "custom_ops", "-B", tree, "-DTFC_PROGRAMS=ON", *options)
        call(cmake(), "--build", tree, "--target", program, "--parallel", "2")
    return tree / program


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Other test processes build in the same folder."""
    import fcntl  # not on Windows

    TREE.mkdir(parents=True, exist_ok=True)
    with (TREE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(variant: str, program: str, *arguments: object, launcher: tuple[str, ...] = ()) -> str:
    """What a program prints; its exit status must be 0."""
    file = build(variant, program)
    if variant == "thread":
        launcher = _fixed_addresses()
    return call(*(launcher or VARIANTS[variant].launcher), file, *arguments)


def call(*command: object, **options) -> str:
    """What a command prints; its exit status must be 0."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **{"env": _ENVIRONMENT} | options,
    )
    assert done.returncode == 0, f"{done.args} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"there is no {tool}")


def _links(compiler: str, sanitizer: str) -> bool:
    """Whether the sanitizer's runtime is installed, which comes in a package of its own."""
    command = [compiler, f"-fsanitize={sanitizer}", "-x", "c++", "-", "-o", os.devnull]
    return (
        subprocess.run(command, input="int main() {}", text=True, stderr=subprocess.DEVNULL).returncode == 0
    )


@functools.cache
def _fixed_addresses() -> tuple[str, ...]:
    """Starts a program at addresses that are not random, where that is allowed.

    The thread sanitizer of older compilers stops where Linux makes them very random.
    """
    launcher = "setarch", "-R"
    allowed = shutil.which("setarch") and subprocess.run([*launcher, "true"], stderr=subprocess.DEVNULL)
    return launcher if allowed and allowed.returncode == 0 else ()
