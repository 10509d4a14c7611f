"""Prune a small network on bundled data, export it, and see what it has become.

    make quickstart

Trains a CNN on scikit-learn's handwritten digits, takes filters out of it layer by layer, once by
the entropy of their activations and once by how often they are active (APoZ), fine-tunes, and writes
a .tflite file and a SavedModel of each network. Both are run and compared with Keras before they
are kept.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

import datasets
import keras
import networks
import studies
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

import tfcompress
from tfcompress import analysis, export

flags.DEFINE_string("out_dir", "quickstart-output", "Where the exported models go.")
flags.DEFINE_float("sparsity", 0.5, "The share of each layer's filters to remove.")
FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)  # absl would show what TensorFlow logs while it exports
    keras.utils.set_random_seed(0)
    images = datasets.digits()
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)

    print(f"Training on {len(images.train[0])} digits, testing on {len(images.test[0])} others ...")
    model = networks.small_cnn((8, 8, 1), images.classes)
    studies.train_small(model, images, epochs=30, rate=2e-3)

    models = {"dense": model}
    for criterion in ("entropy", "apoz"):
        print(f"Pruning layer by layer by {criterion} ...")
        small = tfcompress.prune_layerwise(
            model,
            criterion,
            sparsity=FLAGS.sparsity,
            data=images.train[0],
            retrain=lambda m: studies.train_small(m, images, epochs=2, rate=1e-3),
        )
        studies.train_small(small, images, epochs=10, rate=1e-3)
        models[criterion] = small

    print("Exporting, and running what was exported ...")
    rows = [measure(name, each, images, out) for name, each in models.items()]
    Console().print(table(rows))
    pair = [out / f"{name}.tflite" for name in ("apoz", "dense")]
    print(f"Pruned against dense, in turn in one process: {analysis.latency_ratio(*pair)}")
    print(f"The files are in {out.resolve()}.")


def measure(name: str, model: keras.Model, images: datasets.Images, out: Path) -> dict[str, str]:
    """Exports one model; the accuracy is that of the .tflite file in the LiteRT interpreter."""
    lite = export.tflite(model, out / f"{name}.tflite", data=images.test[0])
    saved = export.saved_model(model, out / name, data=images.test[0])
    predictions = export.run_tflite(lite.path, images.test[0]).argmax(axis=1)
    totals = analysis.summary(model).totals
    return {
        "model": name,
        "accuracy": f"{100 * (predictions == images.test[1]).mean():.1f} %",
        "parameters": f"{totals['params']:,}",
        "MACs": f"{totals['macs']:,}",
        ".tflite, bytes": f"{lite.size_bytes:,}",
        ".tflite, gzip": f"{lite.gzip_bytes:,}",
        "SavedModel, bytes": f"{saved.size_bytes:,}",
        "SavedModel, gzip": f"{saved.gzip_bytes:,}",
        "latency, LiteRT": f"{1000 * lite.latency.median_ms:.1f} µs",
        "max error against Keras": f"{max(lite.max_error, saved.max_error):.0e}",
    }


def table(models: list[dict[str, str]]) -> Table:
    made = Table(title="Before and after; accuracy and latency are those of the .tflite file, one thread")
    made.add_column("")
    for model in models:
        made.add_column(model["model"], justify="right")
    for row in list(models[0])[1:]:
        made.add_row(row, *(model[row] for model in models))
    return made


if __name__ == "__main__":
    app.run(main)
