"""A hundred masks at random, measured on the workers of a Dask cluster.

    pip install 'tfcompress[cluster]'
    python examples/random_masks_on_a_cluster.py                            # two workers on this machine
    python examples/random_masks_on_a_cluster.py --scheduler tcp://host:8786

Trains a small network on scikit-learn's digits, or a ResNet-20 with `--data-dir
folder/with/cifar10-tfrecords`, draws masks that remove 40 % of its feature maps, and keeps the one under
which accuracy on images held out is best (Anwar and Sung 2016). The same search without the cluster gives the
same mask. Any other executor will do, too: one of `concurrent.futures`, or that of Ray, MPI or Slurm.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import time

import datasets
import keras
import networks
import numpy as np
import studies
from absl import flags
from rich.console import Console
from rich.table import Table

import tfcompress

flags.DEFINE_string("data_dir", "digits", "Folder of cifar10-train.tfrecord and cifar10-validation.tfrecord.")
flags.DEFINE_string("scheduler", None, "Address of a cluster; by default one on this machine.")
flags.DEFINE_integer("workers", 2, "Workers of the cluster on this machine.")
flags.DEFINE_integer("candidates", 100, "Masks to draw.")
flags.DEFINE_float("sparsity", 0.4, "The share of feature maps to remove from each layer.")
flags.DEFINE_integer("epochs", 30, "Epochs of training before the search.")
FLAGS = flags.FLAGS

HELD_OUT = 0.2  # of the training images, for the search


def main(argv: list[str]) -> None:
    del argv
    keras.utils.set_random_seed(0)
    images = datasets.load(FLAGS.data_dir)
    count = round(HELD_OUT * len(images.train[0]))
    held_out = tuple(array[:count] for array in images.train)
    model = trained(images._replace(train=tuple(array[count:] for array in images.train)))
    with client() as connected:
        # Each task carries the model and the images: as many tasks as there are workers.
        workers = len(connected.scheduler_info()["workers"])
        searches = {
            f"{workers} workers": {"executor": connected.get_executor(), "tasks": workers},
            "this process": {},
        }
        found = {name: searched(model, held_out, images, where) for name, where in searches.items()}
    report(model, images, found)


def trained(images: datasets.Images) -> keras.Model:
    small = images.name == "digits"
    make, train, rate = (
        (networks.small_cnn, studies.train_small, 2e-3) if small else (networks.resnet20, studies.train, 0.1)
    )
    model = make(images.train[0].shape[1:], images.classes)
    train(model, images, FLAGS.epochs, rate)
    return model


def client():
    from distributed import Client, LocalCluster

    if FLAGS.scheduler:
        return Client(FLAGS.scheduler)
    # One thread each: TensorFlow has its own, and a worker measures one candidate at a time.
    return LocalCluster(FLAGS.workers, threads_per_worker=1, dashboard_address="127.0.0.1:0").get_client()


def searched(model: keras.Model, held_out: tuple, images: datasets.Images, where: dict) -> tuple:
    """The pruned model, and seconds."""
    start = time.perf_counter()
    small = tfcompress.random_masks(
        model, held_out, sparsity=FLAGS.sparsity, candidates=FLAGS.candidates, test=images.test, **where
    )
    return small, time.perf_counter() - start


def report(model: keras.Model, images: datasets.Images, found: dict[str, tuple]) -> None:
    (here, _), (there, _) = found["this process"], next(iter(found.values()))
    table = Table(title=f"{FLAGS.candidates} masks, {FLAGS.sparsity:.0%} of the feature maps")
    for column in ("measured on", "seconds", "best", "mean"):
        table.add_column(column, justify="left" if column == "measured on" else "right")
    for name, (small, seconds) in found.items():
        scores = small.searches[0].scores
        table.add_row(name, f"{seconds:.1f}", f"{scores.max():.1%}", f"{scores.mean():.1%}")
    Console().print(table)
    same = all(np.array_equal(a, b) for a, b in zip(here.get_weights(), there.get_weights(), strict=True))
    print("Both found the same mask." if same else "The searches found different masks.")
    before, after = (studies.accuracy(each, images) for each in (model, here))
    print(f"On test images: {before:.1%} before, {after:.1%} with the best mask and no retraining.")


if __name__ == "__main__":
    studies.run(main)
