"""ResNet-20 on CIFAR-10, pruned to half its MACs: layer by layer by entropy, by L1, and at random.

    python examples/prune_cifar10.py --data-dir folder/with/cifar10-tfrecords

Every method gets the same trained network and the same number of fine-tuning steps. The control
`scratch` is the L1-pruned architecture, trained from new weights for all the epochs that the pruned networks
have seen. Each finished run is written to the JSON at once: stop at any time, and the same command
goes on where it stopped. Without the data the script falls back to scikit-learn's digits.
"""

import functools
from pathlib import Path

import datasets
import keras
import networks
import numpy as np
import studies
from absl import flags

import tfcompress
from tfcompress import analysis

flags.DEFINE_string("data_dir", None, "Folder of cifar10-train.tfrecord and cifar10-validation.tfrecord.")
flags.DEFINE_string("out_dir", "prune_cifar10", "Where results and trained networks go.")
flags.DEFINE_integer("width", 8, "Filters of the first stage; the paper's ResNet-20 has 16.")
flags.DEFINE_integer("depth", 20, "Layers of the network: 6 n + 2.")
flags.DEFINE_integer("epochs", 8, "Epochs of training before pruning.")
flags.DEFINE_integer("tune_epochs", 4, "Epochs of training that follow, for every method alike.")
flags.DEFINE_float("macs", 0.5, "The share of MACs that stays.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights, batches and random pruning.")
FLAGS = flags.FLAGS

METHODS = ("dense", "entropy", "l1", "random", "scratch")


def main(argv: list[str]) -> None:
    del argv
    images = datasets.load(FLAGS.data_dir)
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    results = studies.Results(out / "results.json", settings(images), ("method", "seed"))
    for seed in map(int, FLAGS.seeds):
        for method in METHODS:
            results.once(functools.partial(RUNS[method], images, seed, out), method=method, seed=seed)
    report(results.runs, out)


# ------------------------------------------------------------------ the runs


def dense(images: datasets.Images, seed: int, out: Path) -> dict:
    return measure(network(images, seed, out), images)


def network(images: datasets.Images, seed: int, out: Path) -> keras.Model:
    return studies.resnet(images, out, seed, FLAGS.width, FLAGS.epochs, FLAGS.depth)


def entropy(images: datasets.Images, seed: int, out: Path) -> dict:
    """Half the fine-tuning goes into the steps between layers, half comes at the end."""
    model = network(images, seed, out)
    studies.compile_for(model, TUNE_RATE)
    calibration = images.train[0][:1000]
    steps = len(tfcompress.analysis.grouping.chosen(tfcompress.trace(model)))
    batches = studies.steps_per_epoch(images) * FLAGS.tune_epochs // 2

    def retrain(small: keras.Model) -> None:
        studies.fit(small, studies.augmented(images).repeat().take(batches // steps))

    small = tfcompress.prune_layerwise(
        model, "entropy", budget={"macs": FLAGS.macs}, data=calibration, retrain=retrain
    )
    cut = studies.accuracy(small, images)
    studies.train(small, images, FLAGS.tune_epochs - FLAGS.tune_epochs // 2, TUNE_RATE)
    return measure(small, images) | {"accuracy_after_cut": cut, "widths": widths(small)}


def one_shot(criterion) -> dict:
    def run(images: datasets.Images, seed: int, out: Path) -> dict:
        model = network(images, seed, out)
        small = tfcompress.prune(model, criterion(seed), budget={"macs": FLAGS.macs})
        cut = studies.accuracy(small, images)
        studies.train(small, images, FLAGS.tune_epochs, TUNE_RATE)
        return measure(small, images) | {"accuracy_after_cut": cut, "widths": widths(small)}

    return run


def scratch(images: datasets.Images, seed: int, out: Path) -> dict:
    """The widths follow from the budget alone, so that any network of this kind gives them."""
    model = networks.resnet(images.train[0].shape[1:], images.classes, FLAGS.width, FLAGS.depth)
    small = tfcompress.prune(model, "l1", budget={"macs": FLAGS.macs})
    keras.utils.set_random_seed(seed)
    fresh = keras.Model.from_config(small.get_config())
    studies.train(fresh, images, FLAGS.epochs + FLAGS.tune_epochs, studies.RATE)
    return measure(fresh, images) | {"widths": widths(fresh)}


TUNE_RATE = 0.02
RUNS = {
    "dense": dense,
    "entropy": entropy,
    "l1": one_shot(lambda seed: "l1"),
    "random": one_shot(lambda seed: tfcompress.criteria.Random(seed=seed)),
    "scratch": scratch,
}


def measure(model: keras.Model, images: datasets.Images) -> dict:
    totals = analysis.summary(model).totals
    return {
        "accuracy": studies.accuracy(model, images),
        "params": totals["params"],
        "macs": totals["macs"],
    }


def widths(model: keras.Model) -> dict[str, int]:
    return {layer.name: layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}


# ------------------------------------------------------------------ results


def settings(images: datasets.Images) -> dict:
    return studies.settings(
        images,
        network=f"ResNet-{FLAGS.depth}, width {FLAGS.width}",
        epochs=FLAGS.epochs,
        tune_epochs=FLAGS.tune_epochs,
        macs=FLAGS.macs,
        tune_rate=TUNE_RATE,
    )


def report(runs: list[dict], out: Path) -> None:
    by_method = {method: [run for run in runs if run["method"] == method] for method in METHODS}
    rows = [
        [
            method,
            str(len(mine)),
            studies.spread(mine, "accuracy"),
            studies.spread(mine, "accuracy_after_cut"),
            *(f"{np.mean([run[key] for run in mine]):,.0f}" for key in ("params", "macs")),
        ]
        for method, mine in by_method.items()
        if mine
    ]
    columns = ("method", "seeds", "accuracy", "after cut", "params", "MACs")
    studies.write_table(
        "Accuracy in %, mean ± standard deviation over seeds", columns, rows, out / "table.txt"
    )
    plot(by_method, out / "accuracy.png")


def plot(by_method: dict[str, list[dict]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for place, runs in enumerate(by_method.values()):
        if runs:
            studies.scatter(axes, place, [100 * run["accuracy"] for run in runs])
    axes.set_xticks(range(len(METHODS)), METHODS)
    axes.set_ylabel("test accuracy, %")
    axes.set_title(
        f"ResNet-20 at {FLAGS.macs:.0%} of its MACs; bars: standard deviation over seeds", fontsize=9
    )
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    studies.run(main)
