"""The names and shapes of what a model takes and returns."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfcompress._runtimes.signature import Signature, named_outputs

TREES = st.recursive(
    st.integers(),
    lambda parts: (
        st.lists(parts, min_size=1, max_size=3) | st.dictionaries(st.text(max_size=3), parts, min_size=1)
    ),
    max_leaves=8,
)


@given(TREES)
def test_every_output_gets_a_name_of_its_own_that_a_signature_can_have(outputs):
    named = named_outputs(outputs)
    assert list(named.values()) == keras.tree.flatten(outputs)
    assert all(name.isidentifier() and name.isascii() and name[0].isalpha() for name in named)


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (0, ["output_0"]),
        ([0, 0], ["output_0", "output_1"]),
        ({"probabilities": 0}, ["probabilities"]),
        ({"my box/1": 0, "my box.1": 0}, ["my_box_1", "my_box_1_"]),
    ],
)
def test_names_are_keys_or_numbers(outputs, names):
    assert list(named_outputs(outputs)) == names


def model_of(inputs):
    return keras.Model(inputs, layers.Concatenate()(keras.tree.flatten(inputs)))


def structures():
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    return {"list": [b, a], "dict": {"a": a, "b": b}, "nested": {"a": a, "b": [b]}}


@pytest.mark.parametrize("kind", ["list", "dict", "nested"])
def test_arguments_have_the_structure_of_the_model(kind):
    inputs = structures()[kind]
    signature = Signature.of(model_of(inputs))
    data = keras.tree.map_structure(lambda tensor: np.full((1, *tensor.shape[1:]), ord(tensor.name)), inputs)
    (argument,) = signature.arguments(signature.named(data))
    assert type(argument) is type(inputs)
    for array, tensor in zip(keras.tree.flatten(argument), keras.tree.flatten(inputs), strict=True):
        assert array.shape == (1, *tensor.shape[1:])
        assert (array == ord(tensor.name)).all() and array.dtype == np.float32


def test_arrays_by_name_may_come_in_any_order():
    signature = Signature.of(model_of(structures()["list"]))
    named = signature.named({"a": np.zeros((1, 2)), "b": np.ones((1, 3))})
    assert list(named) == ["b", "a"]
    assert named["b"].shape == (1, 3)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([np.zeros((1, 3))], "takes 2 inputs: .* the data gives 1 array"),
        ({"a": np.zeros((1, 2)), "c": np.zeros((1, 3))}, "a dict with the keys 'a', 'c'"),
        ([np.zeros((1, 3)), np.zeros((1, 3))], r"Input 'a' takes arrays of shape \(None, 2\)"),
        ([np.zeros((1, 3)), np.zeros(2)], r"Input 'a' .* the data has \(2,\)"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, match):
    signature = Signature.of(model_of(structures()["list"]))
    with pytest.raises(ValueError, match=match):
        signature.named(data)


def test_subclassed_model_says_its_shapes_but_not_its_types():
    class Sum(keras.Model):
        def call(self, inputs):
            return inputs["a"] + inputs["b"]

    model = Sum()
    model({"a": np.ones((2, 3), "int64"), "b": np.ones((2, 3), "int64")})
    signature = Signature.of(model)
    assert signature.guessed
    assert {name: spec.shape for name, spec in signature.specs.items()} == {"a": (None, 3), "b": (None, 3)}
    told = signature.like({"a": np.ones((1, 3), "int32"), "b": np.ones((1, 3))})
    assert [spec.dtype for spec in told.specs.values()] == ["int32", "float32"]
