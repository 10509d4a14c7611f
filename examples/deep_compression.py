"""Deep Compression: prune, share, encode; what each stage leaves in bytes and in accuracy.

    python examples/deep_compression.py --data-dir folder/with/cifar10-tfrecords

Han, Mao and Dally 2016, tables 1 to 3, for LeNet-300-100 and LeNet-5 on scikit-learn's digits at 28x28, and
for a network in the style of VGG on CIFAR-10. The bits of each layer come from a sweep over some training
images, for a file that is `--ratio` times smaller than the plain weights. All start from a network that was
trained for a while; as a control it goes on for as long as the compressed one takes. Each finished stage is
kept: stop at any time, and the same command goes on.
"""

import functools
from collections.abc import Callable, Sequence
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
flags.DEFINE_string("out_dir", "deep_compression", "Where results, networks and files go.")
flags.DEFINE_list("networks", ["lenet300_100", "lenet5", "vgg"], "Which networks to compress.")
flags.DEFINE_integer("width", 32, "Filters of the first stage of the network in the style of VGG.")
flags.DEFINE_float("shorten", 1.0, "A share of the epochs, for a try.")
flags.DEFINE_float("ratio", None, "How many times smaller the file is to be, instead of each network's own.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and batches.")
FLAGS = flags.FLAGS


@dataclass(frozen=True)
class Plan:
    """How a network is trained and compressed.

    Attributes:
        epochs: of the first training, of pruning, and of shared values.
        rates: of these.
        sparsity: of all kernels together, by magnitude.
        ratio: how many times smaller the file is to be.
    """

    make: Callable
    images: Callable
    epochs: tuple[int, int, int]
    rates: tuple[float, float, float]
    sparsity: float
    ratio: float

    def length(self, stage: int) -> int:
        return max(1, round(FLAGS.shorten * self.epochs[stage]))


PLANS = {
    "lenet300_100": Plan(
        networks.lenet300_100, datasets.large_digits, (30, 60, 10), (0.05, 0.02, 1e-4), 0.95, 40
    ),
    "lenet5": Plan(networks.lenet5, datasets.large_digits, (30, 60, 10), (0.02, 0.02, 1e-4), 0.96, 45),
    "vgg": Plan(
        lambda *about: networks.vgg(*about, FLAGS.width, hidden=2 * (32 * FLAGS.width,)),
        lambda: datasets.load(FLAGS.data_dir),
        (6, 8, 2),
        (0.02, 0.02, 1e-4),
        0.915,  # 0.925 for VGG-16 in the paper
        36,
    ),
}
STAGES = ("begun", "dense", "pruned", "shared")
SMALLER = {"pruned": "pruned", "shared": "shared", "encoded": "file_bytes"}  # columns of the table


def main(argv: list[str]) -> None:
    del argv
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    results = studies.Results(out / "results.json", settings(), ("network", "method", "seed"))
    for name in FLAGS.networks:
        images = PLANS[name].images()
        for seed in map(int, FLAGS.seeds):
            study = Study(name, PLANS[name], images, seed, out)
            for stage in STAGES:
                run = functools.partial(RUNS[stage], study)
                results.once(run, network=name, data=images.name, method=stage, seed=seed)
    report(results.runs, out)


@dataclass(frozen=True)
class Study:
    """What a stage starts from."""

    name: str
    plan: Plan
    images: datasets.Images
    seed: int
    out: Path

    def file(self, stage: str) -> Path:
        return self.out / f"{self.name}-{stage}-seed{self.seed}.keras"

    def load(self, stage: str) -> keras.Model:
        return keras.saving.load_model(self.file(stage), compile=False)

    def train(self, model: keras.Model, *stages: int, extra: Sequence[keras.callbacks.Callback] = ()) -> None:
        """For as long as these take together, at the rate of the first."""
        epochs = sum(map(self.plan.length, stages))
        studies.train(model, self.images, epochs, self.plan.rates[stages[0]], extra)

    def found(self, model: keras.Model, stage: str) -> dict:
        """Saves a stage, and tells what it takes."""
        model.save(self.file(stage))
        written = tfcompress.save_compressed(model, self.file(stage).with_suffix(".tfc"))
        kernels = [one for one in written.arrays if one.values > 1 and one.name.endswith("kernel")]
        return {
            "accuracy": studies.accuracy(model, self.images),
            "params": sum(one.entries for one in written.arrays),
            "nonzero_params": sum(one.nonzero for one in written.arrays),
            "dense_bytes": written.dense_bytes,
            **{stage: sum(getattr(one, stage) for one in written.arrays) for stage in ("pruned", "shared")},
            "file_bytes": written.size_bytes,
            "header_bytes": written.header_bytes,
            "values": {one.name: one.values for one in kernels},
        }


def begun(study: Study) -> dict:
    """What the others start from."""
    return study.found(start(study), "begun")


def start(study: Study) -> keras.Model:
    if not study.file("begun").exists():
        model = study.plan.make(study.images.train[0].shape[1:], study.images.classes)
        study.train(model, 0)
        model.save(study.file("begun"))
    return study.load("begun")


def dense(study: Study) -> dict:
    """Trained for as many epochs as the compressed one."""
    model = start(study)
    study.train(model, 1, 2)
    return study.found(model, "dense")


def pruned(study: Study) -> dict:
    """Masks are final after two thirds of the steps."""
    last = study.plan.length(1) * studies.steps_per_epoch(study.images) * 2 // 3
    schedule = Polynomial(0.5, study.plan.sparsity, end_step=last, frequency=max(1, last // 50))
    rule = MagnitudePruning(schedule, scope="global", floor=0.001)
    model = tfcompress.wrap(start(study), rule)
    study.train(model, 1, extra=[callbacks.UpdateMasks()])
    return study.found(tfcompress.strip(model), "pruned")


def shared(study: Study) -> dict:
    model = study.load("pruned")
    model.compile(loss="sparse_categorical_crossentropy")
    x, y = (part[-len(part) // 10 :] for part in study.images.train)
    curves = analysis.bit_sensitivity(model, lambda m: -m.evaluate(x, y, batch_size=250, verbose=0))
    bits = tfcompress.bits_for(model, curves, 1 / (FLAGS.ratio or study.plan.ratio))
    model = tfcompress.share(model, bits)
    before = studies.accuracy(model, study.images)
    train_values(study, model)
    return {
        **study.found(tfcompress.strip(model), "shared"),
        "bits": bits,
        "accuracy_before_training": before,
    }


def train_values(study: Study, model: keras.Model) -> None:
    """Of weights that share them, by Adam, whose steps do not grow with the number of weights."""
    steps = study.plan.length(2) * studies.steps_per_epoch(study.images)
    rate = keras.optimizers.schedules.CosineDecay(study.plan.rates[2], steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", steps_per_execution=10)
    studies.fit(model, studies.augmented(study.images), study.plan.length(2))


RUNS = {"begun": begun, "dense": dense, "pruned": pruned, "shared": shared}


# ------------------------------------------------------------------ results


def settings() -> dict:
    plans = {
        name: {
            "epochs": list(plan.epochs),
            "rates": list(plan.rates),
            "sparsity": plan.sparsity,
            "ratio": FLAGS.ratio or plan.ratio,
        }
        for name, plan in PLANS.items()
    }
    return {"plans": plans, "width": FLAGS.width, "shorten": FLAGS.shorten, **studies.numbers()}


def report(runs: list[dict], out: Path) -> None:
    names = dict.fromkeys(run["network"] for run in runs)
    rows = [row(name, stage, of(runs, name, stage)) for name in names for stage in STAGES]
    columns = ("network", "seeds", "accuracy, %", "weights left", "bits", *SMALLER, "bytes")
    studies.write_table("Times smaller after each stage", columns, rows, out / "table.txt")
    plot(runs, out / "accuracy.png")
    for file in sorted(out.glob("*-shared-seed0.tfc")):
        layers = tfcompress.inspect_compressed(file)
        file.with_name(f"{file.stem}.txt").write_text(str(layers))


def of(runs: list[dict], network: str, stage: str) -> list[dict]:
    return [run for run in runs if (run["network"], run["method"]) == (network, stage)]


def row(name: str, stage: str, runs: list[dict]) -> list[str]:
    smaller = (np.mean([run["dense_bytes"] / run[key] for run in runs]) for key in SMALLER.values())
    return [
        f"{name}, {stage}",
        str(len(runs)),
        studies.spread(runs, "accuracy"),
        f"{np.mean([run['nonzero_params'] / run['params'] for run in runs]):.1%}",
        f"{np.mean([8 * run['file_bytes'] / run['nonzero_params'] for run in runs]):.1f}",
        *(f"{times:.1f}" for times in smaller),
        f"{np.mean([run['file_bytes'] for run in runs]):,.0f}",
    ]


def plot(runs: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run["network"] for run in runs))
    figure = Figure(figsize=(3 * len(names) + 1, 3.5), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), place)
        for number, stage in enumerate(STAGES):
            mine = of(runs, name, stage)
            axes.plot(
                [run["dense_bytes"] / run["file_bytes"] for run in mine],
                [100 * run["accuracy"] for run in mine],
                "o",
                color=f"C{number}",
                label=stage,
            )
        axes.set(title=name, xlabel="times smaller", ylabel="test accuracy, %", xscale="log")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    studies.run(main)
