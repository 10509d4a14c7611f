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


def model_with(*names: str, as_dict: bool = False) -> keras.Model:
    inputs = {name: keras.Input((2,), name=name) for name in names}
    total = keras.layers.Concatenate()(list(inputs.values()))
    return keras.Model(inputs if as_dict else list(inputs.values()), keras.layers.Dense(1)(total))


@pytest.mark.parametrize("as_dict", [False, True])
def test_dict_is_put_in_the_order_of_the_models_inputs(as_dict):
    model = model_with("z", "a", as_dict=as_dict)
    ((inputs, _),) = _data.batches_for(model, {"a": X, "z": 2 * X})
    expected = {"a": X, "z": 2 * X}
    assert [tensor.name for tensor in model.inputs] == (["a", "z"] if as_dict else ["z", "a"])
    for tensor, array in zip(model.inputs, inputs, strict=True):
        assert (array == expected[tensor.name]).all()


def test_dict_of_other_names_is_refused():
    with pytest.raises(ValueError, match=r"named \['z', 'a'\], the data has \['b', 'z'\]"):
        list(_data.batches_for(model_with("z", "a"), {"b": X, "z": X}))


def test_list_of_another_number_of_arrays_is_one_of_batches():
    found = [len(x) for x, _ in _data.batches([X[:3], X[3:]], inputs=1)]
    assert found == [3, 4]
    assert [len(x) for x, _ in _data.batches([X, X], inputs=2)] == [2]


def test_only_what_is_read_once_is_made_a_list():
    assert _data.repeatable(X) is X
    held = _data.repeatable(iter([X[:4], X[4:]]))
    assert [len(list(_data.batches(held, inputs=1))) for _ in range(2)] == [2, 2]
