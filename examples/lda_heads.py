"""Few neurons and a light classifier: LDA pruning, then a quadratic discriminant or a support vector machine.

    python examples/lda_heads.py

After Tian, Arbel and Clark 2017: of a CNN trained on scikit-learn's digits, the last convolution keeps the
neurons that tell classes apart, earlier ones what a deconvolution network brings back to these; classifiers
that are fitted, not trained, take the place of the dense layers. Heads are chosen on a part of the training
images; each network is exported to TFLite and run there.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

import datasets
import keras
import networks
import studies
from absl import flags, logging
from rich.console import Console
from rich.table import Table

import tfcompress
from tfcompress.pruning import heads

flags.DEFINE_string("out_dir", "lda_heads", "Where the exported models go.")
flags.DEFINE_float("sparsity", 0.6, "The share of each layer's filters to remove.")
flags.DEFINE_integer("epochs", 30, "Epochs of training.")
FLAGS = flags.FLAGS

HEADS = {
    "quadratic discriminant": [heads.QuadraticDiscriminant(shrinkage) for shrinkage in (0.05, 0.2, 0.5)],
    "linear SVM": [heads.LinearSVM(C) for C in (0.01, 0.1, 1.0)],
    "RBF SVM": [heads.RBFSVM(C) for C in (1.0, 10.0, 100.0)],
}


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    keras.utils.set_random_seed(0)
    images = datasets.digits()
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    model = networks.small_cnn((8, 8, 1), images.classes)
    studies.train_small(model, images, FLAGS.epochs, 2e-3)
    small = tfcompress.prune(model, "deep_lda", sparsity=FLAGS.sparsity, data=images.train)
    studies.train_small(small, images, FLAGS.epochs // 3, 1e-3)
    fitted = {name: chosen(small, candidates, images) for name, candidates in HEADS.items()}
    table = Table(title=f"{images.name}: {FLAGS.sparsity:.0%} of the filters removed by LDA")
    for column in ("network", "accuracy", "parameters", ".tflite, bytes", "max error against Keras"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, each in {"dense": model, "pruned": small, **fitted}.items():
        report = tfcompress.export.tflite(each, out / f"{name.replace(' ', '_')}.tflite", data=images.test[0])
        table.add_row(
            name,
            f"{studies.accuracy(each, images):.1%}",
            f"{each.count_params():,}",
            f"{report.size_bytes:,}",
            f"{report.max_error:.0e}",
        )
    Console(width=100).print(table)


def chosen(model: keras.Model, candidates: list[heads.Head], images: datasets.Images) -> keras.Model:
    """The network with the head that does best on a fifth of the training images, fitted to all."""
    x, y = images.train
    cut = len(x) // 5
    held_out = images._replace(test=(x[:cut], y[:cut]))

    def accuracy(head: heads.Head) -> float:
        return studies.accuracy(tfcompress.fit_head(model, head, (x[cut:], y[cut:])), held_out)

    return tfcompress.fit_head(model, max(candidates, key=accuracy), (x, y))


if __name__ == "__main__":
    studies.run(main)
