"""Pruned networks that run faster: accuracy, bytes and latency of trained masks at rising sparsity.

    python examples/run_sparse_cifar10.py --data-dir folder/with/cifar10-tfrecords

A network in the style of VGG is trained. Then, for single weights and for blocks of 16 filters, magnitude
pruning takes it from one sparsity to the next, with some epochs of training at each. Every stage is exported
to TFLite and timed in LiteRT on one thread, with the delegate of tfcompress and without it, in turn. What a
user weighs against each other stands in one table. Each finished stage is written to the JSON at once: stop
at any time, and the same command goes on. Without the data the script falls back to scikit-learn's digits.
"""

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

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

flags.DEFINE_string("data_dir", None, "Folder of cifar10-train.tfrecord and cifar10-validation.tfrecord.")
flags.DEFINE_string("out_dir", "run_sparse_cifar10", "Where results and trained networks go.")
flags.DEFINE_integer("width", 32, "Filters of the first stage; a multiple of 16.")
flags.DEFINE_integer("epochs", 4, "Epochs of training before any sparsity.")
flags.DEFINE_integer("sparse_epochs", 1, "Epochs at each sparsity.")
flags.DEFINE_list("sparsities", ["0.5", "0.7", "0.8", "0.9", "0.95"], "In rising order.")
flags.DEFINE_list("seeds", ["0"], "Seeds of weights and batches.")
FLAGS = flags.FLAGS

RATE, TUNE_RATE = 0.02, 0.004  # as in train_sparse_cifar10.py, where the former was chosen
PATTERNS = {"unstructured": (1, 1), "blocks of 16": (16, 1)}  # (filters, inputs) that go together
ENDS = ["stem", "head"]  # stay dense


def main(argv: list[str]) -> None:
    del argv
    images = datasets.load(FLAGS.data_dir)
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    results = studies.Results(out / "results.json", settings(images), ("method", "sparsity", "seed"))
    for seed in map(int, FLAGS.seeds):
        study = Study(images, seed, out)
        results.once(functools.partial(dense, study), method="dense", sparsity=0.0, seed=seed)
        for pattern in PATTERNS:
            for sparsity in map(float, FLAGS.sparsities):
                stage = functools.partial(pruned, study, pattern, sparsity)
                results.once(stage, method=pattern, sparsity=sparsity, seed=seed)
    report(results.runs, out)


@dataclass(frozen=True)
class Study:
    """What a stage starts from."""

    images: datasets.Images
    seed: int
    out: Path

    def file(self, pattern: str, sparsity: float) -> Path:
        return self.out / f"{pattern.replace(' ', '_')}-{sparsity:g}-seed{self.seed}.keras"

    def before(self, pattern: str, sparsity: float) -> keras.Model:
        """The network at the sparsity before this one."""
        lower = [level for level in map(float, FLAGS.sparsities) if level < sparsity]
        file = self.file(pattern, max(lower)) if lower else self.file("dense", 0.0)
        return keras.saving.load_model(file, compile=False)


def dense(study: Study) -> dict:
    model = networks.vgg(study.images.train[0].shape[1:], study.images.classes, FLAGS.width)
    studies.train(model, study.images, FLAGS.epochs, RATE)
    return kept(model, study.file("dense", 0.0), study)


def pruned(study: Study, pattern: str, sparsity: float) -> dict:
    """From the sparsity before in the first two thirds of the steps; then masks are final."""
    model = study.before(pattern, sparsity)
    last = FLAGS.sparse_epochs * studies.steps_per_epoch(study.images) * 2 // 3
    begin = max([level for level in map(float, FLAGS.sparsities) if level < sparsity], default=0.0)
    schedule = Polynomial(begin, sparsity, end_step=last, frequency=max(1, last // 10))
    model = tfcompress.wrap(model, MagnitudePruning(schedule, block=PATTERNS[pattern]), exclude=ENDS)
    studies.train(model, study.images, FLAGS.sparse_epochs, TUNE_RATE, [callbacks.UpdateMasks()])
    return kept(tfcompress.strip(model), study.file(pattern, sparsity), study)


def kept(model: keras.Model, file: Path, study: Study) -> dict:
    """Saves the network, and measures it."""
    model.save(file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        exported = tfcompress.export.tflite(model, path, data=study.images.test[0][:64])
        found = analysis.latency_ratio(path, path, delegate=(False, True), repeats=100)
    return {
        "accuracy": studies.accuracy(model, study.images),
        "nonzero_params": analysis.summary(model).totals["nonzero_params"],
        "tflite_bytes": exported.size_bytes,
        "tflite_gzip_bytes": exported.gzip_bytes,
        "xnnpack_ms": found.first.median_ms,
        "delegate_ms": found.second.median_ms,
        "speedup": found.median,
        "speedup_p10": found.p10,
        "speedup_p90": found.p90,
    }


# ------------------------------------------------------------------ results


def settings(images: datasets.Images) -> dict:
    return {
        "data": images.name,
        "train_images": len(images.train[0]),
        "test_images": len(images.test[0]),
        "width": FLAGS.width,
        "epochs": FLAGS.epochs,
        "sparse_epochs": FLAGS.sparse_epochs,
        "sparsities": FLAGS.sparsities,
        "batch": studies.BATCH,
        "rates": [RATE, TUNE_RATE],
        "kernel": tfcompress.ops.kernels()[0],
    }


def report(runs: list[dict], out: Path) -> None:
    groups = studies.grouped(runs, "method", "sparsity")
    rows = [
        [
            method,
            f"{sparsity:.0%}",
            studies.spread(mine, "accuracy"),
            f"{np.mean([run['tflite_bytes'] for run in mine]):,.0f}",
            f"{np.mean([run['tflite_gzip_bytes'] for run in mine]):,.0f}",
            f"{np.mean([run['xnnpack_ms'] for run in mine]):.3f}",
            f"{np.mean([run['delegate_ms'] for run in mine]):.3f}",
            studies.spread(mine, "speedup", factor=1),
        ]
        for (method, sparsity), mine in groups.items()
    ]
    columns = (
        "pattern",
        "zeros",
        "accuracy",
        ".tflite, bytes",
        "gzip",
        "XNNPACK, ms",
        "delegate, ms",
        "speed-up",
    )
    title = f"Trained masks, mean ± standard deviation over {len(FLAGS.seeds)} seeds; one thread"
    studies.write_table(title, columns, rows, out / "table.txt")
    plot(groups, out / "accuracy.png")


def plot(groups: dict[tuple[str, float], list[dict]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    for method in ("dense", *PATTERNS):
        mine = [runs for (name, _), runs in groups.items() if name == method]
        times = [np.mean([run["delegate_ms"] for run in runs]) for runs in mine]
        axes.plot(
            times, [100 * np.mean([run["accuracy"] for run in runs]) for runs in mine], "o-", label=method
        )
    axes.set_xlabel("latency with the delegate, ms")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    studies.run(main)
