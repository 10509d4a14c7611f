"""The studies run on bundled data, write what they found, and go on where they stopped.

Each has a test file of its own, so that test processes share them. Most are tried in
`make test-thorough` only.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfcompress import _native

EXAMPLES = Path(__file__).parents[1] / "examples"
BRIEF = ["--seeds", "0"]
SMALL = (
    "--data-dir digits --epochs 1 --tune-epochs 1 --width 4 --depth 8".split()
)  # compiling is what takes time
STUDIES = {
    "prune_cifar10.py": SMALL,
    "train_sparse_cifar10.py": [
        *"--data-dir digits --epochs 1 --sparse-epochs 2 --networks vgg".split(),
        *"--methods dense,magnitude,group_lasso,scratch".split(),
    ],
    "compress_lenet5.py": "--epochs 1 --sparse-epochs 1 --sparsities 0.9 --c-rates 1".split(),
    "run_sparse_cifar10.py": "--data-dir digits --epochs 1 --width 16 --sparsities 0.8".split(),
    "sparse_int8_cifar10.py": [
        *"--data-dir digits --epochs 1 --sparse-epochs 1 --width 16".split(),
        *"--patterns 16x4 --sparsities 0.8".split(),
    ],
    "everything.py": "--data-dir digits --epochs 1 --width 4".split(),
    "deep_compression.py": "--networks lenet300_100 --shorten 0.02 --ratio 30 --bfloat16".split(),
    "distill_cifar10.py": [
        *SMALL,
        *"--student-epochs 1 --students resnet8,replaced --ways none,hinton,neurons".split(),
    ],
    "prune_by_energy_cifar10.py": [*SMALL, *"--fitted 40 --sparsities 0.5".split()],
    "compare_criteria_cifar10.py": [*SMALL, *"--scored 60 --ranked 30 --criteria l1,apoz".split()],
}
RUNS = {
    "prune_cifar10.py": ["dense", "entropy", "l1", "random", "scratch"],
    "train_sparse_cifar10.py": ["dense", "magnitude", "group_lasso", "scratch"],
    "compress_lenet5.py": ["dense", "magnitude", "surgery"],
    "run_sparse_cifar10.py": ["dense", "unstructured", "blocks of 16"],
    "sparse_int8_cifar10.py": ["dense", "16x4"],
    "everything.py": ["dense", "trained longer", "group lasso", "pruned", "distilled", "shared", "int8"],
    "deep_compression.py": ["begun", "dense", "pruned", "shared"],
    "distill_cifar10.py": [
        *["teacher", "none", "hinton", "neurons, 0.1", "neurons, 1.0", "neurons, 10.0", "neurons"],
        *["none", "hinton"],
    ],
    "prune_by_energy_cifar10.py": ["dense", "energy", "magnitude"],
    "compare_criteria_cifar10.py": ["dense", "l1", "apoz", "random", "scratch"],
}
NEEDS_DELEGATE = {"run_sparse_cifar10.py", "sparse_int8_cifar10.py"}
# On a processor with AVX2 and no AVX-512, TensorFlow 2.21 twice broke its heap while it trained the plain
# ResNet-20 of 4 filters, before any code of ours ran. What oneDNN does for it is left out here.
WITHOUT_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "0"}


def run(script: str, out: Path) -> list[dict]:
    command = [sys.executable, script, "--out-dir", str(out), *BRIEF, *STUDIES[script]]
    environment = os.environ | WITHOUT_ONEDNN
    done = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "results.json").read_text())["runs"]


def check(script: str, out: Path) -> None:
    """Runs a study twice: every method once, and none again."""
    if script in NEEDS_DELEGATE and _native.path("tflite") is None:
        pytest.skip("the delegate was not built")
    runs = run(script, out)
    assert [found["method"] for found in runs] == RUNS[script]
    assert all(0 < found.get("accuracy", found.get("value")) <= 1 for found in runs)
    assert (out / "table.txt").stat().st_size and (out / "accuracy.png").stat().st_size
    (out / "table.txt").unlink()
    assert run(script, out) == runs  # with the times at which they finished: none was run again
    assert (out / "table.txt").exists()
