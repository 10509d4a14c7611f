"""The summary table: parameters, nonzeros, bytes, live activations, and how it prints."""

import io
import itertools
import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from rich.console import Console

from tfcompress.analysis.costs import macs
from tfcompress.analysis.mac_rules import MacRule, at_outputs, register
from tfcompress.analysis.summary import SUMS, summary

FLOAT = 4  # bytes


def rows_of(model, **arguments):
    return {row["layer"]: row for row in summary(model, **arguments).rows}


@pytest.fixture(scope="module")
def model():
    """A stem, a nested body called twice, a recurrent and a shared head."""
    body = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.DepthwiseConv2D(3, padding="same", name="depthwise")], name="body"
    )
    x = keras.Input((8, 8, 3), name="image")
    y = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    y = layers.BatchNormalization(name="norm")(layers.add([body(y), body(body(y))]))
    y = layers.Reshape((64, 4))(y)
    y = layers.Bidirectional(layers.GRU(5, name="gru"), name="both")(y)
    head = layers.Dense(10, name="head")
    return keras.Model(x, [head(y), head(-y)], name="mixed")


def test_totals_are_the_sums_of_the_rows_and_of_keras(model):
    table = summary(model)
    for key in SUMS:
        assert table.totals[key] == sum(row[key] for row in table.rows)
    assert table.totals["params"] == model.count_params()
    assert table.totals["macs"] == macs(model)
    assert table.totals["weight_bytes"] == FLOAT * model.count_params()


def test_a_row_has_the_numbers_of_its_layer(model):
    assert rows_of(model)["stem"] == {
        "layer": "stem",
        "kind": "Conv2D",
        "output_shape": [8, 8, 4],
        "calls": 1,
        "params": 3 * 3 * 3 * 4 + 4,
        "nonzero_params": 3 * 3 * 3 * 4,  # the bias begins as zeros
        "macs": 64 * 3 * 3 * 3 * 4,
        "nonzero_macs": 64 * 3 * 3 * 3 * 4,
        "weight_bytes": FLOAT * (3 * 3 * 3 * 4 + 4),
        "activation_bytes": FLOAT * 8 * 8 * 4,
    }


def test_rows_come_in_the_order_of_the_calls_with_nested_layers_in_place(model):
    names = [row["layer"] for row in summary(model).rows]
    assert names[:3] == ["image", "stem", "body/depthwise"]
    assert names[-6:-2] == ["reshape", "both", "both/forward_gru", "both/backward_gru"]


def test_a_layer_called_several_times_has_its_parameters_once_and_its_macs_each_time(model):
    row = rows_of(model)["body/depthwise"]
    assert row["calls"] == 3
    assert row["params"] == 3 * 3 * 4 + 4
    assert row["macs"] == 3 * 64 * 3 * 3 * 4
    assert row["activation_bytes"] == 3 * FLOAT * 64 * 4


def test_a_weight_that_two_layers_hold_is_counted_once_but_multiplied_twice():
    first = layers.Dense(3, use_bias=False, name="first")

    class Tied(layers.Layer):
        def build(self, shape):
            self.kernel = first.kernel

        def call(self, x):
            return x @ self.kernel

    register(Tied, MacRule({"kernel": at_outputs}))
    x = keras.Input((3,))
    model = keras.Model(x, Tied()(first(x)))
    totals = summary(model).totals
    assert totals["params"] == model.count_params() == 9
    assert totals["macs"] == 18


@given(st.floats(0, 1), st.integers(0, 100))
def test_nonzero_macs_are_those_of_the_weights_that_are_left(density, seed):
    conv, head = layers.Conv2D(4, 3, use_bias=False, name="conv"), layers.Dense(5, name="head")
    model = keras.Sequential([keras.Input((6, 6, 2)), conv, layers.Flatten(), head])
    masks = [np.random.default_rng(seed).random(w.shape) < density for w in model.weights]
    model.set_weights([mask.astype("float32") for mask in masks])
    table = summary(model)
    assert table.totals["nonzero_params"] == sum(int(mask.sum()) for mask in masks)
    assert table.totals["nonzero_macs"] == 16 * masks[0].sum() + masks[1].sum()
    assert table.totals["macs"] == 16 * masks[0].size + masks[1].size


def test_products_of_activations_are_in_both_counts_of_macs():
    x = keras.Input((10, 8))
    layer = layers.MultiHeadAttention(2, 4, name="attend")
    model = keras.Model(x, layer(x, x))
    layer.set_weights([np.zeros(w.shape) for w in layer.weights])
    row = rows_of(model)["attend"]
    assert row["nonzero_macs"] == 2 * 10 * 10 * 8
    assert row["macs"] == row["nonzero_macs"] + 4 * 10 * 8 * 8


@pytest.mark.parametrize(("policy", "weight", "activation"), [("mixed_float16", 4, 2), ("bfloat16", 2, 2)])
def test_bytes_follow_the_dtype_of_each_weight_and_of_the_computation(policy, weight, activation):
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(5, dtype=policy, name="dense")(x))
    row = rows_of(model)["dense"]
    assert (row["weight_bytes"], row["activation_bytes"]) == (weight * 20, activation * 5)


def test_bytes_of_quantized_weights_are_one_per_kernel_entry():
    layer = layers.Dense(6, name="dense")
    x = keras.Input((10,))
    model = keras.Model(x, layer(x))
    layer.quantize("int8")
    assert rows_of(model)["dense"]["weight_bytes"] == 60 + FLOAT * 6 + FLOAT * 6  # kernel, scale, bias


def test_the_outputs_of_wrappers_are_counted_with_the_layers_they_wrap(model):
    rows = rows_of(model)
    assert rows["both"]["activation_bytes"] == rows["both"]["params"] == 0
    assert rows["both/forward_gru"]["activation_bytes"] == FLOAT * 5
    x = keras.Input((7, 3))
    steps = rows_of(keras.Model(x, layers.TimeDistributed(layers.Dense(2, name="dense"), name="steps")(x)))
    assert steps["steps/dense"]["calls"] == 7
    assert steps["steps/dense"]["activation_bytes"] == 7 * FLOAT * 2


def test_a_layer_with_several_outputs_lists_their_shapes():
    x = keras.Input((7, 3))
    model = keras.Model(x, layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(x))
    row = rows_of(model)["lstm"]
    assert row["output_shape"] == [[7, 4], [4], [4]]
    assert row["activation_bytes"] == FLOAT * (28 + 4 + 4)


# ------------------------------------------------------------------ what is alive at once


def peak_of(inputs, outputs):
    return summary(keras.Model(inputs, outputs)).totals["peak_activation_bytes"] // FLOAT


def test_the_peak_of_a_chain_is_its_largest_pair_of_neighbours():
    x = keras.Input((10,))
    y = layers.Dense(100)(x)
    y = layers.Dense(30)(y)
    assert peak_of(x, layers.Dense(40)(y)) == 100 + 30


def test_a_shortcut_stays_alive_until_it_is_added():
    x = keras.Input((10,))
    y = layers.Dense(100)(x)
    z = layers.Dense(100)(layers.Dense(90)(y))
    assert peak_of(x, layers.Dense(5)(layers.add([y, z]))) == 3 * 100


def test_an_output_stays_alive_to_the_end():
    x = keras.Input((10,))
    early = layers.Dense(50)(x)
    last = layers.Dense(70)(layers.Dense(60)(early))
    assert peak_of(x, [early, last]) == 50 + 60 + 70


def test_nested_models_do_not_change_the_peak():
    def chain(x):
        return layers.Dense(30)(layers.Dense(100)(x))

    x, inner = keras.Input((10,)), keras.Input((10,))
    nested = keras.Model(inner, chain(inner))
    assert peak_of(x, layers.Dense(5)(nested(x))) == peak_of(x, layers.Dense(5)(chain(x)))


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6), st.booleans())
def test_the_peak_lies_between_the_largest_call_and_all_tensors(widths, shortcut):
    x = y = keras.Input((widths[0],))
    for width in widths[1:]:
        y = layers.Dense(width)(y)
    model = keras.Model(x, layers.Concatenate()([x, y]) if shortcut else y)
    totals = summary(model).totals
    largest_call = max(a + b for a, b in itertools.pairwise(widths))
    assert FLOAT * largest_call <= totals["peak_activation_bytes"] <= totals["activation_bytes"]


# ------------------------------------------------------------------ for people and programs


def test_the_rows_survive_json(model):
    table = summary(model)
    data = json.loads(json.dumps({"rows": table.rows, "totals": table.totals, "uncounted": table.uncounted}))
    assert data == {"rows": table.rows, "totals": table.totals, "uncounted": table.uncounted}


def test_print_and_rich_show_every_layer_and_the_totals(model):
    table = summary(model)
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(table)
    for text in (str(table), repr(table), console.file.getvalue()):
        lines = text.splitlines()
        assert "mixed, for one image" in lines[0]
        assert all(any(row["layer"] in line and row["kind"] in line for line in lines) for row in table.rows)
        assert "activations live at once" in lines[-1]


def test_columns_of_the_plain_table_are_aligned(model):
    lines = str(summary(model)).splitlines()[1:-1]
    assert {len(line) for line in lines} == {len(lines[0])}


def test_brackets_in_a_layer_name_are_not_taken_for_markup():
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(2, name="[bold]head[bold]")(x))
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(summary(model))
    assert "[bold]head[bold]" in console.file.getvalue()


def test_a_layer_without_a_rule_shows_its_parameters_and_why_its_macs_are_unknown():
    class Own(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), name="scale")

        def call(self, x):
            return x * self.scale

    x = keras.Input((3,))
    table = summary(keras.Model(x, layers.Dense(2)(Own(name="own")(x))))
    row = table.rows[1]
    assert (row["params"], row["macs"], row["nonzero_macs"]) == (3, None, None)
    assert table.totals["macs"] == 6
    assert "MACs of 'own' not counted: no rule for Own" in str(table)


def test_layers_that_a_wrapper_calls_in_its_own_way_keep_their_parameters_in_the_totals():
    class Own(layers.Wrapper):
        def build(self, shape):
            self.layer.build((None, 12))
            self.built = True

        def call(self, x):
            return self.layer(keras.ops.reshape(x, (-1, 12)))

    x = keras.Input((4, 3))
    model = keras.Model(x, Own(layers.Dense(2, name="dense"), name="own")(x))
    table = summary(model)
    assert table.totals["params"] == model.count_params() == 26
    assert table.uncounted == {"own/dense": "how its wrapper calls it is not known"}


def test_an_open_size_is_asked_for_and_changes_macs_and_activations():
    x = keras.Input((None, None, 3))
    model = keras.Model(x, layers.Conv2D(4, 1, name="conv")(x))
    with pytest.raises(ValueError, match="Pass input_shape"):
        summary(model)
    row = rows_of(model, input_shape=(10, 20, 3))["conv"]
    assert (row["output_shape"], row["macs"], row["activation_bytes"]) == ([10, 20, 4], 2400, 3200)


@pytest.mark.parametrize(("name", "params"), [("Xception", 22_910_480), ("VGG16", 138_357_544)])
def test_the_applications_of_keras_have_the_parameters_of_their_papers(name, params):
    assert summary(getattr(keras.applications, name)(weights=None)).totals["params"] == params
