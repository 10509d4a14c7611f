"""The floors of the package: a file imports only from floors below its own.

The table is the one in CONTRIBUTING.md. Imports are read from the source, those inside functions
included, so a breach is found without running the file.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "tfcompress"

FLOORS = {
    4: "__init__ cli compat",
    3: "pruning callbacks distillation export",
    2: "analysis",
    1: "criteria channels selection schedules regularizers constraints layers ops blocks coding",
    # and other modules that begin with _
    0: "_registry _arrays _calls _checks _cloning _data _kernels _names _ranking _runtimes _settings",
}
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts.split()}

# Imports along one floor. Nothing else crosses a floor sideways.
SIDEWAYS = {
    ("layers", "ops"),
    ("layers", "coding"),
    ("layers", "schedules"),
    ("blocks", "layers"),
    ("_names", "_checks"),
    ("_losses", "_checks"),
    ("_registry", "_checks"),
    ("_cloning", "_calls"),
    ("_cloning", "_arrays"),
    ("_kernels", "_calls"),
    ("_runtimes", "_calls"),
    ("_runtimes", "_cloning"),
}

# Where TensorFlow may be imported, and inside functions only.
TENSORFLOW = {"tensorflow", "tf_keras"}
NAMES_TENSORFLOW = ("export/", "ops/", "layers/sparse_conv.py", "_gradients.py", "_runtimes/")


class Import(NamedTuple):
    target: str  # dotted, with the imported name as its last part: "tfcompress.channels.trace"
    line: int
    lazy: bool  # inside a function


def breaches(package: Path) -> list[str]:
    """Every import in the files of `package` that the tables above do not allow, as `file:line: why`."""
    return [
        f"{package.name}/{file.relative_to(package).as_posix()}:{found.line}: {reason}"
        for file in sorted(package.rglob("*.py"))
        for found in imports(file, package)
        if (reason := _breach(file, found, package))
    ]


def imports(file: Path, package: Path) -> Iterator[Import]:
    """Every import in a file: statements, and `importlib.import_module` with a literal name."""
    folder = [package.name, *file.relative_to(package).parts[:-1]]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node, lazy in _nodes(tree, lazy=False):
        for target in _targets(node, folder):
            yield Import(target, node.lineno, lazy)


def _nodes(node: ast.AST, lazy: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below `node`, and whether it is inside a function."""
    lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield child, lazy
        yield from _nodes(child, lazy)


def _targets(node: ast.AST, folder: list[str]) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            above = folder[: len(folder) - level + 1] if level else []
            return [".".join([*above, *([module] if module else []), alias.name]) for alias in names]
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(target)), *_],
        ):
            return [target]
    return []


def _breach(file: Path, found: Import, package: Path) -> str | None:
    root = found.target.split(".")[0]
    if root in TENSORFLOW:
        return _breach_of_tensorflow(file.relative_to(package).as_posix(), found)
    if root != package.name:
        return None
    source = file.relative_to(package).with_suffix("").parts[0]
    target = _part(found.target, package)
    for part in (source, target):
        if _floor(part) is None:
            return f"{part} has no floor: put it in the table in tests/test_floors.py and CONTRIBUTING.md"
    if source == target or _floor(target) < _floor(source) or (source, target) in SIDEWAYS:
        return None
    return f"{source} (floor {_floor(source)}) imports {found.target} ({target} is on floor {_floor(target)})"


def _breach_of_tensorflow(file: str, found: Import) -> str | None:
    if not file.startswith(NAMES_TENSORFLOW):
        return f"imports {found.target}; TensorFlow is named only in {', '.join(NAMES_TENSORFLOW)}"
    if not found.lazy:
        return f"imports {found.target} when it is itself imported; do it inside the function that needs it"
    return None


def _part(target: str, package: Path) -> str:
    """The top-level file or folder that a dotted name is in; `__init__` for what only that defines."""
    name = target.removeprefix(package.name).removeprefix(".").split(".")[0]
    is_module = name and ((package / name).is_dir() or (package / f"{name}.py").is_file())
    return name if is_module else "__init__"


def _floor(part: str) -> int | None:
    private = part.startswith("_") and not part.startswith("__")
    return FLOOR_OF.get(part, 0 if private else None)


def test_every_import_goes_to_a_floor_below():
    assert breaches(PACKAGE) == []


def test_every_part_of_the_package_has_a_floor():
    parts = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/*.py")
    }
    assert [part for part in sorted(parts) if _floor(part) is None] == []


@pytest.fixture
def planted(tmp_path):
    """Makes a small package with one file of the given source, and returns its breaches."""

    def plant(file: str, source: str) -> list[str]:
        package = tmp_path / "tfcompress"
        others = "__init__ _calls channels/__init__ channels/graph layers/__init__ ops/__init__".split()
        contents = {f"{name}.py": "" for name in others} | {file: source}
        for name, content in contents.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(content, encoding="utf-8")
        return breaches(package)

    return plant


@pytest.mark.parametrize(
    ("file", "source", "reason"),
    [
        ("_calls.py", "from tfcompress.channels import trace", "_calls (floor 0) imports"),
        ("_calls.py", "import tfcompress.channels.graph as g", "channels is on floor 1"),
        ("channels/graph.py", "from tfcompress import prune", "__init__ is on floor 4"),
        ("channels/graph.py", "import tfcompress", "__init__ is on floor 4"),
        ("criteria/l1.py", "from tfcompress import channels", "channels is on floor 1"),
        ("criteria/l1.py", "from .. import channels", "channels is on floor 1"),
        ("criteria/l1.py", "from ..channels.graph import trace", "channels is on floor 1"),
        ("criteria/deep/l1.py", "from ...channels import graph", "channels is on floor 1"),
        ("criteria/l1.py", "def score():\n    import tfcompress.channels", "l1.py:2: criteria (floor 1)"),
        (
            "criteria/l1.py",
            "try:\n    from tfcompress.ops import a\nexcept ImportError: ...",
            "ops is on floor 1",
        ),
        (
            "criteria/l1.py",
            "import importlib\nimportlib.import_module('tfcompress.ops')",
            "ops is on floor 1",
        ),
        ("ops/conv.py", "from tfcompress.layers import MaskedLayer", "layers is on floor 1"),
        ("_data.py", "from tfcompress._calls import read", "_calls is on floor 0"),
        ("utils.py", "from tfcompress import _calls", "utils has no floor"),
        ("criteria/l1.py", "def score():\n    import tensorflow as tf", "TensorFlow is named only in"),
        ("layers/masked.py", "def call():\n    from tensorflow import nn", "TensorFlow is named only in"),
        ("export/tflite.py", "import tensorflow as tf", "inside the function that needs it"),
        ("export/tflite.py", "class A:\n    import tensorflow.lite", "inside the function that needs it"),
        (
            "export/tflite.py",
            "if True:\n    from tensorflow import lite",
            "inside the function that needs it",
        ),
    ],
)
def test_a_planted_breach_is_found(planted, file, source, reason):
    (found,) = planted(file, source)
    assert reason in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("__init__.py", "from tfcompress import _calls\nfrom tfcompress.channels import trace"),
        ("pruning/prune.py", "from tfcompress import channels\nfrom tfcompress.channels.graph import trace"),
        (
            "channels/graph.py",
            "from tfcompress._calls import read\nfrom . import rules\nfrom .ids import Ids",
        ),
        ("layers/sparse_conv.py", "from tfcompress import ops\ndef call():\n    import tensorflow as tf"),
        ("export/tflite.py", "def write():\n    import tensorflow as tf\n    from tensorflow import lite"),
        ("criteria/l1.py", "import numpy as np\nimport tfcompress_extras\nfrom keras import ops"),
    ],
)
def test_an_allowed_import_is_no_breach(planted, file, source):
    assert planted(file, source) == []
