"""Builds the native libraries with CMake; all else about the package is declared in pyproject.toml.

Without a C++ compiler, or where the build fails, the package is installed without them and says so.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

SOURCES = Path("custom_ops")
TREE = Path(".build", "ops")  # it stays, so that only what changed is compiled again
PACKAGE = Path("tfcompress", "_native")
WITHOUT = """
tfcompress: built WITHOUT its native libraries, because {reason}.
Everything works without them, but sparse convolutions are no faster than dense ones.
To have them, install a C++17 compiler (Debian, Ubuntu: apt-get install g++) and install tfcompress again.
"""


class NativeDistribution(Distribution):
    """A wheel is bound to a platform only if libraries were built for it."""

    has_libraries = False

    def has_ext_modules(self):
        return self.has_libraries


class BuildOps(Command):
    """A part of `build`, and `python setup.py build_ops --inplace --strict` by itself (`make ops`)."""

    description = "build the native libraries"
    user_options: ClassVar = [
        ("inplace", "i", "put them into the source tree"),
        ("strict", None, "raise an error where the build fails, though there is a compiler"),
    ]
    boolean_options: ClassVar = ["inplace", "strict"]

    def initialize_options(self):
        self.editable_mode = self.inplace = self.strict = False
        self.build_lib = None

    def finalize_options(self):
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self):
        reason = _configure() or self._build()
        self.distribution.has_libraries = reason is None
        if reason is None:
            return
        for file in self._folder.glob("libtfcompress_*"):  # of a build before, of other sources
            file.unlink()
        print(WITHOUT.format(reason=reason), file=sys.stderr)

    @property
    def _folder(self) -> Path:
        return PACKAGE if self.inplace or self.editable_mode else Path(self.build_lib, PACKAGE)

    def _build(self) -> str | None:
        build = [_cmake(), "--build", TREE, "--parallel", str(os.cpu_count() or 1)]
        install = [_cmake(), "--install", TREE, "--prefix", self._folder]
        try:
            for command in (build, install):
                subprocess.run(command, check=True)
        except subprocess.CalledProcessError:
            if self.strict:
                raise SystemExit("The native libraries cannot be built; the compiler says why.") from None
            return "their compilation failed (pip install -v shows how)"
        return None

    def get_source_files(self):  # what an sdist holds
        files = (path for path in SOURCES.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return sorted(path.as_posix() for path in files)

    def get_outputs(self):
        return sorted(map(str, self._folder.glob("libtfcompress_*")))

    def get_output_mapping(self):
        return {}


def _configure() -> str | None:
    """Makes the build folder; why that is impossible."""
    if _cmake() is None:
        return "there is no CMake"
    quiet = "--log-level=NOTICE", "-DCMAKE_INSTALL_MESSAGE=LAZY"
    command = [_cmake(), "-S", SOURCES, "-B", TREE, *quiet]
    is_new = not TREE.exists()
    if subprocess.run(command).returncode == 0:
        return None
    shutil.rmtree(TREE, ignore_errors=True)  # it may be of a checkout that was moved since
    if not is_new and subprocess.run(command).returncode == 0:
        return None
    return "there is no C++ compiler that CMake can use"


def _cmake() -> str | None:
    """That of this Python environment, where it has one."""
    return shutil.which("cmake", path=sysconfig.get_path("scripts")) or shutil.which("cmake")


class Build(build):
    sub_commands: ClassVar = [*build.sub_commands, ("build_ops", None)]


class Wheel(bdist_wheel):
    """For the platform that libraries were built for, and for every Python: none of them knows Python."""

    def run(self):
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_libraries
        super().run()

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


setup(
    distclass=NativeDistribution,
    cmdclass={"bdist_wheel": Wheel, "build": Build, "build_ops": BuildOps},
    # Not `build`, which is the file BUILD where file names ignore case.
    options={"build": {"build_base": ".build"}},
)
