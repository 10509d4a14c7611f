"""Random masks against as many plain evaluations of the network.

    python tests/benchmarks/bench_random_masks.py [--candidates 100] [--images 5000]

ResNet-20 on images of CIFAR-10's size: the time of `random_masks`, its search and the surgery at the end,
over that of as many calls of `evaluate`, in turn, in one process. What `random_masks` builds and compiles
once per call is in the first ratio, and not in the second.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from measure import interleaved, ratio, save, spread

import tfcompress

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import networks

BATCH = 250  # what random_masks takes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(arguments.images, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, arguments.images)
    model = networks.resnet20((32, 32, 3), 10, 16)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    once: list[float] = []

    def search() -> None:
        start = time.perf_counter()
        tfcompress.random_masks(model, (x[:BATCH], y[:BATCH]), sparsity=0.4, candidates=1)
        once.append(time.perf_counter() - start)
        tfcompress.random_masks(model, (x, y), sparsity=0.4, candidates=arguments.candidates)

    def evaluate() -> None:
        for _ in range(arguments.candidates):
            model.evaluate(x, y, batch_size=BATCH, verbose=0)

    seconds = interleaved({"random_masks": search, "evaluate": evaluate}, arguments.rounds)
    pairs = list(zip(seconds["random_masks"], once[1:], strict=True))
    seconds["random_masks"] = [total - first for total, first in pairs]
    seconds["candidates"] = [total - 2 * first for total, first in pairs]
    result = {
        "what": "random_masks over as many calls of evaluate; ResNet-20, width 16",
        "candidates": arguments.candidates,
        "images": arguments.images,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "random_masks_over_evaluate": ratio(seconds, "random_masks", "evaluate"),
        "candidates_over_evaluate": ratio(seconds, "candidates", "evaluate"),
    }
    save("random_masks", result)


if __name__ == "__main__":
    main()
