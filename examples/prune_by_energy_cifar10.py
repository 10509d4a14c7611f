"""ResNet-20 on CIFAR-10: single weights pruned by energy and by what outputs lose, against magnitude.

    python examples/prune_by_energy_cifar10.py --data-dir folder/with/cifar10-tfrecords

Each method gets the same trained network and takes the same share of weights out of every layer in one round,
from the layer that takes the most energy down (Yang et al. 2017): `energy` by the error of outputs with
weights by least squares, `magnitude` the smallest weights, and those that stay are left as they are. Accuracy
is told before any training, and after the same number of epochs with the masks held. Stop at any time; the
same command goes on. Without the data the script falls back to scikit-learn's digits.
"""

import functools
from pathlib import Path

import datasets
import keras
import numpy as np
import studies
from absl import flags

import tfcompress
from tfcompress import analysis

flags.DEFINE_string("data_dir", None, "Folder of cifar10-train.tfrecord and cifar10-validation.tfrecord.")
flags.DEFINE_string("out_dir", "prune_by_energy_cifar10", "Where results and trained networks go.")
flags.DEFINE_integer("width", 8, "Filters of the first stage; the paper's ResNet-20 has 16.")
flags.DEFINE_integer("depth", 20, "Layers of the network: 6 n + 2.")
flags.DEFINE_integer("epochs", 8, "Epochs of training before pruning.")
flags.DEFINE_integer("tune_epochs", 2, "Epochs of training that follow, for every method alike.")
flags.DEFINE_integer("fitted", 500, "Training images by which weights are fitted.")
flags.DEFINE_list("sparsities", ["0.6", "0.8"], "Shares of the weights to remove.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights, batches and positions.")
FLAGS = flags.FLAGS

TUNE_RATE = 0.02  # fixed beforehand, as in prune_cifar10.py
METHODS = {
    "energy": {},
    # No weight is chosen by outputs, and a ridge this large leaves them where they are.
    "magnitude": {"share_restored": 0.0, "ridge": 1e12},
}


def main(argv: list[str]) -> None:
    del argv
    images = datasets.load(FLAGS.data_dir)
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    results = studies.Results(out / "results.json", settings(images), ("method", "sparsity", "seed"))
    for seed in map(int, FLAGS.seeds):
        results.once(functools.partial(dense, images, seed, out), method="dense", sparsity=0.0, seed=seed)
        for sparsity in map(float, FLAGS.sparsities):
            for method in METHODS:
                run = functools.partial(pruned, images, seed, out, method, sparsity)
                results.once(run, method=method, sparsity=sparsity, seed=seed)
    report(results.runs, out)


def network(images: datasets.Images, seed: int, out: Path) -> keras.Model:
    return studies.resnet(images, out, seed, FLAGS.width, FLAGS.epochs, FLAGS.depth)


def dense(images: datasets.Images, seed: int, out: Path) -> dict:
    model = network(images, seed, out)
    return {"accuracy": studies.accuracy(model, images), "energy": analysis.energy(model).total}


def pruned(images: datasets.Images, seed: int, out: Path, method: str, sparsity: float) -> dict:
    model = network(images, seed, out)
    masked = tfcompress.prune_by_energy(
        model,
        images.train[0][: FLAGS.fitted],
        sparsity=sparsity,
        per_round=1.0,
        retrain=None,
        seed=seed,
        verbose=False,
        **METHODS[method],
    )
    cut = studies.accuracy(masked, images)
    studies.train(masked, images, FLAGS.tune_epochs, TUNE_RATE)
    energy = analysis.energy(tfcompress.strip(masked)).total
    return {"accuracy": studies.accuracy(masked, images), "accuracy_after_cut": cut, "energy": energy}


def settings(images: datasets.Images) -> dict:
    return studies.settings(
        images,
        network=f"ResNet-{FLAGS.depth}, width {FLAGS.width}",
        epochs=FLAGS.epochs,
        tune_epochs=FLAGS.tune_epochs,
        fitted=FLAGS.fitted,
        rate=studies.RATE,
        tune_rate=TUNE_RATE,
    )


def report(runs: list[dict], out: Path) -> None:
    grouped = dict(sorted(studies.grouped(runs, "sparsity", "method").items()))
    rows = [
        [
            method,
            f"{sparsity:.0%}",
            str(len(mine)),
            studies.spread(mine, "accuracy_after_cut"),
            studies.spread(mine, "accuracy"),
            f"{np.mean([run['energy'] for run in mine]):.3g}",
        ]
        for (sparsity, method), mine in grouped.items()
    ]
    columns = ("method", "zeros", "seeds", "after cut", "accuracy", "energy, MACs")
    studies.write_table(
        "Accuracy in %, mean ± standard deviation over seeds", columns, rows, out / "table.txt"
    )
    plot(grouped, out / "accuracy.png")


def plot(grouped: dict[tuple, list[dict]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    for place, (key, title) in enumerate(
        {"accuracy_after_cut": "before training", "accuracy": "after training"}.items(), 1
    ):
        axes = figure.add_subplot(1, 2, place)
        for number, method in enumerate(METHODS):
            mine = {s: [100 * run[key] for run in runs] for (s, m), runs in grouped.items() if m == method}
            means, spreads = ([f(values) for values in mine.values()] for f in (np.mean, np.std))
            places, style = [100 * s for s in mine], {"fmt": "o-", "capsize": 3, "color": f"C{number}"}
            axes.errorbar(places, means, spreads, label=method, **style)
        axes.set(title=title, xlabel="zeros, %", ylabel="test accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    studies.run(main)
