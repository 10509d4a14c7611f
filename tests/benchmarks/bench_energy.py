"""How long energy-aware pruning and reconstruction of ResNet-50 take, and the memory they need.

    python tests/benchmarks/bench_energy.py [--size 128] [--images 512]

Each runs in a fresh process: `predict` over the same images for a measure of the machine, one round of
`prune_by_energy` over all layers, and `reconstruct` after half the filters were removed. Weights and images
are random: time and memory do not depend on them.
"""

import argparse
import subprocess
import sys
import time

import keras
import numpy as np
from measure import peak_mib, save

import tfcompress

BATCH = 32


def predict(model: keras.Model, images: np.ndarray) -> None:
    model.predict(images, batch_size=BATCH, verbose=0)


def energy(model: keras.Model, images: np.ndarray) -> None:
    tfcompress.prune_by_energy(model, images, sparsity=0.5, per_round=1.0, retrain=None, verbose=False)


def reconstruct(model: keras.Model, images: np.ndarray) -> None:
    small = tfcompress.prune(model, "l1", sparsity=0.5)
    tfcompress.reconstruct(small, model, images, positions=16)


JOBS = {"predict": predict, "prune_by_energy": energy, "reconstruct": reconstruct}


def child(job: str, size: int, images: int) -> None:
    model = keras.applications.ResNet50(weights=None, input_shape=(size, size, 3))
    x = np.random.default_rng(0).normal(size=(images, size, size, 3)).astype("float32")
    start = time.perf_counter()
    JOBS[job](model, x)
    print(time.perf_counter() - start, peak_mib())


def measured(job: str, size: int, images: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--job", job, "--size", str(size), "--images", str(images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, mib = map(float, done.stdout.split()[-2:])
    return {"seconds": seconds, "peak_memory_MiB": mib}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--job", choices=JOBS)
    arguments = parser.parse_args()
    if arguments.job:
        child(arguments.job, arguments.size, arguments.images)
        return
    result = {
        "what": "ResNet-50: one round of prune_by_energy, reconstruct after filters went, and predict",
        "size": arguments.size,
        "images": arguments.images,
        "jobs": {job: measured(job, arguments.size, arguments.images) for job in JOBS},
    }
    save("energy", result)


if __name__ == "__main__":
    main()
