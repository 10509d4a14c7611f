"""Sparsified models have equal outputs, and sparse layers where the cost model favours them."""

import dataclasses

import keras
import numpy as np
import pytest
import random_graphs
from backends import NEEDS_TENSORFLOW
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from masks import array
from small_models import MODELS
from sparse_convs import WITHOUT_WARNING, images
from surgery import found, inputs_for, outputs_of, randomize, relative_error

import tfcompress
from tfcompress import analysis, channels, densify, export, sparsify
from tfcompress.layers import MagnitudePruning, SparseConv2D
from tfcompress.ops import cost

pytestmark = [NEEDS_TENSORFLOW, WITHOUT_WARNING]

ZOO = """residual_with_projection grouped_convolutions depthwise_by_groups shared_layers nested_models
functional_inside_a_subclass time_distributed attention_over_maps channels_first open_sizes
several_inputs_and_outputs layer_called_on_its_own_output""".split()
DATA = images((4, 8, 8, 3)), np.zeros((4, 3))


@pytest.fixture
def asked(monkeypatch) -> list:
    """A cost model by which half of a kernel must be zero; and what it was asked."""
    calls = []

    def predict(shape, kernel):
        calls.append((shape, kernel.shape))
        return cost.Cost(dense_ms=1.0, sparse_ms=2 * np.mean(kernel != 0))

    monkeypatch.setattr(cost, "predict", predict)
    return calls


def thinned(model: keras.Model, seed: int = 0, sparsity: float = 0.8) -> keras.Model:
    """Random values, and as many zeros in every kernel."""
    randomize(model, seed)
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        if weight.name == "kernel" and len(weight.shape) > 1:
            weight.assign(array(weight) * (rng.random(weight.shape) >= sparsity))
    return model


def check(model: keras.Model, **options) -> keras.Model:
    """The model with sparse layers; it was not changed, has the same outputs, and leads back."""
    before = [array(weight) for weight in model.weights]
    small = sparsify(model, **options)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)
    inputs = inputs_for(model)
    expected = outputs_of(model, inputs)
    assert relative_error(expected, outputs_of(small, inputs)) <= 1e-4
    if small.sparsified.layers:
        assert relative_error(expected, outputs_of(densify(small), inputs)) <= 1e-6
    return small


def network(trained: bool = False) -> keras.Model:
    """A residual block around a nested model; `thin`, `body/inner` and `head` have many zeros."""
    body = keras.Sequential([keras.Input((8, 8, 6)), layers.Conv2D(6, 1, name="inner")], name="body")
    x = i = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="full", activation="relu")(x)
    y = layers.BatchNormalization(name="norm")(layers.Conv2D(6, 3, padding="same", name="thin")(x))
    x = layers.Add()([body(x), y])
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(i, layers.Dense(3, name="head")(x))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    if trained:
        model.fit(*DATA, verbose=0)
    rng = np.random.default_rng(0)
    for path, sparsity in {"full": 0.3, "thin": 0.8, "body/inner": 0.7, "head": 0.6}.items():
        kernel = found(model, path).kernel
        kernel.assign(array(kernel) * (rng.random(kernel.shape) >= sparsity))
    return model


@pytest.mark.parametrize(
    ("options", "replaced"),
    [
        ({}, ["thin", "body/inner", "head"]),
        ({"force": True}, ["full", "thin", "body/inner", "head"]),
        ({"include": "body/.*"}, ["body/inner"]),
        ({"force": True, "exclude": ["thin", "head"]}, ["full", "body/inner"]),
    ],
)
def test_layers_are_replaced_where_sparse_is_faster(options, replaced, asked):
    model = network()
    small = check(model, **options)
    kernels = {path: array(found(model, path).kernel) for path in replaced}
    counts = {path: (kernel.size, np.count_nonzero(kernel)) for path, kernel in kernels.items()}
    assert small.sparsified.layers == counts
    for path, (_, left) in counts.items():
        assert type(found(small, path)) is SparseConv2D and found(small, path).values.shape == (left,)
    reasons = small.sparsified.untouched
    assert set(reasons) == {"full", "thin", "body/inner", "head", "depthwise"} - set(replaced)
    assert reasons["depthwise"] in ("not a Conv2D or Dense, but DepthwiseConv2D", "excluded")


def test_cost_model_is_asked_about_every_map(asked):
    shared = layers.Conv2D(4, (3, 2), strides=(1, 2), padding="same", groups=2, name="shared")
    i, j = keras.Input((9, 8, 6)), keras.Input((5, 4, 6))
    grown = [layers.Flatten()(shared(x)) for x in (i, j)]
    tokens = layers.Dense(5, name="tokens")(i)
    model = thinned(keras.Model([i, j], [*grown, tokens, layers.Dense(2, name="head")(grown[1])]))
    sparsify(model)
    conv = cost.ConvShape(9, 8, 6, 4, (3, 2), (1, 2), (1, 1), "same", 2)
    dense = cost.ConvShape(9, 8, 6, 5, (1, 1), (1, 1), (1, 1), "valid", 1)
    assert set(asked) == {
        (conv, (3, 2, 3, 4)),
        (dataclasses.replace(conv, height=5, width=4), (3, 2, 3, 4)),
        (dense, (1, 1, 6, 5)),
        (dataclasses.replace(dense, height=1, width=1, channels=40, filters=2), (1, 1, 40, 2)),
    }


@pytest.mark.parametrize("name", ZOO)
def test_models_of_all_kinds_equal_their_sparse_copies(name):
    small = check(thinned(MODELS[name]()), force=True)
    # What cannot be replaced says why.
    reasons = ("but", "inside a wrapper", "channels_first", "no zeros")
    assert all(any(words in reason for words in reasons) for reason in small.sparsified.untouched.values())


@given(st.integers(0, 10**6))
@settings(max_examples=2)
def test_random_graphs_equal_their_sparse_copies(seed):
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    check(thinned(random_graphs.build(seed), seed), force=True)


def test_sequential_model_stays_one(asked):
    body = [
        keras.Input((8, 8, 3)),
        layers.Conv2D(4, 3, name="conv"),
        layers.Flatten(),
        layers.Dense(2, name="head"),
    ]
    small = check(thinned(keras.Sequential(body)))
    assert isinstance(small, keras.Sequential) and isinstance(densify(small), keras.Sequential)
    assert list(small.sparsified.layers) == ["conv", "head"]


def test_compile_state_and_slots_of_other_layers_are_kept():
    model = network(trained=True)
    small = sparsify(model, include="thin", force=True)
    assert small.metrics_names == model.metrics_names
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations) == 1
    values = {v.path.split("/", 1)[-1]: array(v) for v in small.optimizer.variables}
    kept = [v for v in model.optimizer.variables if "full_kernel" in v.path]
    assert kept and all((array(v) == values[v.path.split("/", 1)[-1]]).all() for v in kept)
    small.fit(*DATA, verbose=0)


def test_sparse_model_is_trained_saved_and_led_back(tmp_path):
    small = sparsify(network(), force=True)
    before = small.evaluate(*DATA, verbose=0)[0]
    assert small.fit(*DATA, epochs=4, verbose=0).history["loss"][-1] < before
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(array(loaded(DATA[0])), array(small(DATA[0])))
    dense = densify(loaded)
    assert type(found(dense, "body/inner")) is layers.Conv2D and type(found(dense, "head")) is layers.Dense
    assert all(np.mean(array(found(dense, path).kernel) == 0) > 0.5 for path in ("thin", "body/inner"))


def test_sparse_model_is_exported_to_tflite_and_as_a_saved_model(tmp_path):
    small = sparsify(network(), force=True)
    report = export.tflite(small, tmp_path / "small.tflite", data=DATA[0])
    assert report.float32_bytes == 4 * network().count_params() and report.relative_error < 1e-5
    assert export.saved_model(small, tmp_path / "small", data=DATA[0]).relative_error < 1e-5


def test_multiplications_are_those_of_the_weights_that_are_left():
    model = network()
    small = sparsify(model, include="thin", force=True)
    before, after = small.sparsified.layers["thin"]
    assert analysis.macs(model) - analysis.macs(small) == 8 * 8 * (before - after)


def test_channels_of_a_sparse_layer_stay():
    graph = channels.trace(sparsify(network(), include="thin", force=True))
    locked = {name: group.locked for group in graph.groups for name in group.layers}
    assert locked["full"] == locked["body/inner"] == "'thin' is sparse; remove channels before sparsify()"


def test_open_sizes_stay_dense_unless_a_size_is_given(asked):
    x = keras.Input((None, None, 3))
    model = thinned(keras.Model(x, layers.Conv2D(4, 3, name="conv")(x)))
    small = check(model)
    assert "size of its input is open: give input_shape" in small.sparsified.untouched["conv"]
    assert not asked
    assert list(check(model, input_shape=(12, 12, 3)).sparsified.layers) == ["conv"]
    assert list(check(model, force=True).sparsified.layers) == ["conv"]


def test_cost_model_of_this_machine_decides_on_every_layer():
    small = sparsify(network())
    assert len(small.sparsified.layers) + len(small.sparsified.untouched) == 5


def test_nothing_is_replaced_where_no_time_can_be_predicted(monkeypatch):
    def predict(shape, kernel):
        raise RuntimeError("The native core was not built.")

    monkeypatch.setattr(cost, "predict", predict)
    small = check(network())
    assert not small.sparsified.layers
    assert small.sparsified.untouched["thin"] == "The native core was not built."


def test_report_is_a_table(asked):
    table = str(sparsify(network()).sparsified)
    assert "Sparse kernels" in table and "thin" in table and "full: 1.4" in table


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda conv: conv.kernel.assign(np.full(conv.kernel.shape, np.nan)), "infinite or not a number"),
        (lambda conv: conv.kernel.assign(np.ones(conv.kernel.shape)), "it has no zeros"),
    ],
)
def test_unsuited_layer_is_left_alone_with_the_reason(spoil, reason):
    model = network()
    spoil(model.get_layer("thin"))
    small = sparsify(model, force=True)
    assert reason in small.sparsified.untouched["thin"]
    assert type(small.get_layer("thin")) is layers.Conv2D


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: tfcompress.wrap(network(), MagnitudePruning(0.5)), {}, "'full' is masked.*strip\\(model\\)"),
        (lambda: keras.Sequential([layers.Dense(2)]), {}, "is not built"),
        (network, {"include": "thinn"}, "Did you mean 'thin'"),
        (network, {"input_shape": (9, 9)}, "has the shape \\(8, 8, 3\\) without batch axis"),
    ],
)
def test_models_that_do_not_fit_are_refused(make, options, message, asked):
    with pytest.raises(ValueError, match=message):
        sparsify(make(), **options)
