"""Which zeros to train for int8: accuracy, bytes and latency of patterns, in float32 and in int8.

    python examples/sparse_int8_cifar10.py --data-dir folder/with/cifar10-tfrecords

A network in the style of VGG is trained. From it magnitude pruning starts for each pattern and sparsity,
with as many epochs for each: single weights, four input channels (1x4), and those of 4 or 16 filters
together (4x4, 16x4), as the int8 kernels of the delegate leave them out. Every result is exported in
float32 and in int8, calibrated on training images, and timed in LiteRT on one thread, with the delegate
of tfcompress and without it, in turn. Each finished run is written to the JSON at once: stop at any
time, and the same command goes on. Networks that the folder has are not trained again: without its JSON
they are but measured. Without the data the script falls back to scikit-learn's digits.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import keras
import networks
import numpy as np
import studies
from absl import flags

import tfcompress
from tfcompress import analysis, callbacks
from tfcompress.layers import MagnitudePruning
from tfcompress.schedules import Polynomial

PATTERNS = {"unstructured": (1, 1), "1x4": (1, 4), "4x4": (4, 4), "16x4": (16, 4)}  # (filters, inputs)

flags.DEFINE_string("data_dir", None, "Folder of cifar10-train.tfrecord and cifar10-validation.tfrecord.")
flags.DEFINE_string("out_dir", "sparse_int8_cifar10", "Where results and trained networks go.")
flags.DEFINE_integer("width", 32, "Filters of the first stage; a multiple of 16.")
flags.DEFINE_integer("epochs", 6, "Epochs of training before any sparsity.")
flags.DEFINE_integer("sparse_epochs", 1, "Epochs for each pattern and sparsity.")
flags.DEFINE_list("patterns", list(PATTERNS), "Some of them.")
flags.DEFINE_list("sparsities", ["0.8", "0.9", "0.95"], "Shares of zeros.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and batches.")
FLAGS = flags.FLAGS

RATE, TUNE_RATE = 0.02, 0.01  # the former as in train_sparse_cifar10.py, where it was chosen
CALIBRATION = 256  # training images
ENDS = ["stem", "head"]  # stay dense


def main(argv: list[str]) -> None:
    del argv
    images = datasets.load(FLAGS.data_dir)
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    own = {name: getattr(FLAGS, name) for name in ("width", "epochs", "sparse_epochs", "sparsities")}
    rates, kernels = [RATE, TUNE_RATE], tfcompress.ops.kernels("int8")[:2]
    settings = studies.settings(images, **own, rates=rates, kernels=kernels)
    results = studies.Results(out / "results.json", settings, ("method", "sparsity", "seed"))
    for seed in map(int, FLAGS.seeds):
        start = out / f"dense-seed{seed}.keras"  # vgg-begun-seed0.keras of deep_compression.py is the same
        trainings = {("dense", 0.0): functools.partial(dense, images)} | {
            (name, sparsity): functools.partial(pruned, images, start, PATTERNS[name], sparsity)
            for name in FLAGS.patterns
            for sparsity in map(float, FLAGS.sparsities)
        }
        for (name, sparsity), train in trainings.items():
            file = start if name == "dense" else out / f"{name}-{sparsity:g}-seed{seed}.keras"
            run = functools.partial(measured, file, train, images)
            results.once(run, method=name, sparsity=sparsity, seed=seed)
    report(results.runs, out)


def dense(images: datasets.Images) -> keras.Model:
    model = networks.vgg(images.train[0].shape[1:], images.classes, FLAGS.width)
    studies.train(model, images, FLAGS.epochs, RATE)
    return model


def pruned(images: datasets.Images, start: Path, block: tuple[int, int], sparsity: float) -> keras.Model:
    """More and more zeros in the first two thirds of the steps; then masks are final."""
    last = FLAGS.sparse_epochs * studies.steps_per_epoch(images) * 2 // 3
    schedule = Polynomial(0.0, sparsity, end_step=last, frequency=max(1, last // 20))
    rule = MagnitudePruning(schedule, block=block)
    model = tfcompress.wrap(keras.saving.load_model(start, compile=False), rule, exclude=ENDS)
    studies.train(model, images, FLAGS.sparse_epochs, TUNE_RATE, [callbacks.UpdateMasks()])
    return tfcompress.strip(model)


# ------------------------------------------------------------------ measuring


def measured(file: Path, train: Callable[[], keras.Model], images: datasets.Images) -> dict:
    """As a float32 file, as an int8 file, and as one whose zeros are left out."""
    if not file.exists():
        written = file.with_name(f"new-{file.name}")  # a file of that name is a whole one
        train().save(written)
        written.replace(file)
    model = keras.saving.load_model(file, compile=False)
    in_int8 = {"quantization": "int8", "representative_data": images.train[0][:CALIBRATION]}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{name}.tflite") for name in ("float32", "int8", "int8_sparse")}
        reports = {
            "float32": tfcompress.export.tflite(model, files["float32"], data=images.test[0][:64]),
            "int8": tfcompress.export.tflite(model, files["int8"], sparse_encoding=False, **in_int8),
            "int8_sparse": tfcompress.export.tflite(
                model, files["int8_sparse"], sparse_encoding=True, **in_int8
            ),
        }
        found = tfcompress.export.run_tflite(files["int8_sparse"], images.test[0], delegate=True)
        return {
            "accuracy": studies.accuracy(model, images),
            "int8_accuracy": float((found.argmax(axis=1) == images.test[1]).mean()),
            **{f"{name}_bytes": report.size_bytes for name, report in reports.items()},
            **times("float32", files["float32"]),
            **times("int8", files["int8"]),
        }


def times(name: str, file: Path) -> dict[str, Any]:
    """Of XNNPACK and of the delegate, in turn."""
    found = analysis.latency_ratio(file, file, delegate=(False, True), repeats=100)
    return {
        f"{name}_xnnpack_ms": found.first.median_ms,
        f"{name}_delegate_ms": found.second.median_ms,
        f"{name}_speedup": found.median,
        f"{name}_speedup_p10": found.p10,
        f"{name}_speedup_p90": found.p90,
    }


# ------------------------------------------------------------------ results


def report(runs: list[dict], out: Path) -> None:
    groups = studies.grouped(runs, "method", "sparsity")

    def mean(mine: list[dict], key: str) -> float:
        return float(np.mean([run[key] for run in mine]))

    rows = [
        [
            method,
            f"{sparsity:.0%}",
            studies.spread(mine, "accuracy"),
            studies.spread(mine, "int8_accuracy"),
            *(f"{mean(mine, f'{name}_bytes') / 1000:,.0f}" for name in ("float32", "int8", "int8_sparse")),
            *(
                f"{mean(mine, f'{name}_{runtime}_ms'):.3f}"
                for name in ("float32", "int8")
                for runtime in ("xnnpack", "delegate")
            ),
        ]
        for (method, sparsity), mine in groups.items()
    ]
    columns = (
        "pattern",
        "zeros",
        "accuracy",
        "in int8",
        "float32, kB",
        "int8, kB",
        "zeros left out, kB",
        "float32 XNNPACK, ms",
        "delegate, ms",
        "int8 XNNPACK, ms",
        "delegate, ms",
    )
    title = f"Patterns of zeros, mean ± standard deviation over {len(FLAGS.seeds)} seeds; one thread"
    studies.write_table(title, columns, rows, out / "table.txt")
    plot(groups, mean, out / "accuracy.png")


def plot(groups: dict[tuple[str, float], list[dict]], mean: Any, path: Path) -> None:
    """Accuracy against latency: what to choose from."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, accuracy, marker in (("float32", "accuracy", "o--"), ("int8", "int8_accuracy", "s-")):
        for method in dict.fromkeys(method for method, _ in groups):
            mine = [runs for (other, _), runs in groups.items() if other == method]
            times = [mean(runs, f"{name}_delegate_ms") for runs in mine]
            accuracies = [100 * mean(runs, accuracy) for runs in mine]
            axes.plot(times, accuracies, marker, label=f"{method}, {name}")
    axes.set_xscale("log")
    axes.set_xlabel("latency with the delegate, ms")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    studies.run(main)
