"""One scoring pass of all criteria together against plain predict, gradients against a step, and memory.

    python tests/benchmarks/bench_scoring.py [--rounds 5]

Both sides see the same images, in the same process, in turn. Scoring compiles its pass at every
call, its peer only at the first; the ratio with and without that is given. Criteria that look at activations
are compared with `predict`; those that look at gradients with a compiled forward and backward pass, by all
weights, of the loss. HRank is measured apart, on few images: singular values take longer than a network.
Memory is the peak of a fresh process per number of images, which come from a generator.
"""

import argparse
import subprocess
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from measure import interleaved, peak_mib, ratio, save, spread

from tfcompress import channels, criteria

BATCH = 32
COUNTS = (512, 1024, 2048, 4096, 8192)


def networks() -> dict[str, tuple[keras.Model, int]]:
    """name -> (network, images per pass)"""
    return {
        "ResNet50 at 64": (keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3)), 1024),
        "MobileNetV2 at 96": (keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3)), 1024),
    }


SLOW = "hrank"


def all_criteria(kind: type = criteria.ActivationCriterion) -> dict[str, criteria.StreamingCriterion]:
    objects = {name: criteria.get(name) for name in criteria.names()}
    return {name: c for name, c in objects.items() if isinstance(c, kind) and name != SLOW}


def layers_of(model: keras.Model) -> list[str]:
    return [path for group in channels.trace(model).free for path in group.layers]


def compare(model: keras.Model, images: int, rounds: int) -> dict:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, *model.input_shape[1:])).astype("float32")
    y = rng.integers(0, 1000, images)
    model.compile(loss="sparse_categorical_crossentropy")
    starts = range(0, images, BATCH)
    step = backward(model)
    peers = {
        "predict": lambda: model.predict(x, batch_size=BATCH, verbose=0),
        "predict_on_batch": lambda: [model.predict_on_batch(x[i : i + BATCH]) for i in starts],
        "forward_and_backward": lambda: [step(x[i : i + BATCH], y[i : i + BATCH]) for i in starts],
    }
    return {
        "images": images,
        "layers": len(layers_of(model)),
        "activations": scored(model, all_criteria(), (x, y), peers, ("predict", "predict_on_batch"), rounds),
        "gradients": scored(
            model, all_criteria(criteria.GradientCriterion), (x, y), peers, ("forward_and_backward",), rounds
        ),
        "hrank, 64 images": scored(
            model, {SLOW: criteria.HRank()}, (x[: 2 * BATCH], y[: 2 * BATCH]), {}, (), rounds
        ),
    }


def backward(model: keras.Model):
    """A compiled pass that gives the gradients of the mean loss by all weights."""
    loss = keras.losses.SparseCategoricalCrossentropy()

    @tf.function(reduce_retracing=True)
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=False))
        return tape.gradient(value, model.trainable_variables)

    return step


def scored(model: keras.Model, chosen: dict, data: tuple, peers: dict, against: tuple, rounds: int) -> dict:
    """Seconds of scoring, and its ratios to its peers, with and without compiling."""
    layers, compiling = layers_of(model), []
    x, y = data

    def score() -> None:
        start = time.perf_counter()
        criteria.score_together(model, chosen, layers, (x[:BATCH], y[:BATCH]))
        compiling.append(time.perf_counter() - start)
        criteria.score_together(model, chosen, layers, data)

    seconds = interleaved({name: peers[name] for name in against} | {"score": score}, rounds)
    seconds["score"] = [total - once for total, once in zip(seconds["score"], compiling[1:], strict=True)]
    batches = len(x) / BATCH
    rest = [(a - b) * batches / (batches - 1) for a, b in zip(seconds["score"], compiling[1:], strict=True)]
    seconds["score_without_compiling"] = rest
    return {
        "criteria": list(chosen),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        **{
            f"{side}_over_{peer}": ratio(seconds, side, peer)
            for side in ("score", "score_without_compiling")
            for peer in against
        },
    }


def memory() -> dict[str, dict[str, float]]:
    """Peak resident MiB of a fresh process, by number of images and by what it does with them."""
    found: dict[str, dict[str, float]] = {}
    for what in ("predict_on_batch", "score", "score_by_gradients"):
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
    model.compile(loss="sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    labels = np.arange(BATCH)
    batches = ((rng.normal(size=(BATCH, 32, 32, 3)).astype("float32"), labels) for _ in range(count // BATCH))
    kinds = {"score": criteria.ActivationCriterion, "score_by_gradients": criteria.GradientCriterion}
    if what in kinds:
        criteria.score_together(model, all_criteria(kinds[what]), layers_of(model), batches)
    else:
        for batch, _ in batches:
            model.predict_on_batch(batch)
    print(peak_mib())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=2)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], int(arguments.child[1]))
        return
    result = {
        "what": "one pass of all criteria of a kind over all layers against a pass of the network itself",
        "networks": {name: compare(*pair, arguments.rounds) for name, pair in networks().items()},
        "peak_memory_MiB_by_images": memory(),
    }
    save("scoring", result)


if __name__ == "__main__":
    main()
