"""One scoring pass of all criteria together against plain predict, and its memory.

    python tests/benchmarks/bench_scoring.py [--rounds 5]

Both sides see the same images, in the same process, in turn. Scoring compiles its pass at every
call, `predict` only at the first; the ratio with and without that is given. Memory is the peak of
a fresh process per number of images, which come from a generator.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
from measure import interleaved, ratio, save

from tfcompress import channels, criteria

BATCH = 32
COUNTS = (512, 1024, 2048, 4096, 8192)


def networks() -> dict[str, tuple[keras.Model, int]]:
    """name -> (network, images per pass)"""
    return {
        "ResNet50 at 64": (keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3)), 1024),
        "MobileNetV2 at 96": (keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3)), 1024),
    }


def all_criteria() -> dict[str, criteria.ActivationCriterion]:
    objects = {name: criteria.get(name) for name in criteria.names()}
    return {name: c for name, c in objects.items() if isinstance(c, criteria.ActivationCriterion)}


def layers_of(model: keras.Model) -> list[str]:
    return [path for group in channels.trace(model).free for path in group.layers]


def compare(model: keras.Model, images: int, rounds: int) -> dict:
    x = np.random.default_rng(0).normal(size=(images, *model.input_shape[1:])).astype("float32")
    layers, chosen = layers_of(model), all_criteria()
    compiling: list[float] = []

    def score() -> None:
        start = time.perf_counter()
        criteria.score_together(model, chosen, layers, x[:BATCH])
        compiling.append(time.perf_counter() - start)
        criteria.score_together(model, chosen, layers, x)

    seconds = interleaved(
        {
            "predict": lambda: model.predict(x, batch_size=BATCH, verbose=0),
            "predict_on_batch": lambda: [
                model.predict_on_batch(x[i : i + BATCH]) for i in range(0, images, BATCH)
            ],
            "score": score,
        },
        rounds,
    )
    compiling = compiling[1:]
    seconds["score"] = [total - once for total, once in zip(seconds["score"], compiling, strict=True)]
    seconds["score_compiled"] = [a - b for a, b in zip(seconds["score"], compiling, strict=True)]
    batches = images / BATCH
    seconds["score_compiled"] = [s * batches / (batches - 1) for s in seconds["score_compiled"]]
    return {
        "images": images,
        "layers": len(layers),
        "score_over_predict": ratio(seconds, "score", "predict"),
        "score_without_compiling_over_predict": ratio(seconds, "score_compiled", "predict"),
        "score_without_compiling_over_predict_on_batch": ratio(seconds, "score_compiled", "predict_on_batch"),
    }


def memory() -> dict[str, dict[str, float]]:
    """Peak resident MiB of a fresh process, by number of images and by what it does with them."""
    found: dict[str, dict[str, float]] = {}
    for what in ("predict_on_batch", "score"):
        for count in COUNTS:
            done = subprocess.run(
                [sys.executable, __file__, "--child", what, str(count)],
                capture_output=True,
                text=True,
                check=True,
            )
            found.setdefault(what, {})[str(count)] = float(done.stdout.split()[-1])
    return found


def child(what: str, count: int) -> None:
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3))
    rng = np.random.default_rng(0)
    batches = (rng.normal(size=(BATCH, 32, 32, 3)).astype("float32") for _ in range(count // BATCH))
    if what == "score":
        criteria.score_together(model, all_criteria(), layers_of(model), batches)
    else:
        for batch in batches:
            model.predict_on_batch(batch)
    print(_peak_mib())


def _peak_mib() -> float:
    """From Linux itself: `getrusage` would give the peak of the parent where that is higher."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=2)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], int(arguments.child[1]))
        return
    result = {
        "what": "one pass of all activation criteria over all layers against predict; ratios of seconds",
        "criteria": list(all_criteria()),
        "networks": {name: compare(*pair, arguments.rounds) for name, pair in networks().items()},
        "peak_memory_MiB_by_images": memory(),
    }
    save("scoring", result)


if __name__ == "__main__":
    main()
