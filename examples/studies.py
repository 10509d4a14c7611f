"""What the studies on CIFAR-10 share: training, measuring, a file of finished runs, tables and plots."""

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import keras
import networks
import numpy as np
import tensorflow as tf
from absl import app, flags
from rich.console import Console
from rich.table import Table

import tfcompress

BATCH, SMALL_BATCH = 128, 32
RATE = 0.1  # of a first training
SHIFTS = {"CIFAR-10": 4, "digits at 28x28": 2}  # pixels
_FLAG = re.compile(r"^--[\w-]+")
_BFLOAT16 = "auto_mixed_precision_onednn_bfloat16"

flags.DEFINE_bool("bfloat16", False, "Train in bfloat16 what can be: faster where a processor has it.")


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a script; its flags may be written as `--data-dir` and as `--data_dir`."""

    def parse(argv: list[str]) -> list[str]:
        return flags.FLAGS([argv[0], *(_FLAG.sub(_underscored, part) for part in argv[1:])])

    app.run(main, flags_parser=parse)


def _underscored(flag: re.Match) -> str:
    return "--" + flag[0][2:].replace("-", "_")


# ------------------------------------------------------------------ training


def train(
    model: keras.Model,
    images: datasets.Images,
    epochs: int,
    rate: float,
    callbacks: Iterable[keras.callbacks.Callback] = (),
) -> keras.callbacks.History:
    """SGD with momentum; the learning rate falls from `rate` to 0 along a cosine."""
    compile_for(model, keras.optimizers.schedules.CosineDecay(rate, epochs * steps_per_epoch(images)))
    return fit(model, augmented(images), epochs, callbacks)


def fit(
    model: keras.Model,
    batches: tf.data.Dataset,
    epochs: int = 1,
    callbacks: Iterable[keras.callbacks.Callback] = (),
) -> keras.callbacks.History:
    """Trains a compiled model; what is computed later is in float32 again."""
    tf.config.optimizer.set_experimental_options({_BFLOAT16: flags.FLAGS.bfloat16})
    try:
        return model.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
    finally:
        tf.config.optimizer.set_experimental_options({_BFLOAT16: False})


def train_small(model: keras.Model, images: datasets.Images, epochs: int, rate: float) -> None:
    """For small sets: Adam and small batches; the learning rate falls from `rate` to 0 along a cosine."""
    steps = epochs * -(-len(images.train[0]) // SMALL_BATCH)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*images.train, batch_size=SMALL_BATCH, epochs=epochs, verbose=0)


def compile_for(model: keras.Model, rate: Any) -> None:
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], steps_per_execution=10)


def augmented(images: datasets.Images, batch: int = BATCH) -> tf.data.Dataset:
    """Batches of randomly flipped and shifted images; digits are not flipped, and small ones not shifted."""
    margin = SHIFTS.get(images.name, 0)

    def augment(x, y):
        if images.name == "CIFAR-10":
            x = tf.image.random_flip_left_right(x)
        x = tf.pad(x, [[margin, margin], [margin, margin], [0, 0]])
        return tf.image.random_crop(x, images.train[0].shape[1:]), y

    data = tf.data.Dataset.from_tensor_slices(images.train).shuffle(50_000)
    if margin:
        data = data.map(augment, num_parallel_calls=2)
    return data.batch(batch, drop_remainder=True).prefetch(4)


def steps_per_epoch(images: datasets.Images, batch: int = BATCH) -> int:
    return len(images.train[0]) // batch


def resnet(
    images: datasets.Images, out: Path, seed: int, width: int, epochs: int, depth: int = 20
) -> keras.Model:
    """The trained network of a seed; it is trained once and kept in the folder."""
    path = out / f"resnet{depth}-width{width}-epochs{epochs}-seed{seed}.keras"
    if not path.exists():
        keras.utils.set_random_seed(seed)
        model = networks.resnet(images.train[0].shape[1:], images.classes, width, depth)
        train(model, images, epochs, RATE)
        model.save(path)
    return keras.saving.load_model(path)


def accuracy(model: keras.Model, images: datasets.Images) -> float:
    predictions = model.predict(images.test[0], batch_size=250, verbose=0).argmax(axis=1)
    return float((predictions == images.test[1]).mean())


# ------------------------------------------------------------------ results


class Results:
    """Finished runs, in a JSON file that is rewritten after each.

    Args:
        path: the file. If it is there, its runs are taken up, and its settings must be these.
        settings: of the whole study.
        keys: the entries that tell one run from another, such as method and seed.
    """

    def __init__(self, path: Path, settings: dict, keys: Sequence[str]):
        self.path, self.keys = path, keys
        self.content = {"settings": settings, "versions": versions(), "runs": []}
        if path.exists():
            self.content = json.loads(path.read_text())
            if self.content["settings"] != settings:
                raise SystemExit(f"{path} holds results of other settings; give another --out_dir.")

    @property
    def runs(self) -> list[dict]:
        return self.content["runs"]

    def once(self, run: Callable[[], dict], **which: Any) -> dict:
        """Runs what is not there yet, with all seeds set to `which["seed"]`, and writes it down."""
        for done in self.runs:
            if all(done[key] == which[key] for key in self.keys):
                return done
        keras.utils.set_random_seed(which["seed"])
        start = time.perf_counter()
        result = run()
        self.runs.append(
            {
                **which,
                **result,
                "seconds": round(time.perf_counter() - start),
                "finished": time.strftime("%Y-%m-%d %H:%M"),
            }
        )
        print(self.runs[-1], flush=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.content, indent=1))
        temporary.replace(self.path)
        return self.runs[-1]


def settings(images: datasets.Images, **own: Any) -> dict:
    """Of a study: its data and what all studies share, and its own."""
    sizes = {"train_images": len(images.train[0]), "test_images": len(images.test[0])}
    return {"data": images.name, **sizes, "batch": BATCH, **numbers(), **own}


def numbers() -> dict[str, bool]:
    """What trains in float32 says nothing about it."""
    return {"bfloat16": True} if flags.FLAGS.bfloat16 else {}


def versions() -> dict[str, str]:
    return {"keras": keras.__version__, "tensorflow": tf.__version__, "tfcompress": tfcompress.__version__}


def grouped(runs: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    """Runs that agree in these entries, in the order of the first of each."""
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    return groups


def spread(runs: list[dict], key: str, factor: float = 100) -> str:
    """Mean and standard deviation over runs."""
    values = [factor * run[key] for run in runs if key in run]
    return f"{np.mean(values):.2f} ± {np.std(values):.2f}" if values else ""


def write_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], path: Path) -> None:
    """Prints a table and writes it down; the first column is flush left."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right" if column != columns[0] else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(width=110, record=True)
    console.print(table)
    path.write_text(console.export_text())


def scatter(axes: Any, place: float, values: Sequence[float]) -> None:
    """Single runs as dots; their mean, with a bar of the standard deviation."""
    axes.errorbar(place, np.mean(values), np.std(values), fmt="o", capsize=4)
    axes.plot([place] * len(values), values, "k.", markersize=3)
