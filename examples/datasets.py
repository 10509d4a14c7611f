"""Images for the examples: CIFAR-10 where it can be had, else scikit-learn's bundled digits."""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np


class Images(NamedTuple):
    """A classification set: images in [0, 1], `(n, height, width, channels)`, and int labels `(n,)`."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: int


def load(data_dir: str | None = None) -> Images:
    """CIFAR-10 from TFRecords in `data_dir`, else downloaded by Keras, else the digits.

    With `"digits"` for a folder it is the digits at once.
    """
    if data_dir == "digits":
        return digits()
    if data_dir:
        return cifar10_records(Path(data_dir))
    try:
        (x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
    except Exception as error:
        print(f"CIFAR-10 cannot be downloaded ({error}); using scikit-learn's digits instead.")
        return digits()
    return Images(
        "CIFAR-10", (x / np.float32(255), y.ravel()), (x_test / np.float32(255), y_test.ravel()), 10
    )


def cifar10_records(folder: Path) -> Images:
    """From `cifar10-train.tfrecord` and `cifar10-validation.tfrecord` (`image` as JPEG, `label`)."""
    train, test = (_records(folder / f"cifar10-{part}.tfrecord") for part in ("train", "validation"))
    return Images("CIFAR-10", train, test, 10)


def digits() -> Images:
    """scikit-learn's 1,797 handwritten digits, 8x8; 360 of them, one in five, held out for testing."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    test, train = order[:360], order[360:]
    return Images("digits", (x[train], y[train]), (x[test], y[test]), 10)


def large_digits() -> Images:
    """The digits at 28x28: three times as large, with a margin of two."""
    import tensorflow as tf

    def enlarge(x: np.ndarray) -> np.ndarray:
        x = tf.image.resize(x, (24, 24), method="bilinear")
        return tf.pad(x, [[0, 0], [2, 2], [2, 2], [0, 0]]).numpy()

    images = digits()
    (x, y), (x_test, y_test) = images.train, images.test
    return Images("digits at 28x28", (enlarge(x), y), (enlarge(x_test), y_test), 10)


def _records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow as tf

    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; give the folder that holds it as --data-dir.")
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(record):
        example = tf.io.parse_single_example(record, features)
        return tf.io.decode_jpeg(example["image"], channels=3), example["label"]

    pairs = tf.data.TFRecordDataset(str(path)).map(parse, num_parallel_calls=tf.data.AUTOTUNE).batch(1000)
    images, labels = zip(*pairs.as_numpy_iterator(), strict=True)
    return np.concatenate(images) / np.float32(255), np.concatenate(labels)
