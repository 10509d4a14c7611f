"""Sensitivity: what each group costs, found without a trace."""

import keras
import numpy as np
import pytest
from keras import layers
from surgery import randomize

import tfcompress
from tfcompress import Selection, analysis

X = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype("float32")


def mean(model: keras.Model) -> float:
    return float(np.abs(keras.ops.convert_to_numpy(model(X))).mean())


def two_branches() -> keras.Model:
    """`a` and `b` are concatenated into the two groups of `g`, so they must keep equal numbers."""
    i = keras.Input((8, 8, 3))
    x = layers.Concatenate()([layers.Conv2D(6, 1, name="a")(i), layers.Conv2D(6, 1, name="b")(i)])
    x = layers.Conv2D(12, 3, groups=2, name="g")(x)
    return randomize(keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))))


def test_groups_that_keep_equal_numbers_are_pruned_together_and_share_a_curve():
    model = two_branches()
    curves = analysis.sensitivity(model, "l1", mean, sparsities=[0.5])
    assert list(curves) == ["a", "b", "g"]
    selection = Selection(round_to=1)
    small = tfcompress.prune(model, "l1", sparsity=0.5, include=["a", "b"], selection=selection)
    assert [small.get_layer(name).filters for name in ("a", "b", "g")] == [3, 3, 12]
    assert curves["a"] == curves["b"] == {0.0: mean(model), 0.5: pytest.approx(mean(small), rel=1e-5)}
    assert curves["a"][0.5] != curves["a"][0.0] and curves["g"] != curves["a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evaluate": lambda m: {"accuracy": 1.0}}, "must return a number"),
        ({"evaluate": lambda m: None}, "must return a number"),
        ({"sparsities": [1.2]}, r"\[0, 1\)"),
        ({"sparsities": [{"a": 0.5}]}, "are numbers"),
        ({"sparsities": [lambda s: s > 0]}, "are numbers"),
        ({"criterion": "entropy"}, "pass data"),
        ({"criterion": lambda *_: {}}, "scores none"),
        ({"include": "a("}, "Unknown layer or pattern"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    given = {"criterion": "l1", "evaluate": mean, **arguments}
    with pytest.raises(ValueError, match=message):
        analysis.sensitivity(two_branches(), **given)
