"""The methods one after another, each on what the one before left: what every step buys.

    python examples/everything.py --data-dir folder/with/cifar10-tfrecords

As surveys of the field advise: group lasso while training, whose silent filters are removed; pruning by
Taylor's criterion with training after it; distillation from the dense network; then values are shared and
the file is encoded, or the network becomes int8. A network in the style of VGG; accuracy on the test images,
multiply-accumulates, bytes of the smallest file of each step, and milliseconds of one image in LiteRT on one
thread. The dense network is trained for as long as all steps together, as a control. Each finished step is
kept: stop at any time, and the same command goes on.
"""

import functools
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
from tfcompress.constraints import Proximal
from tfcompress.distillation import Distiller, SoftTargets
from tfcompress.regularizers import GroupLasso

flags.DEFINE_string("data_dir", None, "Folder of cifar10-train.tfrecord and cifar10-validation.tfrecord.")
flags.DEFINE_string("out_dir", "everything", "Where results, networks and files go.")
flags.DEFINE_integer("width", 32, "Filters of the first stage.")
flags.DEFINE_integer("epochs", 4, "Epochs of the first training, of group lasso and of distillation, each.")
flags.DEFINE_float("sparsity", 0.3, "The share of filters that group lasso silences.")
flags.DEFINE_float("macs", 0.5, "The share of MACs that pruning leaves of that.")
flags.DEFINE_integer("bits", 5, "Of shared values.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and batches.")
FLAGS = flags.FLAGS

RATE, TUNE_RATE = 0.02, 0.01  # as in train_sparse_cifar10.py, where the former was chosen; and half of it
TEMPERATURE = 4.0


@dataclass(frozen=True)
class Study:
    """What a step starts from."""

    images: datasets.Images
    seed: int
    out: Path

    def file(self, step: str) -> Path:
        return self.out / f"{step}-seed{self.seed}.keras"

    def load(self, step: str) -> keras.Model:
        return keras.saving.load_model(self.file(step), compile=False)

    def train(self, model: keras.Model, epochs: int, rate: float, *extra) -> None:
        studies.train(model, self.images, epochs, rate, extra)


def main(argv: list[str]) -> None:
    del argv
    images = datasets.load(FLAGS.data_dir)
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    results = studies.Results(out / "results.json", settings(images), ("method", "seed"))
    for seed in map(int, FLAGS.seeds):
        study = Study(images, seed, out)
        for step in STEPS:
            results.once(functools.partial(STEPS[step], study), method=step, seed=seed)
    report(results.runs, out)


# ------------------------------------------------------------------ steps


def dense(study: Study) -> dict:
    images = study.images
    model = networks.vgg(images.train[0].shape[1:], images.classes, FLAGS.width)
    study.train(model, FLAGS.epochs, RATE)
    return kept(model, study, "dense")


def trained_longer(study: Study) -> dict:
    """As long as all other steps together, the control."""
    model = study.load("dense")
    study.train(model, 2 * FLAGS.epochs + 2, TUNE_RATE)
    return kept(model, study, "trained longer")


def lasso(study: Study) -> dict:
    """Silences whole filters, which are then removed."""
    rule = Proximal(GroupLasso("filters", 1e-3))
    model = tfcompress.attach(study.load("dense"), rule, exclude="head")
    reach = callbacks.ReachSparsity(FLAGS.sparsity)
    study.train(model, FLAGS.epochs, TUNE_RATE, callbacks.FollowLearningRate(), reach)
    small = tfcompress.remove_zeroed(model)
    for layer in small.layers:  # the steps that follow press no more
        if hasattr(layer, "kernel"):
            layer.kernel_constraint = layer.kernel.constraint = None
    return kept(small, study, "group lasso")


def pruned(study: Study) -> dict:
    """By Taylor's criterion, with one epoch of training."""
    model = study.load("group lasso")
    model.compile(loss="sparse_categorical_crossentropy")
    data = tuple(part[:2000] for part in study.images.train)
    small = tfcompress.prune(model, "taylor", budget={"macs": FLAGS.macs}, data=data)
    study.train(small, 1, TUNE_RATE)
    return kept(small, study, "pruned")


def distilled(study: Study) -> dict:
    """From the dense network."""
    student = study.load("pruned")
    distiller = Distiller(study.load("dense"), student, SoftTargets(TEMPERATURE), student_loss_weight=0.1)
    study.train(distiller, FLAGS.epochs, TUNE_RATE)
    return kept(distiller.student, study, "distilled")


def shared(study: Study) -> dict:
    """Few values, trained for an epoch."""
    model = tfcompress.share(study.load("distilled"), FLAGS.bits)
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", steps_per_execution=10)
    studies.fit(model, studies.augmented(study.images))
    return kept(tfcompress.strip(model), study, "shared")


def int8(study: Study) -> dict:
    """Instead of shared values."""
    return kept(study.load("distilled"), study, "int8", quantization="int8")


def kept(model: keras.Model, study: Study, step: str, quantization: str | None = None) -> dict:
    """Saves a step, and measures the files that it makes."""
    model.save(study.file(step))
    path, calibration = study.out / f"{step}-seed{study.seed}.tflite", study.images.train[0][:256]
    exported = tfcompress.export.tflite(
        model, path, quantization=quantization, representative_data=calibration, sparse_encoding=False
    )
    sizes = [exported.gzip_bytes]
    if quantization is None:
        sizes.append(tfcompress.save_compressed(model, path.with_suffix(".tfc")).size_bytes)
    x, y = study.images.test
    return {
        "accuracy": float((tfcompress.export.run_tflite(path, x).argmax(axis=1) == y).mean()),
        "macs": analysis.macs(model),
        "params": model.count_params(),
        "tflite_gzip_bytes": exported.gzip_bytes,
        "smallest_bytes": min(sizes),
        "milliseconds": analysis.latency(path, repeats=100).median_ms,
    }


STEPS = {
    "dense": dense,
    "trained longer": trained_longer,
    "group lasso": lasso,
    "pruned": pruned,
    "distilled": distilled,
    "shared": shared,
    "int8": int8,
}


# ------------------------------------------------------------------ results


def settings(images: datasets.Images) -> dict:
    own = {name: FLAGS[name].value for name in ("width", "epochs", "sparsity", "macs", "bits")}
    return studies.settings(images, **own, rate=RATE, tune_rate=TUNE_RATE, temperature=TEMPERATURE)


def report(runs: list[dict], out: Path) -> None:
    groups = {step: [run for run in runs if run["method"] == step] for step in STEPS}
    rows = [
        [
            step,
            str(len(mine)),
            studies.spread(mine, "accuracy"),
            *(f"{np.mean([run[key] for run in mine]):,.0f}" for key in ("macs", "smallest_bytes")),
            studies.spread(mine, "milliseconds", 1),
        ]
        for step, mine in groups.items()
    ]
    columns = ("step", "seeds", "accuracy, %", "MACs", "bytes", "ms")
    studies.write_table("What each step buys", columns, rows, out / "table.txt")
    plot(groups, out / "accuracy.png")


def plot(groups: dict[str, list[dict]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, (step, mine) in enumerate(groups.items()):
        places = [run["smallest_bytes"] / 1000 for run in mine]
        axes.plot(places, [100 * run["accuracy"] for run in mine], "o", color=f"C{number}", label=step)
    axes.set(xscale="log", xlabel="kilobytes of the smallest file", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    studies.run(main)
