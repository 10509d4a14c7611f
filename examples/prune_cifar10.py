"""ResNet-20 on CIFAR-10, pruned to half its MACs: layer by layer by entropy, by L1, and at random.

    python examples/prune_cifar10.py --data-dir folder/with/cifar10-tfrecords

Every method gets the same trained network and the same number of fine-tuning steps. The control
`scratch` is the L1-pruned architecture, trained from new weights for all the epochs that the pruned networks
have seen. Each finished run is written to the JSON at once: stop at any time, and the same command
goes on where it stopped. Without the data the script falls back to scikit-learn's digits.
"""

import json
import time
from pathlib import Path

import datasets
import keras
import networks
import numpy as np
import tensorflow as tf
from absl import app, flags
from rich.console import Console
from rich.table import Table

import tfcompress
from tfcompress import analysis

flags.DEFINE_string("data_dir", None, "Folder of cifar10-train.tfrecord and cifar10-validation.tfrecord.")
flags.DEFINE_string("out_dir", "prune_cifar10", "Where results and trained networks go.")
flags.DEFINE_integer("width", 8, "Filters of the first stage; the paper's ResNet-20 has 16.")
flags.DEFINE_integer("epochs", 8, "Epochs of training before pruning.")
flags.DEFINE_integer("tune_epochs", 4, "Epochs of training that follow, for every method alike.")
flags.DEFINE_float("macs", 0.5, "The share of MACs that stays.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights, batches and random pruning.")
FLAGS = flags.FLAGS

BATCH = 128
METHODS = ("dense", "entropy", "l1", "random", "scratch")


def main(argv: list[str]) -> None:
    del argv
    images = datasets.load(FLAGS.data_dir)
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / "results.json", settings(images))
    for seed in map(int, FLAGS.seeds):
        for method in METHODS:
            if not results.has(method, seed):
                keras.utils.set_random_seed(seed)
                results.add(method, seed, RUNS[method](images, seed, out))
    report(results.runs, out)


# ------------------------------------------------------------------ the runs


def dense(images: datasets.Images, seed: int, out: Path) -> dict:
    model = networks.resnet20(images.train[0].shape[1:], images.classes, FLAGS.width)
    train(model, images, FLAGS.epochs, 0.1)
    model.save(network_path(out, seed))
    return measure(model, images)


def entropy(images: datasets.Images, seed: int, out: Path) -> dict:
    """Half the fine-tuning goes into the steps between layers, half comes at the end."""
    model = keras.saving.load_model(network_path(out, seed))
    compile_for(model, TUNE_RATE)
    calibration = images.train[0][:1000]
    steps = len(tfcompress.analysis.grouping.chosen(tfcompress.trace(model)))
    batches = steps_per_epoch(images) * FLAGS.tune_epochs // 2

    def retrain(small: keras.Model) -> None:
        small.fit(augmented(images).repeat().take(batches // steps), shuffle=False, verbose=0)

    small = tfcompress.prune_layerwise(
        model, "entropy", budget={"macs": FLAGS.macs}, data=calibration, retrain=retrain
    )
    cut = accuracy(small, images)
    train(small, images, FLAGS.tune_epochs - FLAGS.tune_epochs // 2, TUNE_RATE)
    return measure(small, images) | {"accuracy_after_cut": cut, "widths": widths(small)}


def one_shot(criterion) -> dict:
    def run(images: datasets.Images, seed: int, out: Path) -> dict:
        model = keras.saving.load_model(network_path(out, seed))
        small = tfcompress.prune(model, criterion(seed), budget={"macs": FLAGS.macs})
        cut = accuracy(small, images)
        train(small, images, FLAGS.tune_epochs, TUNE_RATE)
        return measure(small, images) | {"accuracy_after_cut": cut, "widths": widths(small)}

    return run


def scratch(images: datasets.Images, seed: int, out: Path) -> dict:
    model = keras.saving.load_model(network_path(out, seed))
    small = tfcompress.prune(model, "l1", budget={"macs": FLAGS.macs})
    fresh = keras.Model.from_config(small.get_config())
    train(fresh, images, FLAGS.epochs + FLAGS.tune_epochs, 0.1)
    return measure(fresh, images) | {"widths": widths(fresh)}


TUNE_RATE = 0.02
RUNS = {
    "dense": dense,
    "entropy": entropy,
    "l1": one_shot(lambda seed: "l1"),
    "random": one_shot(lambda seed: tfcompress.criteria.Random(seed=seed)),
    "scratch": scratch,
}


# ------------------------------------------------------------------ training and measuring


def train(model: keras.Model, images: datasets.Images, epochs: int, rate: float) -> None:
    """SGD with momentum; the learning rate falls from `rate` to 0 along a cosine."""
    compile_for(model, keras.optimizers.schedules.CosineDecay(rate, epochs * steps_per_epoch(images)))
    model.fit(augmented(images), epochs=epochs, shuffle=False, verbose=0)


def compile_for(model: keras.Model, rate) -> None:
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], steps_per_execution=20)


def augmented(images: datasets.Images) -> tf.data.Dataset:
    """Batches of randomly flipped and shifted images; digits are taken as they are."""

    def augment(x, y):
        x = tf.image.random_flip_left_right(x)
        x = tf.pad(x, [[4, 4], [4, 4], [0, 0]])
        return tf.image.random_crop(x, images.train[0].shape[1:]), y

    data = tf.data.Dataset.from_tensor_slices(images.train).shuffle(50_000)
    if images.name == "CIFAR-10":
        data = data.map(augment, num_parallel_calls=2)
    return data.batch(BATCH, drop_remainder=True).prefetch(4)


def steps_per_epoch(images: datasets.Images) -> int:
    return len(images.train[0]) // BATCH


def accuracy(model: keras.Model, images: datasets.Images) -> float:
    predictions = model.predict(images.test[0], batch_size=250, verbose=0).argmax(axis=1)
    return float((predictions == images.test[1]).mean())


def measure(model: keras.Model, images: datasets.Images) -> dict:
    totals = analysis.summary(model).totals
    return {"accuracy": accuracy(model, images), "params": totals["params"], "macs": totals["macs"]}


def widths(model: keras.Model) -> dict[str, int]:
    return {layer.name: layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}


def network_path(out: Path, seed: int) -> Path:
    return out / f"resnet20-width{FLAGS.width}-epochs{FLAGS.epochs}-seed{seed}.keras"


# ------------------------------------------------------------------ results


def settings(images: datasets.Images) -> dict:
    return {
        "data": images.name,
        "train_images": len(images.train[0]),
        "test_images": len(images.test[0]),
        "network": f"ResNet-20, width {FLAGS.width}",
        "epochs": FLAGS.epochs,
        "tune_epochs": FLAGS.tune_epochs,
        "macs": FLAGS.macs,
        "batch": BATCH,
        "tune_rate": TUNE_RATE,
    }


class Results:
    """Finished runs, in a JSON file that is rewritten after each."""

    def __init__(self, path: Path, settings: dict):
        self.path = path
        self.content = {"settings": settings, "versions": versions(), "runs": []}
        if path.exists():
            self.content = json.loads(path.read_text())
            if self.content["settings"] != settings:
                raise SystemExit(f"{path} holds results of other settings; give another --out_dir.")

    @property
    def runs(self) -> list[dict]:
        return self.content["runs"]

    def has(self, method: str, seed: int) -> bool:
        return any(run["method"] == method and run["seed"] == seed for run in self.runs)

    def add(self, method: str, seed: int, result: dict) -> None:
        self.runs.append(
            {"method": method, "seed": seed, **result, "finished": time.strftime("%Y-%m-%d %H:%M")}
        )
        print(self.runs[-1], flush=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.content, indent=1))
        temporary.replace(self.path)


def versions() -> dict[str, str]:
    return {"keras": keras.__version__, "tensorflow": tf.__version__, "tfcompress": tfcompress.__version__}


def report(runs: list[dict], out: Path) -> None:
    table = Table(title="Accuracy in %, mean ± standard deviation over seeds")
    for column in ("method", "seeds", "accuracy", "after cut", "params", "MACs"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method in METHODS:
        mine = [run for run in runs if run["method"] == method]
        if mine:
            cells = [spread(mine, "accuracy"), spread(mine, "accuracy_after_cut")]
            sizes = [f"{np.mean([run[key] for run in mine]):,.0f}" for key in ("params", "macs")]
            table.add_row(method, str(len(mine)), *cells, *sizes)
    console = Console(width=100, record=True)
    console.print(table)
    (out / "table.txt").write_text(console.export_text())
    plot(runs, out / "accuracy.png")


def spread(runs: list[dict], key: str) -> str:
    values = [100 * run[key] for run in runs if key in run]
    return f"{np.mean(values):.2f} ± {np.std(values):.2f}" if values else ""


def plot(runs: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for place, method in enumerate(METHODS):
        values = [100 * run["accuracy"] for run in runs if run["method"] == method]
        if values:
            axes.errorbar(place, np.mean(values), np.std(values), fmt="o", capsize=4)
            axes.plot([place] * len(values), values, "k.", markersize=3)
    axes.set_xticks(range(len(METHODS)), METHODS)
    axes.set_ylabel("test accuracy, %")
    axes.set_title(
        f"ResNet-20 at {FLAGS.macs:.0%} of its MACs; bars: standard deviation over seeds", fontsize=9
    )
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    app.run(main)
