"""LeNet-5, pruned until its accuracy breaks: dynamic network surgery and magnitude pruning.

    python examples/compress_lenet5.py

The network is that of Guo et al. 2016, table 1, who come to 108 times fewer weights on MNIST. MNIST is not
bundled with any package this project needs, so the data is scikit-learn's digits, enlarged to 28x28 and
shifted at random: 1,437 images to train on instead of 60,000, and easier ones. Each finished run is
written to the JSON at once: stop at any time, and the same command goes on where it stopped.
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
from tfcompress import analysis, callbacks
from tfcompress.layers import DynamicNetworkSurgery, MagnitudePruning, MaskRule
from tfcompress.schedules import Polynomial

flags.DEFINE_string("out_dir", "compress_lenet5", "Where results and trained networks go.")
flags.DEFINE_integer("epochs", 20, "Epochs of training before pruning.")
flags.DEFINE_integer("sparse_epochs", 60, "Epochs that follow, masks being final after two thirds of them.")
flags.DEFINE_list("sparsities", "0.95 0.98 0.99 0.995 0.998 0.999".split(), "Of magnitude pruning.")
flags.DEFINE_list("c_rates", "1 1.5 2 2.5 3 3.5 4".split(), "Of dynamic network surgery.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and batches.")
FLAGS = flags.FLAGS

BATCH = 64
RATE = 0.02
DROP = 0.01  # of accuracy, from which on it counts as broken


def main(argv: list[str]) -> None:
    del argv
    images = datasets.large_digits()
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    results = studies.Results(out / "results.json", settings(images), ("method", "level", "seed"))
    for seed in map(int, FLAGS.seeds):
        file = out / f"lenet5-epochs{FLAGS.epochs}-seed{seed}.keras"
        results.once(functools.partial(dense, images, file), method="dense", level=0.0, seed=seed)
        for method, levels in (("magnitude", FLAGS.sparsities), ("surgery", FLAGS.c_rates)):
            for level in map(float, levels):
                run = functools.partial(sparse, RULES[method](level, last_update(images)), images, file)
                results.once(run, method=method, level=level, seed=seed)
    report(results.runs, out)


RULES = {
    "magnitude": lambda level, end: MagnitudePruning(
        Polynomial(0.5, level, end_step=end, frequency=20), scope="global", floor=0.001
    ),
    "surgery": lambda level, end: DynamicNetworkSurgery(level, gamma=1e-4, stop=end),
}


def dense(images: datasets.Images, file: Path) -> dict:
    """Trained for as many epochs as the others."""
    model = begun(images, file)
    train(model, images, FLAGS.sparse_epochs)
    return measured(model, images)


def sparse(rule: MaskRule, images: datasets.Images, file: Path) -> dict:
    wrapped = tfcompress.wrap(begun(images, file), rule)
    train(wrapped, images, FLAGS.sparse_epochs, callbacks.UpdateMasks())
    return measured(tfcompress.strip(wrapped), images)


def begun(images: datasets.Images, file: Path) -> keras.Model:
    """What all begin with: a network trained for `epochs`, which is saved for the next."""
    if not file.exists():
        model = networks.lenet5((28, 28, 1), 10)
        train(model, images, FLAGS.epochs)
        model.save(file)
    return keras.saving.load_model(file, compile=False)


def train(model: keras.Model, images: datasets.Images, epochs: int, *extra: keras.callbacks.Callback) -> None:
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * studies.steps_per_epoch(images, BATCH))
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, weight_decay=5e-4)
    model.compile(optimizer, "sparse_categorical_crossentropy", steps_per_execution=2)
    studies.fit(model, studies.augmented(images, BATCH), epochs, extra)


def last_update(images: datasets.Images) -> int:
    return FLAGS.sparse_epochs * studies.steps_per_epoch(images, BATCH) * 2 // 3


def measured(model: keras.Model, images: datasets.Images) -> dict:
    totals = analysis.summary(model).totals
    return {
        "accuracy": studies.accuracy(model, images),
        "params": totals["params"],
        "nonzero_params": totals["nonzero_params"],
        "compression": totals["params"] / totals["nonzero_params"],
    }


# ------------------------------------------------------------------ results


def settings(images: datasets.Images) -> dict:
    return {
        "data": images.name,
        "train_images": len(images.train[0]),
        "test_images": len(images.test[0]),
        "epochs": FLAGS.epochs,
        "sparse_epochs": FLAGS.sparse_epochs,
        "batch": BATCH,
        "rate": RATE,
    }


def report(runs: list[dict], out: Path) -> None:
    groups = studies.grouped(runs, "method", "level")
    rows = [
        [
            method,
            f"{level:g}" if level else "",
            str(len(mine)),
            studies.spread(mine, "accuracy"),
            studies.spread(mine, "compression", 1),
        ]
        for (method, level), mine in groups.items()
    ]
    columns = ("method", "sparsity or c_rate", "seeds", "accuracy, %", "times fewer parameters")
    studies.write_table("LeNet-5 on digits, mean ± standard deviation", columns, rows, out / "table.txt")
    best = {method: reached(groups, method) for method in RULES}
    print(f"Within {DROP:.0%} of the dense network's accuracy: {best}")
    plot(groups, out / "accuracy.png")


def reached(groups: dict, method: str) -> float:
    """The most compression whose mean accuracy over seeds is not broken; 1 if there is none."""
    least = mean(groups["dense", 0.0], "accuracy") - DROP
    good = [
        mean(mine, "compression")
        for (m, _), mine in groups.items()
        if m == method and mean(mine, "accuracy") >= least
    ]
    return round(max(good, default=1.0), 1)


def mean(runs: list[dict], key: str) -> float:
    return float(np.mean([run[key] for run in runs]))


def plot(groups: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(100 * mean(groups["dense", 0.0], "accuracy"), color="gray", linestyle="--", label="dense")
    for method in RULES:
        mine = sorted((mean(g, "compression"), g) for (m, _), g in groups.items() if m == method)
        accuracies = [[100 * run["accuracy"] for run in g] for _, g in mine]
        axes.errorbar(
            [x for x, _ in mine],
            np.mean(accuracies, axis=1),
            np.std(accuracies, axis=1),
            fmt="o-",
            capsize=4,
            label=method,
        )
    axes.set(xscale="log", xlabel="times fewer parameters", ylabel="test accuracy, %")
    axes.set_title("LeNet-5 on digits; bars: standard deviation over seeds", fontsize=9)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    studies.run(main)
