"""ResNet-20 on CIFAR-10 teaches small networks: what each way of distilling adds to training on labels.

    python examples/distill_cifar10.py --data-dir folder/with/cifar10-tfrecords

Students are a ResNet-8, a network of MobileNet's units and one of ShuffleNet's. Every way of teaching gets
the same new student, the same epochs and the same images; `tests/benchmarks/bench_distillation.py` tells what
a step costs. The same for recovery: the teacher, with half of its multiplications pruned away, or with
depthwise-separable convolutions for its own, is trained on labels, and on what it said when it was whole.
Losses are those of the papers; the weights of attention, neurons and gradients are the best of three for the
ResNet-8 of the first seed, on a tenth of the training images that no student is trained on; where training
diverges with it, a tenth of the weight is taken. Stop at any time; the same command goes on. Without the data
the script falls back to scikit-learn's digits.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import keras
import networks
import numpy as np
import studies
from absl import flags

import tfcompress
from tfcompress import analysis
from tfcompress.distillation import (
    AttentionTransfer,
    Distiller,
    GradientAttention,
    SoftTargets,
    select_neurons,
)

flags.DEFINE_string("data_dir", None, "Folder of cifar10-train.tfrecord and cifar10-validation.tfrecord.")
flags.DEFINE_string("out_dir", "distill_cifar10", "Where results and trained networks go.")
flags.DEFINE_integer("width", 8, "Filters of the teacher's first stage; the paper's ResNet-20 has 16.")
flags.DEFINE_integer("depth", 20, "Layers of the network: 6 n + 2.")
flags.DEFINE_integer("epochs", 8, "Epochs of training for teachers.")
flags.DEFINE_integer("student_epochs", 4, "Epochs of training for students, for every way alike.")
flags.DEFINE_integer("tune_epochs", 2, "Epochs of training after pruning.")
flags.DEFINE_integer("images", 20_000, "Training images for students: the first ones.")
flags.DEFINE_list("students", None, "Which students are taught; by default all.")
flags.DEFINE_list("ways", None, "Which ways of teaching; by default all.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and batches; each has a teacher of its own.")
FLAGS = flags.FLAGS

TUNE_RATE = 0.02  # fixed beforehand, as in prune_cifar10.py
TEMPERATURE = 4.0
WEIGHING = "weights"  # what runs are called that choose them
STUDENTS: dict[str, Callable[..., keras.Model]] = {
    "resnet8": functools.partial(networks.resnet, width=8, depth=8),
    "mobilenet": functools.partial(networks.small_mobilenet, width=8),
    "shufflenet": functools.partial(networks.small_shufflenet, width=16),
}


def pruned(teacher: keras.Model, images: datasets.Images) -> keras.Model:
    return tfcompress.prune(teacher, "l1", budget={"macs": 0.5})


def replaced(teacher: keras.Model, images: datasets.Images) -> keras.Model:
    small = tfcompress.replace(teacher, "separable", rank=2, exclude="stem")
    return tfcompress.reconstruct(small, teacher, images.train[0][:500])


# From the teacher; then with fewer epochs and a smaller rate.
SMALLER = {"pruned": pruned, "replaced": replaced}


# ------------------------------------------------------------------ ways of teaching


def hinton(teacher: keras.Model, images: datasets.Images, weight: float) -> dict[str, Any]:
    return {"distillation_losses": SoftTargets(TEMPERATURE), "student_loss_weight": 0.1}


def attention(teacher: keras.Model, images: datasets.Images, weight: float) -> dict[str, Any]:
    """As in the code of its authors, where the weight is 1."""
    return {"distillation_losses": AttentionTransfer(form="code")} | beside_labels(weight)


def both(teacher: keras.Model, images: datasets.Images, weight: float) -> dict[str, Any]:
    losses = [SoftTargets(TEMPERATURE), AttentionTransfer(form="code")]
    return {
        "distillation_losses": losses,
        "distillation_loss_weights": [0.9, weight],
        "student_loss_weight": 0.1,
        "distillation_weight": 1.0,
    }


def neurons(teacher: keras.Model, images: datasets.Images, weight: float) -> dict[str, Any]:
    """Half of the neurons before the head, selected by classes; the mean of what is said of each."""
    sample = images.train[0][:2000], images.train[1][:2000]
    width = teacher.get_layer("pool").output.shape[-1]
    found = select_neurons(teacher, "pool", sample, count=width // 2)
    return {"distillation_losses": found.loss("pool")} | beside_labels(weight / len(found.neurons))


def gradients(teacher: keras.Model, images: datasets.Images, weight: float) -> dict[str, Any]:
    return {"distillation_losses": GradientAttention()} | beside_labels(weight)


def beside_labels(weight: float) -> dict[str, float]:
    return {"student_loss_weight": 1.0, "distillation_weight": weight}


WAYS = {
    "none": None,
    "hinton": hinton,
    "attention": attention,
    "attention + hinton": both,
    "neurons": neurons,
    "gradients": gradients,
}
WEIGHTS = {"attention": (0.01, 0.1, 1.0), "neurons": (0.1, 1.0, 10.0), "gradients": (1.0, 10.0, 100.0)}
WEIGHTS["attention + hinton"] = WEIGHTS["attention"]
RECOVERY = ("none", "hinton")


# ------------------------------------------------------------------ the runs


class Study(NamedTuple):
    """Images, of which a tenth is held out; and where networks and results go."""

    images: datasets.Images
    out: Path
    results: studies.Results

    @property
    def for_students(self) -> datasets.Images:
        count = min(FLAGS.images, self.held_from)
        return self.images._replace(train=tuple(part[:count] for part in self.images.train))

    @property
    def for_weights(self) -> datasets.Images:
        """The same, tested by training images."""
        return self.for_students._replace(test=tuple(part[self.held_from :] for part in self.images.train))

    @property
    def held_from(self) -> int:
        return len(self.images.train[0]) * 9 // 10

    def teacher(self, seed: int) -> keras.Model:
        return studies.resnet(self.images, self.out, seed, FLAGS.width, FLAGS.epochs, FLAGS.depth)


def main(argv: list[str]) -> None:
    del argv
    images = datasets.load(FLAGS.data_dir)
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    results = studies.Results(out / "results.json", settings(images), ("student", "method", "seed"))
    study = Study(images, out, results)
    seeds = [int(seed) for seed in FLAGS.seeds]
    for seed in seeds:
        of_teacher = functools.partial(measure_teacher, study, seed)
        results.once(of_teacher, student="teacher", method="teacher", seed=seed)
        for student in [*STUDENTS, *SMALLER] if FLAGS.students is None else FLAGS.students:
            for way in ways(student):
                weight = weight_of(way, study, seeds[0])
                run = functools.partial(taught, study, study.for_students, seed, student, way, weight)
                results.once(run, student=student, method=way, seed=seed)
    report([run for run in results.runs if run["student"] != WEIGHING], out)


def ways(student: str) -> list[str]:
    chosen = WAYS if FLAGS.ways is None else FLAGS.ways
    return [way for way in chosen if student in STUDENTS or way in RECOVERY]


def weight_of(way: str, study: Study, seed: int) -> float:
    """The best of some, by images that were held out."""
    found = {}
    for weight in WEIGHTS.get(way, ()):
        run = functools.partial(taught, study, study.for_weights, seed, next(iter(STUDENTS)), way, weight)
        done = study.results.once(run, student=WEIGHING, method=f"{way}, {weight}", seed=seed)
        found[weight] = done["accuracy"]
    return max(found, key=lambda weight: found[weight]) if found else 1.0


def measure_teacher(study: Study, seed: int) -> dict:
    return measure(study.teacher(seed), study.images)


def taught(study: Study, images: datasets.Images, seed: int, student: str, way: str, weight: float) -> dict:
    teacher = study.teacher(seed)
    keras.utils.set_random_seed(seed)  # the teacher may just have been trained
    if student in SMALLER:
        model = SMALLER[student](teacher, images)
        epochs, rate = FLAGS.tune_epochs, TUNE_RATE
    else:
        model = STUDENTS[student](images.train[0].shape[1:], images.classes)
        epochs, rate = FLAGS.student_epochs, studies.RATE
    settings_of = WAYS[way]
    before = {"accuracy_before": studies.accuracy(model, images)} if student in SMALLER else {}
    trained = Distiller(teacher, model, **settings_of(teacher, images, weight)) if settings_of else model
    history = studies.train(trained, images, epochs, rate, [keras.callbacks.TerminateOnNaN()]).history
    if way in WEIGHTS and not np.isfinite(history["loss"]).all():
        return taught(study, images, seed, student, way, weight / 10)
    weighed = {"weight": weight} if way in WEIGHTS else {}
    return measure(model, images) | before | weighed


def measure(model: keras.Model, images: datasets.Images) -> dict:
    totals = analysis.summary(model).totals
    return {"accuracy": studies.accuracy(model, images), "params": totals["params"], "macs": totals["macs"]}


def settings(images: datasets.Images) -> dict:
    return studies.settings(
        images,
        teacher=f"ResNet-{FLAGS.depth}, width {FLAGS.width}",
        epochs=FLAGS.epochs,
        student_images=FLAGS.images,
        student_epochs=FLAGS.student_epochs,
        tune_epochs=FLAGS.tune_epochs,
        rate=studies.RATE,
        tune_rate=TUNE_RATE,
        temperature=TEMPERATURE,
        held_out="the last tenth of the training images, for choosing weights",
    )


# ------------------------------------------------------------------ the report


def report(runs: list[dict], out: Path) -> None:
    grouped = studies.grouped(runs, "student", "method")
    rows = [
        [
            student,
            method,
            str(len(mine)),
            studies.spread(mine, "accuracy"),
            gain(mine, grouped.get((student, "none"), [])),
            f"{mine[0]['params']:,}",
            f"{mine[0]['macs']:,}",
        ]
        for (student, method), mine in grouped.items()
    ]
    columns = ("student", "teaching", "seeds", "accuracy", "gain", "params", "MACs")
    title = "Accuracy in %, and gain over training on labels, mean ± standard deviation over seeds"
    studies.write_table(title, columns, rows, out / "table.txt")
    plot(grouped, out / "accuracy.png")


def gain(runs: list[dict], alone: list[dict]) -> str:
    """Seed by seed, against the same student without a teacher."""
    before = {run["seed"]: run["accuracy"] for run in alone}
    apart = [
        {"gain": run["accuracy"] - before[run["seed"]]}
        for run in runs
        if run["method"] != "none" and run["seed"] in before
    ]
    return studies.spread(apart, "gain")


def plot(grouped: dict[tuple, list[dict]], path: Path) -> None:
    from matplotlib.figure import Figure

    students = list(dict.fromkeys(student for student, _ in grouped if student != "teacher"))
    figure = Figure(figsize=(3 * len(students) + 1, 3.8), layout="constrained")
    for place, student in enumerate(students, 1):
        axes = figure.add_subplot(1, len(students), place)
        mine = {method: runs for (owner, method), runs in grouped.items() if owner == student}
        for number, runs in enumerate(mine.values()):
            studies.scatter(axes, number, [100 * run["accuracy"] for run in runs])
        axes.set_xticks(range(len(mine)), list(mine), rotation=40, ha="right")
        axes.set(title=student, ylabel="test accuracy, %" if place == 1 else "")
        axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    studies.run(main)
