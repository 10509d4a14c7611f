"""Bazel builds the native libraries, here without reaching for anything on the network."""

import shutil
from pathlib import Path

import pytest
from programs import ROOT, SEED, TREE, call, need

# Where Debian puts what Bazel would fetch.
DEBIAN = Path("/usr/share/bazel")
FETCHED = {
    "bazel_skylib": DEBIAN / "tools" / "skylib",
    "platforms": DEBIAN / "tools" / "platforms",
    "rules_java": DEBIAN / "rules" / "java",
    "rules_proto": DEBIAN / "rules" / "proto",
}
# Debian has no rules_cc that fits its Bazel, where the rules are native ones, and no tools for the coverage
# of tests.
RULES = "cc_binary cc_import cc_library cc_test cc_toolchain cc_toolchain_suite".split()
STUBS = {
    "rules_cc": {"cc/BUILD": "", "cc/defs.bzl": "".join(f"{rule} = native.{rule}\n" for rule in RULES)},
    "remote_coverage_tools": {
        "BUILD": 'filegroup(name = "coverage_report_generator", visibility = ["//visibility:public"])\n'
    },
}


@pytest.fixture(scope="module")
def built():
    """The folder of what Bazel makes from a copy of the sources, and the libraries there should be."""
    need("bazel")
    if missing := [str(path) for path in FETCHED.values() if not path.is_dir()]:
        pytest.skip(f"there is no {' and no '.join(missing)}")
    folder = TREE / "bazel"
    for name, files in STUBS.items():
        _write(folder / name, {"WORKSPACE": "", **files})
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "custom_ops", source / "custom_ops")
    for name in ("BUILD", "WORKSPACE", "LICENSE"):
        shutil.copy(ROOT / name, source)
    replaced = FETCHED | {name: folder / name for name in STUBS}
    options = [f"--override_repository={name}={path}" for name, path in replaced.items()]
    options += ["--spawn_strategy=standalone", "--force_pic", "--jobs=2"]
    libraries = [name for name in ("core", "tf", "tflite") if list((ROOT / "custom_ops" / name).glob("*.cc"))]
    targets = [f"//:tfcompress_{name}" for name in libraries]
    start = "bazel", "--batch", f"--output_user_root={folder / 'base'}", "build"
    call(*start, *options, *targets, "//:kernels", cwd=source)
    return source / "bazel-bin", [f"libtfcompress_{name}.so" for name in libraries]


def test_bazel_builds_the_libraries(built):
    need("nm")
    folder, libraries = built
    assert [name for name in libraries if not (folder / name).is_file()] == []
    shown = call("nm", "--dynamic", "--defined-only", "--format=posix", folder / "libtfcompress_core.so")
    assert {line[:4] for line in shown.splitlines()} == {"tfc_"}


def test_kernels_that_bazel_compiled_compute_what_the_plain_loops_do(built):
    folder, _ = built
    call(folder / "kernels", SEED, 20)


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
