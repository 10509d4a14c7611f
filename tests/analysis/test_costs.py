"""MACs: against brute force, by hand, and against the numbers the papers print."""

import itertools
import math

import keras
import numpy as np
import pytest
from analysis import networks
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfcompress import channels
from tfcompress.analysis.costs import costs, macs, macs_by_weight
from tfcompress.analysis.mac_rules import MacRule, at_outputs, register

CONV = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}
TRANSPOSE = {1: layers.Conv1DTranspose, 2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}
DEPTHWISE = {1: layers.DepthwiseConv1D, 2: layers.DepthwiseConv2D}
SEPARABLE = {1: layers.SeparableConv1D, 2: layers.SeparableConv2D}


def model_of(layer, shape, **call):
    x = keras.Input(shape)
    return keras.Model(x, layer(x, **call))


def sum_with_ones(layer, shape):
    """What a linear layer adds up if weights and inputs are all 1: each product counts 1, once.

    Holds where no product is thrown away, so without padding.
    """
    model = model_of(layer, shape)
    layer.set_weights([np.full(w.shape, w.name != "bias", "float32") for w in layer.weights])
    return int(np.sum(keras.ops.convert_to_numpy(model(np.ones((1, *shape), "float32"))))), macs(model)


@st.composite
def windows(draw, ranks=(1, 2, 3)):
    """Arguments of a convolution, and an image that its window fits into."""
    rank = draw(st.sampled_from(ranks))
    kernel = draw(st.tuples(*[st.integers(1, 3)] * rank))
    dilation = draw(st.integers(1, 2))
    stride = 1 if dilation > 1 else draw(st.integers(1, 3))
    size = [draw(st.integers((k - 1) * dilation + 1, 7)) for k in kernel]
    return rank, size, {"kernel_size": kernel, "strides": stride, "dilation_rate": dilation}


def taps(size, kernel, stride, dilation, padding):
    """Every pair (place of the window, entry of the window), one by one."""
    starts = [
        range(0, length if padding == "same" else length - (k - 1) * dilation, stride)
        for length, k in zip(size, kernel, strict=True)
    ]
    return itertools.product(itertools.product(*starts), itertools.product(*map(range, kernel)))


@given(windows(), st.sampled_from(["same", "valid"]), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_macs_of_a_convolution_are_its_products_counted_one_by_one(window, padding, groups, inputs, filters):
    rank, size, arguments = window
    layer = CONV[rank](filters * groups, padding=padding, groups=groups, **arguments)
    model = model_of(layer, (*size, inputs * groups))
    places = taps(size, arguments["kernel_size"], arguments["strides"], arguments["dilation_rate"], padding)
    products = sum(1 for _ in itertools.product(places, range(inputs), range(filters * groups)))
    assert macs(model) == products


@given(windows(), st.integers(1, 2), st.integers(1, 3), st.integers(1, 2))
def test_macs_of_a_convolution_are_what_it_adds_up_over_ones(window, groups, inputs, filters):
    rank, size, arguments = window
    layer = CONV[rank](filters * groups, groups=groups, **arguments)
    added, counted = sum_with_ones(layer, (*size, inputs * groups))
    assert added == counted


@given(windows(ranks=(1, 2)), st.integers(1, 3), st.integers(1, 2))
def test_macs_of_a_depthwise_convolution_are_what_it_adds_up_over_ones(window, inputs, multiplier):
    rank, size, arguments = window
    layer = DEPTHWISE[rank](depth_multiplier=multiplier, **arguments)
    added, counted = sum_with_ones(layer, (*size, inputs))
    assert added == counted


@given(windows(), st.integers(1, 3), st.integers(1, 3))
def test_macs_of_a_transposed_convolution_are_what_it_adds_up_over_ones(window, inputs, filters):
    rank, size, arguments = window
    added, counted = sum_with_ones(TRANSPOSE[rank](filters, **arguments), (*size, inputs))
    assert added == counted


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 5))
def test_macs_of_a_dense_layer_are_what_it_adds_up_over_ones_on_any_rank(shape, units):
    added, counted = sum_with_ones(layers.Dense(units), tuple(shape))
    assert added == counted


@pytest.mark.parametrize(
    ("equation", "output_shape"),
    [
        ("ab,bc->ac", 5),
        ("abc,cd->abd", (4, 5)),
        ("abc,cde->abde", (4, 2, 5)),
        ("abc,bcd->ad", 5),
        ("abc,bd->adc", (5, 3)),
        ("...x,xy->...y", 5),
        ("abc,bc->abc", (4, 3)),
    ],
)
def test_macs_of_an_einsum_dense_are_what_it_adds_up_over_ones(equation, output_shape):
    shape = (3,) if equation.startswith("ab,") else (4, 3)
    layer = layers.EinsumDense(equation, output_shape)
    added, counted = sum_with_ones(layer, shape)
    assert added == counted


@given(windows(ranks=(1, 2)), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3))
def test_a_separable_convolution_costs_its_two_halves(window, inputs, multiplier, filters):
    rank, size, arguments = window
    whole = model_of(SEPARABLE[rank](filters, depth_multiplier=multiplier, **arguments), (*size, inputs))
    first = model_of(DEPTHWISE[rank](depth_multiplier=multiplier, **arguments), (*size, inputs))
    second = model_of(CONV[rank](filters, 1), first.output_shape[1:])
    assert macs(whole) == macs(first) + macs(second)


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_the_axis_of_the_channels_does_not_change_the_macs(data_format):
    shape = (3, 8, 6) if data_format == "channels_first" else (8, 6, 3)
    layer = layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=2, data_format=data_format)
    assert macs(model_of(layer, shape)) == 4 * 3 * 3 * 3 * 3 * 2


@pytest.mark.parametrize(("layer", "gates"), [(layers.LSTM, 4), (layers.GRU, 3), (layers.SimpleRNN, 1)])
@pytest.mark.parametrize("return_sequences", [True, False])
def test_a_recurrent_layer_multiplies_input_and_state_at_each_step(layer, gates, return_sequences):
    model = model_of(layer(5, return_sequences=return_sequences), (10, 8))
    assert macs(model) == 10 * gates * (8 * 5 + 5 * 5)


@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_a_convolutional_lstm_convolves_input_and_state_at_each_step(return_sequences, data_format):
    shape = (5, 2, 8, 7) if data_format == "channels_first" else (5, 8, 7, 2)
    layer = layers.ConvLSTM2D(3, 3, data_format=data_format, return_sequences=return_sequences)
    assert macs(model_of(layer, shape)) == 5 * (6 * 5) * (3 * 3) * (2 + 3) * 4 * 3


def test_both_directions_of_a_bidirectional_layer_count_under_their_own_paths():
    model = model_of(layers.Bidirectional(layers.LSTM(5, name="lstm"), name="both"), (10, 8))
    kernel, recurrent_kernel, bias = 0, 1, 2
    positions = {kernel: 10, recurrent_kernel: 10, bias: 0}
    assert macs_by_weight(model) == {
        (f"both/{way}_lstm", index): count
        for way in ("forward", "backward")
        for index, count in positions.items()
    }


def test_a_time_distributed_layer_costs_its_layer_at_each_step():
    inner = layers.Conv2D(4, 3, name="conv")
    model = model_of(layers.TimeDistributed(inner, name="steps"), (5, 8, 8, 3))
    assert macs_by_weight(model) == {("steps/conv", 0): 5 * 6 * 6, ("steps/conv", 1): 0}


def test_a_time_distributed_model_costs_the_model_at_each_step():
    body = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2, name="head")],
        name="body",
    )
    model = model_of(layers.TimeDistributed(body, name="steps"), (5, 8, 8, 3))
    assert macs(model) == 5 * macs(body)
    assert macs_by_weight(model)["steps/body/head", 0] == 5


def test_spectral_normalization_costs_nothing_beyond_its_layer():
    model = model_of(layers.SpectralNormalization(layers.Conv2D(4, 3)), (8, 8, 3))
    assert macs(model) == 36 * 9 * 3 * 4
    assert costs(model).uncounted == {}


def test_multi_head_attention_costs_four_projections_and_two_products():
    query, value = keras.Input((10, 8)), keras.Input((7, 6))
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=4, value_dim=5, name="attend")
    found = costs(keras.Model([query, value], layer(query, value)))
    names = [weight.path.split("attend/")[-1] for weight in layer.weights]
    positions = {names[index]: count for (_, index), count in found.positions.items() if count}
    assert positions == {
        "query/kernel": 10,
        "key/kernel": 7,
        "value/kernel": 7,
        "attention_output/kernel": 10,
    }
    assert found.products == {"attend": 2 * 10 * 7 * (4 + 5)}


@pytest.mark.parametrize(("axes", "reached"), [(None, 3 * 5), ((1,), 3), ((2,), 5)])
def test_attention_over_some_axes_multiplies_only_along_these(axes, reached):
    x = keras.Input((3, 5, 8))
    layer = layers.MultiHeadAttention(2, 4, attention_axes=axes, name="attend")
    model = keras.Model(x, layer(x, x))
    assert costs(model).products == {"attend": 2 * 15 * reached * (4 + 4)}
    assert {count for count in macs_by_weight(model).values() if count} == {15}


def test_grouped_query_attention_has_fewer_weights_but_no_fewer_products():
    x = keras.Input((10, 8))
    layer = layers.GroupQueryAttention(head_dim=4, num_query_heads=6, num_key_value_heads=2)
    found = macs(keras.Model(x, layer(x, x)))
    assert found == 10 * 8 * 4 * (6 + 2 + 2) + 10 * 6 * 4 * 8 + 6 * 10 * 10 * 2 * 4


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (layers.Attention(), 10 * 7 * (8 + 8)),
        (layers.Attention(score_mode="concat"), 10 * 7 * 8),
        (layers.AdditiveAttention(), 10 * 7 * (8 + 8)),
        (layers.Dot(axes=2), 10 * 7 * 8),
    ],
)
def test_attention_without_projections_costs_its_products(layer, expected):
    query, value = keras.Input((10, 8)), keras.Input((7, 8))
    assert macs(keras.Model([query, value], layer([query, value]))) == expected


def test_the_operator_for_matrix_products_is_counted():
    a, b = keras.Input((10, 8)), keras.Input((8, 7))
    assert macs(keras.Model([a, b], a @ b)) == 10 * 8 * 7


def test_other_products_of_tensors_are_listed_as_uncounted():
    a, b = keras.Input((10, 8)), keras.Input((7, 8))
    model = keras.Model([a, b], keras.ops.einsum("bij,bkj->bik", a, b))
    (reason,) = costs(model).uncounted.values()
    assert "no rule for Einsum" in reason


def test_normalization_embedding_activation_and_pooling_cost_nothing():
    ids = keras.Input((16,))
    x = layers.Embedding(100, 4)(ids)
    for layer in (
        layers.BatchNormalization(),
        layers.LayerNormalization(),
        layers.PReLU(),
        layers.Dropout(0.5),
    ):
        x = layer(x)
    x = layers.GlobalAveragePooling1D()(layers.add([x, x]))
    found = costs(keras.Model(ids, x))
    assert not any(found.positions.values())
    assert (found.products, found.uncounted) == ({}, {})


def test_a_shared_layer_costs_once_per_call():
    x, y = keras.Input((8, 8, 3)), keras.Input((4, 4, 3))
    conv = layers.Conv2D(4, 1, name="conv")
    assert macs_by_weight(keras.Model([x, y], [conv(x), conv(y)]))["conv", 0] == 64 + 16


def test_a_nested_model_costs_what_its_layers_cost_at_the_sizes_it_is_called_with():
    inner = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(3, 1, name="conv")], name="inner")
    middle = keras.Sequential([keras.Input((None, None, 3)), inner], name="middle")
    x = keras.Input((8, 8, 3))
    y = middle(x)
    model = keras.Model(x, middle(layers.MaxPooling2D()(y)))
    assert macs_by_weight(model) == {("middle/inner/conv", 0): 64 + 16, ("middle/inner/conv", 1): 0}


def test_an_unknown_layer_with_weights_is_listed_and_counts_0_until_a_rule_is_registered():
    class Mix(layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], 5), name="matrix")

        def call(self, x):
            return x @ self.matrix

    model = model_of(Mix(name="mix"), (8, 8, 3))
    assert macs(model) == 0
    assert "no rule for Mix" in costs(model).uncounted["mix"]
    register(Mix, MacRule({"matrix": at_outputs}))
    assert costs(model).uncounted == {}
    assert macs(model) == 8 * 8 * 3 * 5


def test_a_subclass_with_its_own_call_is_not_taken_for_its_parent():
    class Twice(layers.Dense):
        def call(self, x):
            return super().call(x) + super().call(-x)

    class Renamed(layers.Dense):
        pass

    assert set(costs(model_of(Twice(2, name="twice"), (3,))).uncounted) == {"twice"}
    assert macs(model_of(Renamed(2), (3,))) == 6


def test_a_wrapper_of_unknown_kind_is_taken_to_call_its_layer_once():
    class Scaled(layers.Wrapper):
        def call(self, x):
            return 2 * self.layer(x)

        def compute_output_shape(self, shape):
            return self.layer.compute_output_shape(shape)

    model = model_of(Scaled(layers.Dense(2, name="dense"), name="scaled"), (3,))
    assert macs_by_weight(model) == {("scaled/dense", 0): 1, ("scaled/dense", 1): 0}


def test_a_wrapper_that_calls_its_layer_in_its_own_way_leaves_it_uncounted():
    class Flattened(layers.Wrapper):
        def build(self, shape):
            self.layer.build((None, math.prod(shape[1:])))
            self.built = True

        def call(self, x):
            return self.layer(keras.ops.reshape(x, (-1, 12)))

    model = model_of(Flattened(layers.Dense(2, name="dense"), name="flat"), (4, 3))
    assert macs(model) == 0
    assert set(costs(model).uncounted) == {"flat/dense"}


def test_packed_kernels_are_listed_as_uncounted():
    layer = layers.Dense(6, name="dense")
    model = model_of(layer, (10,))
    layer.quantize("int8")
    assert macs(model) == 60
    layer = layers.Dense(6, name="dense")
    model = model_of(layer, (10,))
    layer.quantize("int4")
    assert "packed" in costs(model).uncounted["dense"]


def test_counting_leaves_the_model_as_it_was():
    shared = layers.Dense(3)
    x = keras.Input((3,))
    model = keras.Model(x, layers.TimeDistributed(shared)(layers.RepeatVector(2)(shared(x))))
    before = model.get_config()
    macs(model)
    assert model.get_config() == before


def test_positions_predict_the_macs_after_channels_are_removed():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    y = layers.DepthwiseConv2D(3, 2, name="depthwise")(y)
    y = layers.SeparableConv2D(6, 3, padding="same", name="separable")(y)
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(y)))
    keep = {"stem": np.arange(8) % 2 == 0, "separable": np.arange(6) > 1}
    small = channels.shrink(model, channels.trace(model), keep)
    sizes = {
        (layer.name, index): math.prod(weight.shape)
        for layer in small.layers
        for index, weight in enumerate(layer.weights)
    }
    predicted = sum(positions * sizes[key] for key, positions in macs_by_weight(model).items())
    assert macs(small) == predicted < macs(model)


# ------------------------------------------------------------------ sizes and errors


def test_an_open_size_asks_for_input_shape():
    model = model_of(layers.Conv2D(4, 1), (None, None, 3))
    with pytest.raises(ValueError, match=r"is open: \(None, None, 3\).*Pass input_shape"):
        macs(model)
    assert macs(model, (10, 20, 3)) == 10 * 20 * 3 * 4


def test_several_inputs_take_a_list_of_shapes():
    x, y = keras.Input((None, 3), name="x"), keras.Input((None, 3), name="y")
    model = keras.Model([x, y], [layers.Dense(2)(x), layers.Dense(5)(y)])
    assert macs(model, [(10, 3), (7, 3)]) == 10 * 3 * 2 + 7 * 3 * 5
    with pytest.raises(ValueError, match="has 2 inputs.*holds 1 shapes"):
        macs(model, (10, 3))


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8, 3), 8])
def test_an_input_shape_of_another_rank_is_refused(shape):
    with pytest.raises(ValueError, match="without batch axis"):
        macs(model_of(layers.Conv2D(4, 1), (8, 8, 3)), shape)


def test_a_size_that_the_model_cannot_run_at_is_refused():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(2, name="head")])
    with pytest.raises(ValueError, match=r"'head' does not accept.*\(1, 300\).*built for 192"):
        macs(model, (10, 10, 3))


def test_models_without_a_graph_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="subclassed"):
        macs(Own())
    with pytest.raises(ValueError, match="not built"):
        macs(keras.Sequential([layers.Dense(2)]))


def test_only_rules_for_layer_classes_can_be_registered():
    with pytest.raises(ValueError, match="Expected a layer class"):
        register("Dense", MacRule())
    with pytest.raises(ValueError, match="Expected a MacRule"):
        register(layers.Identity, {"kernel": at_outputs})


# ------------------------------------------------------------------ the numbers of the papers


@pytest.fixture(scope="module")
def mobilenet():
    return keras.applications.MobileNet(weights=None)


def test_mobilenet_costs_569_million_macs_95_percent_of_them_in_pointwise_layers(mobilenet):
    assert macs(mobilenet) == 568_740_352
    assert mobilenet.count_params() == 4_253_864
    sizes = {
        layer.name: math.prod(layer.kernel.shape)
        for layer in mobilenet.layers
        if "conv" in layer.name and hasattr(layer, "kernel")
    }
    by_layer = {path: n * sizes[path] for (path, index), n in macs_by_weight(mobilenet).items() if n}
    pointwise = sum(n for path, n in by_layer.items() if path.startswith("conv_pw"))
    assert round(100 * pointwise / macs(mobilenet), 2) == 94.86


@pytest.mark.parametrize(("size", "millions"), [(192, 418), (160, 291), (128, 186)])
def test_mobilenet_on_smaller_images_costs_what_the_paper_says(mobilenet, size, millions):
    assert round(macs(mobilenet, (size, size, 3)) / 1e6) == millions


def test_resnet50_of_keras_has_biases_and_moving_statistics_beside_the_25557032_of_others():
    model = keras.applications.ResNet50(weights=None)
    convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    biases = sum(layer.filters for layer in convolutions)
    moving = sum(math.prod(weight.shape) for weight in model.non_trainable_weights)
    assert (biases, moving) == (26_560, 53_120)
    assert model.count_params() == 25_636_712 == 25_557_032 + biases + moving
    assert macs(model) == 3_857_973_248


def test_resnext50_has_25_million_parameters_and_costs_4_point_23_billion_macs():
    model = networks.resnext50()
    assert sum(math.prod(weight.shape) for weight in model.trainable_weights) == 25_028_904
    assert round(macs(model) / 1e9, 2) == 4.23


def test_squeezenet_has_the_parameters_of_its_authors_and_v1_1_is_2_point_4_times_cheaper():
    first, second = networks.squeezenet("1.0"), networks.squeezenet("1.1")
    assert (first.count_params(), second.count_params()) == (1_248_424, 1_235_496)
    assert round(macs(first) / macs(second), 1) == 2.4


@pytest.mark.parametrize(("groups", "millions"), [(1, 143.1), (2, 140.8), (3, 137.5), (4, 134.3), (8, 138.4)])
def test_shufflenet_costs_about_140_million_macs_with_any_number_of_groups(groups, millions):
    assert round(macs(networks.shufflenet(groups)) / 1e6, 1) == millions
