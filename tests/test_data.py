"""Batches out of whatever a user holds data in."""

import keras
import numpy as np
import pytest

from tfcompress import _data

X, Y = np.arange(14.0).reshape(7, 2), np.arange(7)


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = slice(4 * index, 4 * index + 4)
        return X[part], Y[part]


def dataset():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


SOURCES = {
    "arrays": lambda: (X, Y),
    "arrays with weights": lambda: (X, Y, np.ones(7)),
    "dataset": dataset,
    "py_dataset": Sequence,
    "list of batches": lambda: [(X[:4], Y[:4]), (X[4:], Y[4:])],
    "generator": lambda: ((X[i : i + 4], Y[i : i + 4]) for i in (0, 4)),
    "tensors": lambda: [(keras.ops.convert_to_tensor(X[:4]), Y[:4]), (X[4:], Y[4:])],
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_kind_of_data_gives_the_same_batches(name):
    found = list(_data.batches(SOURCES[name](), batch_size=4))
    assert [len(x) for x, _ in found] == [4, 3]
    assert all(isinstance(leaf, np.ndarray) for batch in found for leaf in batch)
    np.testing.assert_allclose(np.concatenate([x for x, _ in found]), X)
    assert np.concatenate([y for _, y in found]).tolist() == Y.tolist()


@pytest.mark.parametrize("data", [X, [X, X], {"a": X, "b": X}, iter([X[:4], X[4:]])])
def test_inputs_alone_have_no_labels(data):
    found = list(_data.batches(data, batch_size=4))
    assert len(found) == 2 and all(labels is None for _, labels in found)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((0, 2)), "empty"),
        ([], "empty"),
        (iter([]), "empty"),
        ((X, Y[:3]), "different numbers"),
        (5, "Expected arrays"),
    ],
)
def test_data_that_is_none_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        list(_data.batches(data))
