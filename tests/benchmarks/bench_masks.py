"""Training under masks against training the plain model: time of a step, and memory. tfmot beside it.

    python tests/benchmarks/bench_masks.py [--rounds 30] [--tfmot-python .venv-tfmot/bin/python]

All sides take steps inside `model.fit`, with its callbacks, in one process and in turn: the plain model; one
whose masks were made in the first step and stay; one whose masks are made anew in every step. A round gives
the median step of each, and the ratio is taken round by round. tfmot needs tf_keras, so it has a
process and an environment of its own (`make test-tfmot` makes one), and is compared with
plain tf_keras there. Peaks of memory are those of fresh processes, one for each side.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(os.cpu_count()))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
from measure import ratio, save, spread  # noqa: E402

ROOT = Path(__file__).parents[2]
TFMOT_PYTHON = ROOT / ".venv-tfmot" / "bin" / "python"
BATCH = 128
SPARSITY = 0.8
STEPS = {"lenet5": 64, "resnet20": 4}  # of a round
MEMORY_STEPS = 6


class Keras:
    """Models that tfcompress wraps."""

    def __init__(self) -> None:
        import keras

        from tfcompress import callbacks, layers, schedules

        def wrap(model: Any, **steps: int) -> Any:
            schedule = schedules.Constant(SPARSITY, **steps)
            return layers.wrap(model, layers.MagnitudePruning(schedule))

        self.keras, self.callbacks = keras, [callbacks.UpdateMasks]
        self.wrappers = {
            "plain": lambda model: model,
            "static": lambda model: wrap(model, end_step=0),
            "every_step": lambda model: wrap(model, frequency=1),
        }


class Tfmot:
    """Models that tfmot wraps. What imports keras from now on gets tf_keras: the networks are the same."""

    def __init__(self) -> None:
        import tensorflow_model_optimization as tfmot
        import tf_keras

        sys.modules["keras"] = tf_keras
        api = tfmot.sparsity.keras

        def wrap(model: Any, *steps: int) -> Any:
            return api.prune_low_magnitude(model, api.ConstantSparsity(SPARSITY, *steps))

        self.keras, self.callbacks = tf_keras, [api.UpdatePruningStep]
        self.wrappers = {
            "plain": lambda model: model,
            "static": lambda model: wrap(model, 1, 1),
            "every_step": lambda model: wrap(model, 1, -1, 1),
        }


LIBRARIES = {"tfcompress": Keras, "tfmot": Tfmot}


class Side:
    """A model in training."""

    def __init__(self, library: Any, network: str, side: str):
        keras = library.keras
        keras.utils.set_random_seed(0)
        self.model = library.wrappers[side](build(network))
        self.model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
        self.callbacks = [] if side == "plain" else [make() for make in library.callbacks]
        self.keras = keras
        self.start = [(variable, variable.numpy()) for variable in self.model.trainable_variables]

    def fit(self, steps: int) -> float:
        """The median seconds of a step, callbacks included; the first step of each call does not count."""
        begun: list[float] = []

        class Clock(self.keras.callbacks.Callback):  # type: ignore[name-defined]
            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                begun.append(time.perf_counter())

            def on_train_end(self, logs: Any = None) -> None:
                begun.append(time.perf_counter())

        images, labels = data(self.model.input_shape[1:], steps + 1)
        for variable, value in self.start:  # after a fit, what masks hide is zero
            variable.assign(value)
        self.model.fit(images, labels, batch_size=BATCH, verbose=0, callbacks=[Clock(), *self.callbacks])
        return statistics.median(np.diff(begun)[1:])


def build(network: str) -> Any:
    sys.path.append(str(ROOT / "examples"))
    import networks
    from keras import Input, Sequential, layers

    if network == "wide":  # where weights, not activations, take the memory
        dense = [layers.Dense(4096, activation="relu") for _ in range(2)]
        return Sequential([Input((4096,)), *dense, layers.Dense(10, activation="softmax")])
    shape = {"lenet5": (28, 28, 1), "resnet20": (32, 32, 3)}[network]
    return getattr(networks, network)(shape, 10)


@functools.cache
def data(shape: tuple[int, ...], steps: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(steps * BATCH, *shape)).astype("float32")
    return images, rng.integers(0, 10, steps * BATCH)


def step_times(library: Any, network: str, rounds: int) -> dict:
    sides = {name: Side(library, network, name) for name in library.wrappers}
    seconds = in_turn({name: lambda s=s: s.fit(STEPS[network]) for name, s in sides.items()}, rounds)
    return {
        "parameters": sides["plain"].model.count_params(),
        "plain_ms": spread([1000 * s for s in seconds["plain"]]),
        "static_over_plain": ratio(seconds, "static", "plain"),
        "every_step_over_plain": ratio(seconds, "every_step", "plain"),
    }


def in_turn(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each call returns, A B C A B C ..., after one of each that does not count."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, call in sides.items():
            value = call()
            if number:
                found[name].append(value)
    return found


def variable_bytes(library: Any, network: str) -> dict:
    """The bytes of variables that wrapping adds."""
    plain, wrapped = (library.wrappers[side](build(network)) for side in ("plain", "static"))
    kernels = sum(int(np.prod(w.shape)) for w in plain.weights if "kernel" in w.name)
    added = _bytes(wrapped) - _bytes(plain)
    return {"masked_weights": kernels, "added_bytes": added, "added_bytes_per_weight": added / kernels}


def _bytes(model: Any) -> int:
    dtypes = [str(getattr(w.dtype, "name", w.dtype)) for w in model.weights]
    sizes = [int(np.prod(w.shape)) for w in model.weights]
    return sum(size * np.dtype(dtype).itemsize for size, dtype in zip(sizes, dtypes, strict=True))


def peak_memory(python: str, library: str, network: str) -> dict:
    """Peak resident MiB of processes that train for a few steps, by side, less what imports take."""
    idle = child(python, "peak", library, network, "")
    return {"imports": idle} | {
        side: child(python, "peak", library, network, side) - idle
        for side in ("plain", "static", "every_step")
    }


def peak(library: Any, network: str, side: str) -> float:
    if side:
        Side(library, network, side).fit(MEMORY_STEPS)
    return _peak_mib()


def _peak_mib() -> float:
    """From Linux itself: `getrusage` would give the peak of the parent where that is higher."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def versions() -> dict[str, str]:
    from importlib import metadata

    names = ("tensorflow", "tf_keras", "tensorflow-model-optimization")
    return {name: metadata.version(name) for name in names}


CHILDREN: dict[str, Callable] = {
    "steps": lambda library, network, rounds: step_times(LIBRARIES[library](), network, int(rounds)),
    "bytes": lambda library, network: variable_bytes(LIBRARIES[library](), network),
    "peak": lambda library, network, side: peak(LIBRARIES[library](), network, side),
    "versions": versions,
}


def child(python: str, what: str, *arguments: object) -> Any:
    """What `CHILDREN[what]` returns in a process of its own."""
    command = [python, __file__, "--child", what, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stderr}")
    print(*command[3:], done.stdout.splitlines()[-1], file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measured(python: str, library: str, rounds: int) -> dict:
    return {
        "steps": {network: child(python, "steps", library, network, rounds) for network in STEPS},
        "variables": {network: child(python, "bytes", library, network) for network in (*STEPS, "wide")},
        "peak_MiB": {network: peak_memory(python, library, network) for network in (*STEPS, "wide")},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tfmot-python", default=TFMOT_PYTHON if TFMOT_PYTHON.exists() else None)
    parser.add_argument("--child", nargs="+")
    arguments = parser.parse_args()
    if arguments.child:
        what, *rest = arguments.child
        print(json.dumps(CHILDREN[what](*rest)))
        return
    result = {
        "what": "seconds of a step inside fit over those of the plain model; memory while training",
        "settings": {"batch": BATCH, "sparsity": SPARSITY, "optimizer": "SGD, momentum 0.9"},
        "threads": int(THREADS),
        "tfcompress": measured(sys.executable, "tfcompress", arguments.rounds),
    }
    if arguments.tfmot_python:
        python = str(arguments.tfmot_python)
        result["tfmot"] = measured(python, "tfmot", arguments.rounds) | {
            "versions": child(python, "versions")
        }
    save("masks", result)


if __name__ == "__main__":
    main()
