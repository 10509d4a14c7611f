"""What training made zero is removed: the same outputs from a smaller model of stock layers."""

import functools
import zipfile
from collections.abc import Callable

import keras
import numpy as np
import pytest
import random_graphs
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import Model, layers, ops
from masks import array
from small_models import MODELS
from surgery import found, inputs_for, outputs_of, random_masks, randomize, relative_error

from tfcompress import channels, remove_zeroed, shrink


def zero(model: Model, path: str, *, filters=(), channels=(), bias: bool = False) -> None:
    """Sets filters (last axis) or channels (the one before) of a kernel to zero; on wish biases, too."""
    layer = found(model, path)
    kernel = array(layer.kernel).copy()
    kernel[..., list(filters)] = 0
    kernel[..., list(channels), :] = 0
    layer.kernel.assign(kernel)
    if bias:
        biases = array(layer.bias).copy()
        biases[list(filters)] = 0
        layer.bias.assign(biases)


def outputs_stay(model: Model, *, tolerance: float = 1e-5, **options) -> Model:
    """Returns what `remove_zeroed` makes of the model: one with equal outputs."""
    before = [array(weight) for weight in model.weights]
    small = remove_zeroed(model, **options)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value, err_msg="the input was changed")
    inputs = inputs_for(model)
    expected = outputs_of(model, inputs)
    assert sees(model), "the comparison would be blind"
    assert relative_error(expected, outputs_of(small, inputs)) <= tolerance
    return small


def width(model: Model, path: str) -> int:
    """The outputs of a layer."""
    return found(model, path).output.shape[-1]


# --- channels and filters -------------------------------------------------------------------------------

CASES: dict[str, tuple[Callable[[], Model], dict[str, int]]] = {}  # name -> model, widths that are left


def case(**widths: int):
    """A zeroed model, and how wide its layers are when the zeros are gone."""

    def note(build: Callable[[], Model]) -> Callable[[], Model]:
        CASES[build.__name__] = build, widths
        return build

    return note


def conv(filters: int, name: str, size: int = 3, **options) -> keras.Layer:
    return layers.Conv2D(filters, size, name=name, **options)


def image(channels: int = 3) -> keras.KerasTensor:
    return keras.Input((10, 10, channels))


def classifier(inputs, x) -> Model:
    """Ends the network; every weight is random, so that constants differ from zero."""
    x = layers.GlobalAveragePooling2D()(x)
    return randomize(Model(inputs, layers.Dense(3, name="head")(x)))


@case(first=5, second=6)
def channels_that_nothing_reads():
    i = image()
    model = classifier(i, conv(6, "second")(conv(8, "first", activation="relu")(i)))
    zero(model, "second", channels=[0, 3, 7])
    return model


@case(first=6, second=5)
def filters_with_a_bias():
    i = image()
    model = classifier(i, conv(6, "second")(conv(8, "first", activation="sigmoid")(i)))
    zero(model, "first", filters=[0, 3])
    zero(model, "second", filters=[5])
    return model


@case(first=4)
def all_of_both_kinds():
    i = image()
    model = classifier(i, conv(6, "second", use_bias=False)(conv(8, "first")(i)))
    zero(model, "first", filters=[0, 3])
    zero(model, "second", channels=[3, 4, 5])
    return model


@case(first=5, second=6)
def shift_of_a_normalization_behind_a_zero_filter():
    x = i = image()
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(conv(8, "first")(x)))
    model = classifier(i, conv(6, "second")(x))
    found(model, "norm").beta.assign(np.arange(1, 9))
    zero(model, "first", filters=[1, 2, 6])
    return model


@case(first=7, hidden=4)
def constants_spread_by_flatten():
    x = i = image()
    x = layers.Flatten()(layers.BatchNormalization()(conv(8, "first")(x)))
    model = randomize(Model(i, layers.Dense(2)(layers.Dense(5, "tanh", name="hidden")(x))))
    zero(model, "first", filters=[1])
    zero(model, "hidden", filters=[4])
    return model


@case(stem=7, branch=7)
def residual_channels_zero_in_all_that_make_them():
    x = i = image()
    x = conv(8, "stem")(x)
    model = classifier(i, layers.Add(name="add")([x, conv(8, "branch", padding="same")(x)]))
    zero(model, "stem", filters=[1, 2], bias=True)
    zero(model, "branch", filters=[2, 3], bias=True)
    return model


@case(left=3, right=4)
def concatenation():
    x = i = image()
    x = layers.Concatenate()([conv(4, "left")(x), conv(5, "right")(x)])
    model = classifier(i, layers.Dense(4, name="pointwise")(x))
    zero(model, "left", filters=[0])
    zero(model, "pointwise", channels=[4 + 2])
    return model


@case(first=6, grouped=4)
def grouped_convolution():
    x = i = image()
    x = conv(6, "grouped", groups=2)(conv(8, "first")(x))
    model = classifier(i, conv(4, "last")(x))
    zero(model, "first", filters=[1, 6], bias=True)  # one for each group
    zero(model, "grouped", filters=[0, 5])
    return model


@case(first=8, grouped=6)
def grouped_convolution_that_would_be_unbalanced():
    x = i = image()
    x = conv(6, "grouped", groups=2)(conv(8, "first")(x))
    model = classifier(i, conv(4, "last")(x))
    zero(model, "first", filters=[1, 2], bias=True)
    zero(model, "grouped", filters=[0, 1])
    return model


@case(first=4, depthwise=4)
def depthwise_convolution():
    x = i = image()
    x = layers.DepthwiseConv2D(3, name="depthwise")(conv(6, "first")(x))
    model = classifier(i, conv(4, "last", 1)(x))
    zero(model, "first", filters=[1])
    zero(model, "depthwise", channels=[4])
    return model


@case(first=4, separable=4)
def separable_convolution():
    x = i = image()
    x = layers.SeparableConv2D(5, 3, depth_multiplier=2, name="separable")(conv(6, "first")(x))
    model = classifier(i, conv(4, "last", 1)(x))
    zero(model, "first", filters=[1, 5])
    pointwise = found(model, "separable").pointwise_kernel
    pointwise.assign(array(pointwise) * (np.arange(5) != 3))
    return model


@case(first=5, gate=5)
def gate_of_a_zero_channel():
    x = i = image()
    x = conv(6, "first")(x)
    gate = layers.Dense(6, "sigmoid", name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    model = classifier(i, layers.Multiply()([x, gate]))
    zero(model, "first", filters=[2], bias=True)
    return model


@case(first=6)
def padding_that_shows_a_constant():
    i = image()
    model = classifier(i, conv(6, "second", padding="same")(conv(6, "first")(i)))
    zero(model, "first", filters=[1])
    return model


@case(first=5)
def padding_behind_a_filter_that_makes_nothing():
    i = image()
    model = classifier(i, conv(6, "second", padding="same")(conv(6, "first", activation="relu")(i)))
    zero(model, "first", filters=[1], bias=True)
    return model


@case(first=5)
def padding_that_pads_nothing():
    i = image()
    model = classifier(i, conv(6, "second", 1, padding="same")(conv(6, "first")(i)))
    zero(model, "first", filters=[1])
    return model


@case(first=6)
def constant_that_comes_out_of_padding():
    """`middle` makes of the constant one number inside and others at the border."""
    x = i = image()
    x = layers.DepthwiseConv2D(3, padding="same", name="middle")(conv(6, "first")(x))
    model = classifier(i, conv(4, "last")(x))
    zero(model, "first", filters=[1])
    return model


@case(first=1)
def all_filters_but_one_stays():
    x = i = image()
    x = layers.Concatenate()([conv(4, "first", 1)(x), x])
    model = classifier(i, conv(4, "last")(x))
    zero(model, "first", filters=range(4))
    return model


@case(head=3, first=5)
def outputs_of_the_model():
    i = image()
    model = classifier(i, conv(5, "first")(i))
    zero(model, "head", filters=[0])
    return model


@case(**{"inner/a": 4, "inner/b": 5})
def nested_model():
    source = image(4)
    inner = Model(source, conv(6, "b")(conv(6, "a")(source)), name="inner")
    i = image(4)
    model = classifier(i, conv(3, "last")(inner(i)))
    zero(model, "inner/a", filters=[0, 1])
    zero(model, "inner/b", filters=[5])
    return model


@case(first=5)
def sequential_model():
    flat = [layers.Flatten(), layers.Dense(2, name="head")]
    model = randomize(keras.Sequential([image(), conv(6, "first"), layers.BatchNormalization(), *flat]))
    zero(model, "first", filters=[2])
    return model


@case(first=5)
def shared_reader_of_zeros():
    i, j = image(), image()
    first, reader = conv(6, "first"), conv(4, "reader")
    x = layers.Add()([reader(first(i)), reader(first(j))])
    model = classifier([i, j], x)
    zero(model, "first", filters=[2], bias=True)
    return model


@case(first=6)
def shared_reader_of_constants():
    i, j = image(), image()
    reader = conv(4, "reader")
    x = layers.Add()([reader(conv(6, "first")(i)), reader(conv(6, "second")(j))])
    model = classifier([i, j], x)
    zero(model, "first", filters=[2])
    zero(model, "second", filters=[2])
    return model


@case(first=8)
def column_zero_in_one_reader_only():
    x = i = image()
    x = conv(8, "first")(x)
    model = classifier(i, layers.Add()([conv(4, "one")(x), conv(4, "two")(x)]))
    zero(model, "one", channels=[2, 3])
    zero(model, "two", channels=[4])
    return model


@case(first=7)
def column_zero_in_both_readers():
    x = i = image()
    x = conv(8, "first")(x)
    model = classifier(i, layers.Add()([conv(4, "one")(x), conv(4, "two")(x)]))
    zero(model, "one", channels=[2, 3])
    zero(model, "two", channels=[2, 4])
    return model


@case(first=8)
def taps_of_a_column():
    """Zero at one tap of nine: a shape, for `compact`, and no channel."""
    i = image()
    model = classifier(i, conv(6, "second")(conv(8, "first")(i)))
    kernel = array(found(model, "second").kernel).copy()
    kernel[0, 1, :4] = 0
    found(model, "second").kernel.assign(kernel)
    return model


@case(wide=6)
def filters_of_a_layer_along_time():
    i = keras.Input((7, 4))
    x = layers.Conv1D(3, 3, name="last")(layers.Conv1D(8, 3, activation="gelu", name="wide")(i))
    model = randomize(Model(i, layers.GlobalMaxPooling1D()(x)))
    zero(model, "wide", filters=[0, 7])
    return model


@case(first=6)
def open_sizes():
    i = keras.Input((None, None, 3))
    model = classifier(i, conv(5, "second")(conv(8, "first", activation="softplus")(i)))
    zero(model, "first", filters=[0, 7])
    return model


@case(hidden=8)
def filters_of_a_recurrent_layer():
    i = keras.Input((7, 4))
    model = randomize(Model(i, layers.Dense(2)(layers.LSTM(8, name="hidden")(i))))
    lstm = found(model, "hidden")
    lstm.set_weights([weight * (np.arange(32) % 8 > 1) for weight in lstm.get_weights()])
    return model


def read_by(reader, biased: bool):
    """Two of eight filters are zero in front of the reader: constants of 0, or of 1."""
    i = keras.Input((7, 4))
    x = layers.Conv1D(8, 3, activation="tanh", name="wide")(i)
    reads = reader()
    x = reads(x, x) if isinstance(reads, layers.MultiHeadAttention) else reads(x)
    model = randomize(Model(i, layers.Dense(2)(layers.Flatten()(x))))
    zero(model, "wide", filters=[0, 7], bias=not biased)
    return model


READERS = {
    "lstm": lambda: layers.LSTM(3),
    "gru": lambda: layers.GRU(3, return_sequences=True),
    "both_ways": lambda: layers.Bidirectional(layers.LSTM(3)),
    "steps": lambda: layers.TimeDistributed(layers.Dense(3)),
    "attention": lambda: layers.MultiHeadAttention(2, 3),
}
for _name, _reader in READERS.items():
    CASES[f"zeros_read_by_{_name}"] = functools.partial(read_by, _reader, biased=False), {"wide": 6}
    CASES[f"ones_read_by_{_name}"] = functools.partial(read_by, _reader, biased=True), {"wide": 8}


@pytest.mark.parametrize("name", CASES)
def test_zeroed_model_gets_as_narrow_as_it_can_with_equal_outputs(name):
    build, widths = CASES[name]
    model = build()
    small = outputs_stay(model)
    assert type(small) is type(model) and not small.branches
    assert {path: width(small, path) for path in widths} == widths
    lost = sum(removal.before - removal.after for removal in small.removed)
    assert (lost > 0) == (small.count_params() < model.count_params())


def test_channels_first_network_gets_as_narrow():
    i = keras.Input((3, 13, 12))
    options = {"data_format": "channels_first"}
    x = layers.BatchNormalization(axis=1)(conv(8, "first", **options)(i))
    x = layers.GlobalMaxPooling2D(**options)(conv(6, "second", **options)(x))
    model = randomize(Model(i, layers.Dense(3, name="head")(x)))
    zero(model, "first", filters=[0, 3])
    zero(model, "second", filters=[5])
    small = outputs_stay(model)
    assert (found(small, "first").filters, found(small, "second").filters) == (6, 5)


def test_bias_is_given_to_a_reader_that_had_none():
    small = outputs_stay(all_of_both_kinds())
    assert found(small, "second").use_bias and small.count_params() == 28 * 4 + 36 * 6 + 6 + 21


def test_result_says_what_went_and_what_stays_why():
    small = remove_zeroed(padding_that_shows_a_constant())
    assert small.removed.untouched["first"] == (
        "1 constant channels stay: 'second' pads what it reads, so that no bias can stand in for them; "
        "approximate=True removes them"
    )
    small = remove_zeroed(shared_reader_of_constants())
    assert "'reader' has no bias that could stand in" in small.removed.untouched["first"]
    [removal] = [r for r in remove_zeroed(filters_with_a_bias()).removed if r.group == "first"]
    assert (removal.before, removal.after) == (8, 6) and removal.layers["first"].tolist() == [0, 3]


def test_approximation_removes_what_padding_shows_and_warns_how_far_it_is_off():
    i = image()
    model = Model(i, conv(2, "second", padding="same")(conv(6, "first")(i)))
    randomize(model)
    zero(model, "first", filters=[1])
    with pytest.warns(UserWarning, match="bias of 'second' are exact only on average") as caught:
        small = remove_zeroed(model, approximate=True)
    assert width(small, "first") == 5
    inputs = inputs_for(model)
    off = np.abs(outputs_of(model, inputs)[0] - outputs_of(small, inputs)[0]).max()
    assert f"up to {off:.2g} at the border" in str(caught[0].message)
    # The constant alone, at every position: its mean over positions is what the bias has now.
    bias = float(array(found(model, "first").bias)[1])
    alone = ops.conv(
        np.full((1, 8, 8, 1), bias, "float32"), found(model, "second").kernel[:, :, 1:2], padding="same"
    )
    moved = array(found(small, "second").bias) - array(found(model, "second").bias)
    np.testing.assert_allclose(moved, array(alone).mean(axis=(0, 1, 2)), rtol=1e-5)


# --- branches -------------------------------------------------------------------------------------------


def residual(add=None, shift: float = 0.5, **options) -> Model:
    """A stream of eight channels, and a branch of two convolutions with a normalization."""
    x = i = image()
    x = conv(8, "stem")(x)
    y = conv(6, "inner", padding="same", activation="relu")(x)
    y = layers.BatchNormalization(name="norm")(conv(8, "outer", padding="same", **options)(y))
    x = layers.ReLU(name="relu")((add or layers.Add(name="add"))([x, y]))
    model = classifier(i, conv(4, "last")(x))
    norm = found(model, "norm")
    norm.beta.assign(np.full(8, shift))
    norm.moving_mean.assign(np.full(8, 0.25))
    if "use_bias" in options:
        norm.moving_mean.assign(np.zeros(8))
    return model


BRANCH = ("inner", "norm", "outer")


@pytest.mark.parametrize(
    "add", [None, lambda tensors: ops.add(*tensors), lambda tensors: tensors[0] + tensors[1]]
)
def test_branch_of_zero_depth_is_cut_and_the_shift_of_its_normalization_stays(add):
    model = residual(add)
    zero(model, "outer", filters=range(8))
    small = outputs_stay(model)
    [branch] = small.branches
    assert branch.addition.startswith("add") and branch.layers == BRANCH and branch.constant
    names = [layer.name for layer in small.layers]
    assert not {*BRANCH, branch.addition} & set(names)
    constant = found(small, f"{branch.addition}_constant")
    assert type(constant) is layers.DepthwiseConv2D
    gamma, beta, mean, variance = found(model, "norm").get_weights()
    shift = beta + gamma * (array(found(model, "outer").bias) - mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(array(constant.bias), shift, rtol=1e-5)


def test_branch_that_adds_nothing_leaves_nothing():
    model = residual(shift=0, use_bias=False)
    zero(model, "outer", filters=range(8))
    small = outputs_stay(model)
    assert [branch.constant for branch in small.branches] == [False]
    assert [layer.name for layer in small.layers[1:]] == [
        "stem",
        "relu",
        "last",
        *(layer.name for layer in model.layers[-2:]),
    ]


@pytest.mark.parametrize("kernel", ["inner", "outer"])
def test_zero_kernel_anywhere_in_a_branch_cuts_it(kernel):
    model = residual()
    zero(model, kernel, filters=range(found(model, kernel).filters), bias=True)
    small = outputs_stay(model)
    assert small.branches[0].layers == BRANCH


def test_branch_with_one_filter_left_stays():
    model = residual()
    zero(model, "outer", filters=range(1, 8))
    small = outputs_stay(model)
    assert not small.branches and found(small, "outer").filters == 8


def test_addition_of_many_loses_the_constant_ones_only():
    x = i = image()
    x = conv(6, "stem")(x)
    tensors = [x, *(conv(6, f"branch_{number}", padding="same")(x) for number in range(3))]
    model = classifier(i, layers.Add(name="add")(tensors))
    for number in (0, 2):
        zero(model, f"branch_{number}", filters=range(6))
    small = outputs_stay(model)
    assert small.branches[0].layers == ("branch_0", "branch_2")
    assert len(found(small, "add").input) == 2
    expected = array(found(model, "branch_0").bias) + array(found(model, "branch_2").bias)
    np.testing.assert_allclose(array(found(small, "add_constant").bias), expected, rtol=1e-6)


def test_shortcut_of_zero_is_cut_where_the_branch_lives():
    x = i = image()
    x = layers.Add(name="add")([conv(5, "projection", 1)(x), conv(5, "branch", padding="same")(x)])
    model = classifier(i, conv(4, "last")(x))
    zero(model, "projection", filters=range(5))
    assert outputs_stay(model).branches[0].layers == ("projection",)


def test_layers_that_something_else_reads_stay():
    x = i = image()
    x = conv(6, "stem")(x)
    y = conv(6, "inner", padding="same")(x)
    x = layers.Add(name="add")([x, conv(6, "outer", padding="same")(y)])
    model = classifier(i, layers.Concatenate()([x, y]))
    zero(model, "outer", filters=range(6))
    small = outputs_stay(model)
    assert small.branches[0].layers == ("outer",) and found(small, "inner").filters == 6


def test_constant_that_padding_bends_is_added_position_by_position():
    x = i = image()
    y = conv(3, "outer", padding="same")(conv(4, "inner")(x))
    x = layers.Add(name="add")([conv(3, "stem")(x), y])
    model = classifier(i, x)
    zero(model, "inner", filters=range(4))
    small = outputs_stay(model)
    assert type(found(small, "add_constant")) is layers.Rescaling
    assert small.branches[0].layers == ("inner", "outer")


def test_constant_that_padding_bends_stays_where_sizes_are_open():
    x = i = keras.Input((None, None, 3))
    y = conv(3, "outer", padding="same")(conv(4, "inner")(x))
    model = classifier(i, layers.Add()([conv(3, "stem")(x), y]))
    zero(model, "inner", filters=range(4))
    assert not outputs_stay(model).branches


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((5,), layers.Rescaling), ((4, 5), layers.DepthwiseConv1D), ((2, 2, 2, 5), layers.Rescaling)],
)
def test_constants_are_added_in_tensors_of_any_rank(shape, kind):
    x = i = keras.Input(shape)
    x = layers.Add(name="add")([layers.Dense(5, name="stem")(x), layers.Dense(5, name="branch")(x)])
    model = randomize(Model(i, layers.Dense(3, name="last")(x)))
    zero(model, "branch", filters=range(5))
    zero(model, "last", channels=[1, 3])
    small = outputs_stay(model)
    assert type(found(small, "add_constant")) is kind and small.branches[0].layers == ("branch",)
    # Keras has no layer for other ranks that adds numbers of which some could be removed.
    assert width(small, "stem") == (5 if kind is layers.Rescaling else 3)


def test_addition_that_is_called_twice_is_cut_twice():
    x = i = image(4)
    add = layers.Add(name="add")
    for name in ("one", "two"):
        x = add([x, conv(4, name, padding="same")(x)])
    model = classifier(i, x)
    for name in ("one", "two"):
        zero(model, name, filters=range(4))
    small = outputs_stay(model)
    assert [layer.name for layer in small.layers[1:3]] == ["add_constant", "add_constant_1"]


@pytest.mark.parametrize(("add", "cut"), [(layers.Add, True), (lambda: sum, False)])
def test_mask_of_a_sequence_is_handed_on_as_before(add, cut):
    """`layers.Add` hands masks on, `+` does not: without it a mask would reach the LSTM."""
    i = keras.Input((7,), dtype="int32")
    x = layers.Embedding(5, 6, mask_zero=True)(i)
    x = add()([x, layers.Dense(6, name="branch")(x)])
    model = randomize(Model(i, layers.LSTM(3)(x)))
    zero(model, "branch", filters=range(6))
    small = outputs_stay(model)
    assert len(small.branches) == cut == (small.count_params() < model.count_params())


def test_branch_in_a_nested_model_that_is_called_twice_is_cut():
    source = image(4)
    y = conv(4, "outer", padding="same")(conv(6, "inner", padding="same")(source))
    block = Model(source, layers.Add(name="add")([source, y]), name="block")
    i = image(4)
    model = classifier(i, block(conv(4, "between", 1)(block(i))))
    zero(model, "block/outer", filters=range(4))
    small = outputs_stay(model)
    [branch] = small.branches
    assert branch.addition == "block/add" and branch.layers == ("block/inner", "block/outer")
    assert [layer.name for layer in found(small, "block").layers[1:]] == ["add_constant"]


def test_branch_whose_constant_differs_from_call_to_call_stays():
    source = image(4)
    block_inputs = [source, image(4)]
    block = Model(block_inputs, layers.Add(name="add")(block_inputs), name="block")
    i = image(4)
    flat = [conv(4, name, padding="same") for name in ("one", "two")]
    model = classifier(i, block([block([i, flat[0](i)]), flat[1](i)]))
    for name in ("one", "two"):
        zero(model, name, filters=range(4))
    assert not outputs_stay(model).branches


def test_addition_of_nothing_but_constants_stays():
    x = i = image()
    both = [conv(4, name, padding="same") for name in ("one", "two")]
    x = layers.Concatenate()(
        [conv(4, "alive", padding="same")(x), layers.Add()([layer(x) for layer in both])]
    )
    model = classifier(i, x)
    for name in ("one", "two"):
        zero(model, name, filters=range(4))
    small = outputs_stay(model)
    assert not small.branches and found(small, "one").filters == 1


# --- any model ------------------------------------------------------------------------------------------

# No shape of `channels_first_convolutions` is safe from Keras 3.15 adding biases along the wrong axis,
# which it does on TensorFlow where maps are as wide as there are channels.
ZOO = [name for name in MODELS if name != "channels_first_convolutions"]


@pytest.mark.parametrize("name", ZOO)
def test_silenced_model_gets_as_small_as_if_shrunk(name):
    model = randomize(MODELS[name]())
    graph = channels.trace(model)
    keep = random_masks(graph, sparsity=0.4)
    expected = shrink(model, graph, keep).count_params()
    channels.silence(model, graph, keep)
    assert outputs_stay(model).count_params() <= expected < model.count_params()


def with_zeros(model: Model, seed: int) -> Model:
    """Some rows and columns of each kernel are zero, and half of the biases; normalizations are not."""
    randomize(model, seed)
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        if weight.name in ("kernel", "pointwise_kernel", "depthwise_kernel") and len(weight.shape) > 1:
            rows, columns = (rng.random(size) < 0.4 * rng.random() for size in weight.shape[:-3:-1])
            weight.assign(array(weight) * ~rows * ~columns[:, np.newaxis])
        if weight.name == "bias" and rng.random() < 0.5:
            weight.assign(np.zeros(weight.shape))
    return model


def sees(model: Model) -> bool:
    """Whether every output still depends on the inputs."""
    return all(np.ptp(y, axis=0).any() for y in outputs_of(model, inputs_for(model)))


@pytest.mark.parametrize("name", ZOO)
def test_zeros_anywhere_in_any_model_of_the_zoo_leave_the_outputs(name):
    models = (with_zeros(MODELS[name](), seed) for seed in range(10))
    model = next(model for model in models if sees(model))
    assert outputs_stay(model).count_params() <= model.count_params()


@given(st.integers(0, 10**6))
@settings(max_examples=6)
def test_zeros_anywhere_in_random_graphs_leave_the_outputs(seed):
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = with_zeros(random_graphs.build(seed), seed)
    assume(sees(model))
    outputs_stay(model)


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def test_mixed_precision_model_keeps_its_policy_and_its_scaled_loss(policy):
    model = residual()
    model.compile("adam", "mse")
    data = inputs_for(model, batch=4)[0], np.zeros((4, 3))
    model.fit(*data, verbose=0)
    zero(model, "outer", filters=range(8))
    zero(model, "stem", filters=[3])
    zero(model, "last", channels=[5])
    small = outputs_stay(model, tolerance=0.05)
    assert small.branches and width(small, "stem") == 6
    assert {layer.dtype_policy.name for layer in small.layers[1:]} == {policy}
    before, after = slots(model), slots(small)
    assert ("dynamic_scale" in after) == (policy == "mixed_float16")
    for name in after.keys() & {"dynamic_scale", "head_bias_momentum", "iteration"}:
        assert (after[name] == before[name]).all() and before[name].any()
    small.fit(*data, verbose=0)


def test_constants_in_half_precision_are_folded_without_an_alarm(policy):
    """The reader pads nothing; that its outputs differ in the last bit is no border."""
    model = residual()
    zero(model, "outer", filters=range(8))
    zero(model, "stem", filters=[3])
    assert width(outputs_stay(model, tolerance=0.05), "stem") == 7


@pytest.mark.parametrize("build", [residual, nested_model, filters_with_a_bias, sequential_model])
def test_smaller_model_loads_without_this_package(build, tmp_path):
    model = build()
    if build is residual:
        zero(model, "outer", filters=range(8))
    small = remove_zeroed(model)
    small.save(tmp_path / "model.keras")
    assert "tfcompress" not in zipfile.ZipFile(tmp_path / "model.keras").read("config.json").decode()
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = inputs_for(model)
    assert relative_error(outputs_of(small, inputs), outputs_of(loaded, inputs)) == 0


# --- training -------------------------------------------------------------------------------------------


def slots(model: Model) -> dict[str, np.ndarray]:
    return {variable.path.rpartition("/")[2]: array(variable) for variable in model.optimizer.variables}


def test_training_state_of_all_that_stays_is_carried():
    model = residual()
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    data = inputs_for(model, batch=4)[0], np.zeros((4, 3))
    model.fit(*data, epochs=2, verbose=0)
    zero(model, "outer", filters=range(8))
    small = outputs_stay(model)
    assert int(small.optimizer.iterations) == 2 and small.branches and width(small, "stem") == 8
    before, after = slots(model), slots(small)
    kept = {name: value for name, value in after.items() if "constant" not in name}
    assert {"stem_kernel_momentum", "last_kernel_velocity", "iteration"} <= kept.keys()
    for name, value in kept.items():
        np.testing.assert_array_equal(value, before[name])
    assert not any(value.any() for name, value in after.items() if name not in kept)
    assert "mae" in small.fit(*data, verbose=0).history


def test_slots_of_removed_filters_go_with_them():
    model = filters_with_a_bias()
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    model.fit(inputs_for(model, batch=4)[0], np.zeros((4, 3)), verbose=0)
    zero(model, "first", filters=[0, 3])
    before, after = slots(model), slots(remove_zeroed(model))
    kept = [1, 2, 4, 5, 6, 7]
    for name, left in {
        "first_kernel_momentum": before["first_kernel_momentum"][..., kept],
        "first_bias_momentum": before["first_bias_momentum"][kept],
        "second_kernel_momentum": before["second_kernel_momentum"][:, :, kept],
    }.items():
        np.testing.assert_array_equal(after[name], left)
        assert left.any()


def test_frozen_layers_stay_frozen():
    model = filters_with_a_bias()
    found(model, "second").trainable = False
    small = remove_zeroed(model)
    assert not found(small, "second").trainable and found(small, "first").trainable


def test_model_without_zeros_comes_back_as_a_copy():
    i = image()
    model = classifier(i, conv(4, "first")(i))
    small = outputs_stay(model)
    assert small is not model and small.count_params() == model.count_params()
    assert not small.branches and not list(small.removed)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: keras.Sequential([layers.Dense(2)]), "is not built"),
        (lambda: layers.Dense(2), "Expected a keras.Model, got Dense"),
    ],
)
def test_what_is_no_built_model_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        remove_zeroed(model())
