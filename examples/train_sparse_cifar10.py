"""Sparse training on CIFAR-10: magnitude pruning, network surgery, hard thresholding and group lasso.

    python examples/train_sparse_cifar10.py --data-dir folder/with/cifar10-tfrecords

A ResNet-20 and a network in the style of VGG are trained; then every method gets the same network, the
same number of further steps, and the same sparsity to reach, of all kernels but the first and the last.
Controls: `dense` trains on without sparsity, `random` keeps entries at random, `scratch` keeps entries at
random from the beginning, with new weights and for all the epochs that the others have seen. Each
finished run is written to the JSON at once: stop at any time, and the same command goes on where it
stopped. Without the data the script falls back to scikit-learn's digits.
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
from tfcompress.constraints import Proximal
from tfcompress.layers import DynamicNetworkSurgery, MagnitudePruning, MaskRule
from tfcompress.regularizers import GroupLasso
from tfcompress.schedules import Polynomial

flags.DEFINE_string("data_dir", None, "Folder of cifar10-train.tfrecord and cifar10-validation.tfrecord.")
flags.DEFINE_string("out_dir", "train_sparse_cifar10", "Where results and trained networks go.")
flags.DEFINE_list("networks", ["vgg", "resnet20"], "Which networks to train.")
flags.DEFINE_list("methods", None, "Which methods to run; all without it.")
flags.DEFINE_integer("epochs", 4, "Epochs of training before any sparsity.")
flags.DEFINE_integer("sparse_epochs", 4, "Epochs that follow, for every method alike.")
flags.DEFINE_float("sparsity", 0.8, "The share of the kernels to make zero.")
flags.DEFINE_bool("choose_rates", False, "Only try rates of training, on a tenth of the training images.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights, batches and random masks.")
FLAGS = flags.FLAGS

WIDTHS = {"resnet20": 8, "vgg": 16}  # filters of the first stage; the papers have 16 and 64
RATES = {"resnet20": (0.1, 0.02), "vgg": (0.02, 0.004)}  # of training, and of the epochs that follow
CANDIDATES = (0.2, 0.1, 0.05, 0.02, 0.01)
ENDS = ["stem", "head"]  # stay dense


def main(argv: list[str]) -> None:
    del argv
    images = datasets.load(FLAGS.data_dir)
    if FLAGS.choose_rates:
        return choose_rates(images)
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    results = studies.Results(out / "results.json", settings(images), ("network", "method", "seed"))
    for seed in map(int, FLAGS.seeds):
        for network in FLAGS.networks:
            for method in FLAGS.methods or RUNS:
                results.once(
                    functools.partial(RUNS[method], Study(images, network, seed, out)),
                    network=network,
                    method=method,
                    seed=seed,
                )
    report(results.runs, out)


def choose_rates(images: datasets.Images) -> None:
    """Prints how well each rate trains the networks, of images that are held out of the training set."""
    held_out = len(images.train[0]) // 10
    images = images._replace(
        train=tuple(part[:-held_out] for part in images.train),
        test=tuple(part[-held_out:] for part in images.train),
    )
    for network in FLAGS.networks:
        for rate in CANDIDATES:
            keras.utils.set_random_seed(0)
            model = Study(images, network, 0, Path()).new()
            studies.train(model, images, FLAGS.epochs, rate)
            print(network, rate, studies.accuracy(model, images), flush=True)


# ------------------------------------------------------------------ the runs


@dataclass(frozen=True)
class Study:
    """What a run starts from."""

    images: datasets.Images
    network: str
    seed: int
    out: Path

    def new(self) -> keras.Model:
        make = getattr(networks, self.network)
        return make(self.images.train[0].shape[1:], self.images.classes, WIDTHS[self.network])

    @property
    def file(self) -> Path:
        return self.out / f"{self.network}-epochs{FLAGS.epochs}-seed{self.seed}.keras"

    def trained(self) -> keras.Model:
        if not self.file.exists():
            model = self.new()
            studies.train(model, self.images, FLAGS.epochs, self.rates[0])
            model.save(self.file)
        return keras.saving.load_model(self.file, compile=False)

    def train(self, model: keras.Model, *extra: keras.callbacks.Callback) -> keras.Model:
        """Of the trained network or one made from it, the epochs that all methods have."""
        studies.train(model, self.images, FLAGS.sparse_epochs, self.rates[1], extra)
        return model

    @property
    def rates(self) -> tuple[float, float]:
        return RATES[self.network]

    @property
    def last_update(self) -> int:
        """Masks are final after two thirds of the steps."""
        return FLAGS.sparse_epochs * studies.steps_per_epoch(self.images) * 2 // 3


def pretrained(study: Study) -> dict:
    return measured(study.trained(), study)


def dense(study: Study) -> dict:
    return measured(study.train(study.trained()), study)


def magnitude(study: Study) -> dict:
    schedule = Polynomial(0.0, FLAGS.sparsity, end_step=study.last_update, frequency=40)
    return masked(study, MagnitudePruning(schedule))


def surgery(study: Study) -> dict:
    return masked(study, DynamicNetworkSurgery(sparsity=FLAGS.sparsity, stop=study.last_update))


def random(study: Study) -> dict:
    return masked(study, RandomMask(FLAGS.sparsity, study.seed))


def masked(study: Study, rule: MaskRule) -> dict:
    wrapped = tfcompress.wrap(study.trained(), rule, exclude=ENDS)
    return measured(tfcompress.strip(study.train(wrapped, callbacks.UpdateMasks())), study)


def scratch(study: Study) -> dict:
    wrapped = tfcompress.wrap(study.new(), RandomMask(FLAGS.sparsity, study.seed), exclude=ENDS)
    epochs = FLAGS.epochs + FLAGS.sparse_epochs
    studies.train(wrapped, study.images, epochs, study.rates[0], [callbacks.UpdateMasks()])
    return measured(tfcompress.strip(wrapped), study)


def hard_thresholding(study: Study) -> dict:
    rounds = {"dense_epochs": 1, "sparse_epochs": 2} if FLAGS.sparse_epochs % 3 == 0 else {}
    thresholding = callbacks.IterativeHardThresholding(FLAGS.sparsity, exclude=ENDS, **rounds)
    return measured(study.train(study.trained(), thresholding), study)


def group_lasso(study: Study) -> dict:
    """Over shapes, the columns of the kernels, which are then left out for good."""
    lasso = Proximal(GroupLasso("shapes", 1e-2))
    model = tfcompress.attach(study.trained(), lasso, exclude=ENDS)
    reach = callbacks.ReachSparsity(FLAGS.sparsity, of="weights")
    study.train(model, callbacks.FollowLearningRate(), reach)
    small = tfcompress.compact(tfcompress.remove_zeroed(model))
    return measured(model, study) | {
        "compact_accuracy": studies.accuracy(small, study.images),
        "compact_macs": analysis.summary(small).totals["macs"],
    }


@dataclass(frozen=True)
class RandomMask(MaskRule):
    """Masks entries at random, once."""

    sparsity: float
    seed: int

    def next_update(self, step):
        return 0 if step == 0 else None

    def update(self, masked, step):
        rng = np.random.default_rng(self.seed)
        return [
            rng.permuted(np.arange(m.size) >= round(self.sparsity * m.size)).reshape(m.weight.shape)
            for m in masked
        ]


RUNS = {
    "pretrained": pretrained,
    "dense": dense,
    "magnitude": magnitude,
    "surgery": surgery,
    "hard_thresholding": hard_thresholding,
    "group_lasso": group_lasso,
    "random": random,
    "scratch": scratch,
}


def measured(model: keras.Model, study: Study) -> dict:
    """Accuracy, sparsity of the kernels concerned, MACs that are left, and bytes of the file to ship."""
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel") and layer.name not in ENDS]
    zeros = sum(int(np.sum(keras.ops.convert_to_numpy(kernel) == 0)) for kernel in kernels)
    totals = analysis.summary(model).totals
    with tempfile.TemporaryDirectory() as folder:
        file = tfcompress.export.tflite(model, Path(folder) / "model.tflite", data=study.images.test[0][:64])
    return {
        "accuracy": studies.accuracy(model, study.images),
        "sparsity": zeros / sum(int(np.prod(kernel.shape)) for kernel in kernels),
        "params": totals["params"],
        "nonzero_params": totals["nonzero_params"],
        "macs": totals["macs"],
        "nonzero_macs": totals["nonzero_macs"],
        "tflite_bytes": file.size_bytes,
        "tflite_gzip_bytes": file.gzip_bytes,
    }


# ------------------------------------------------------------------ results


def settings(images: datasets.Images) -> dict:
    return {
        "data": images.name,
        "train_images": len(images.train[0]),
        "test_images": len(images.test[0]),
        "widths": WIDTHS,
        "epochs": FLAGS.epochs,
        "sparse_epochs": FLAGS.sparse_epochs,
        "sparsity": FLAGS.sparsity,
        "batch": studies.BATCH,
        "rates": {network: list(rates) for network, rates in RATES.items()},
    }


def report(runs: list[dict], out: Path) -> None:
    by_method = {
        (network, method): [run for run in runs if (run["network"], run["method"]) == (network, method)]
        for network in FLAGS.networks
        for method in RUNS
    }
    rows = [
        [
            network,
            method,
            str(len(mine)),
            studies.spread(mine, "accuracy"),
            studies.spread(mine, "sparsity"),
            f"{np.mean([run['nonzero_macs'] for run in mine]):,.0f}",
            f"{np.mean([run['tflite_gzip_bytes'] for run in mine]):,.0f}",
        ]
        for (network, method), mine in by_method.items()
        if mine
    ]
    columns = ("network", "method", "seeds", "accuracy", "sparsity", "nonzero MACs", ".tflite, gzip")
    studies.write_table(
        "Accuracy and sparsity in %, mean ± standard deviation over seeds", columns, rows, out / "table.txt"
    )
    plot(by_method, out / "accuracy.png")


def plot(by_method: dict[tuple[str, str], list[dict]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(FLAGS.networks), 4), layout="constrained")
    for column, network in enumerate(FLAGS.networks, 1):
        axes = figure.add_subplot(1, len(FLAGS.networks), column)
        for place, method in enumerate(RUNS):
            if by_method[network, method]:
                studies.scatter(axes, place, [100 * run["accuracy"] for run in by_method[network, method]])
        axes.set_xticks(range(len(RUNS)), RUNS, rotation=45, ha="right")
        axes.set_ylabel("test accuracy, %")
        axes.set_title(f"{network}, {FLAGS.sparsity:.0%} sparse; bars: standard deviation", fontsize=9)
        axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    studies.run(main)
