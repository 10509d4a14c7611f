"""Masks for whole models: what is wrapped, what is kept, and the stock model that `strip` gives back."""

import copy

import keras
import numpy as np
import pytest
from backends import NEEDS_TENSORFLOW
from keras import layers
from masks import (
    array,
    arrays,
    assert_equal,
    assign_random_masks,
    counting,
    data,
    fit,
    network,
    optimizer_state,
    run_python,
    subclassed,
)

from tfcompress import _calls, export, schedules
from tfcompress.callbacks import UpdateMasks
from tfcompress.layers import (
    DynamicNetworkSurgery,
    MagnitudePruning,
    MaskedLayer,
    constrain,
    masked_weights,
    strip,
    wrap,
)

HALF = MagnitudePruning(0.5)


def sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6, 4)),
            layers.Conv1D(3, 2, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
            layers.Dense(2, name="head"),
        ],
        name="chain",
    )


def branched() -> keras.Model:
    """Two inputs, two outputs in a dict, an operation that is no layer."""
    a, b = keras.Input((6, 4), name="a"), keras.Input((5,), name="b")
    x = layers.GlobalAveragePooling1D(name="mean")(layers.Conv1D(3, 2, name="conv")(a))
    y = layers.Dense(3, name="dense")(b)
    return keras.Model({"a": a, "b": b}, {"sum": x + y, "head": layers.Dense(2, name="head")(x * y)})


def nested() -> keras.Model:
    """A functional model that is called twice, with a Sequential one inside."""
    x = keras.Input((4,), name="inner_input")
    chain = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="up")], name="chain")
    body = keras.Model(x, chain(layers.Dense(3, activation="relu", name="down")(x)), name="body")
    x = i = keras.Input((4,), name="outer_input")
    return keras.Model(i, layers.Dense(2, name="head")(body(body(x))))


def shared() -> keras.Model:
    twice = layers.Dense(4, activation="relu", name="twice")
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2, name="head")(twice(twice(x))))


def in_wrappers() -> keras.Model:
    x = i = keras.Input((5, 4))
    x = layers.TimeDistributed(layers.Dense(3, name="inner"), name="steps")(x)
    return keras.Model(i, layers.Bidirectional(layers.LSTM(2, name="cell"), name="both")(x))


def with_padding() -> keras.Model:
    """The embedding tells the layers behind it which words to pass over."""
    x = i = keras.Input((5,), dtype="int32")
    x = layers.Embedding(5, 4, mask_zero=True, name="words")(x)
    return keras.Model(i, layers.Dense(2, name="head")(layers.GRU(3, name="recurrent")(x)))


def attending() -> keras.Model:
    x = i = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, value=x, key=x)
    return keras.Model(i, layers.LayerNormalization(name="norm")(x))


MODELS = {  # paths of layers that are masked -> how many kernels each has; those left alone -> their class
    sequential: ({"conv": 1, "head": 1}, {"norm": "BatchNormalization", "flat": "Flatten"}),
    branched: ({"conv": 1, "dense": 1, "head": 1}, {"mean": "GlobalAveragePooling1D"}),
    nested: ({"body/down": 1, "body/chain/up": 1, "head": 1}, {}),
    shared: ({"twice": 1, "head": 1}, {}),
    in_wrappers: ({"steps": 1, "both": 4}, {}),
    with_padding: ({"words": 1, "recurrent": 2, "head": 1}, {}),
    attending: ({"attention": 4}, {"norm": "LayerNormalization"}),
}
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)


def inputs_for(model: keras.Model):
    rng = np.random.default_rng(0)

    def random(tensor):
        shape = (3, *tensor.shape[1:])
        whole = tensor.dtype.startswith("int")
        return rng.integers(0, 5, shape) if whole else rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(random, _calls.input_of(model))


def outputs(model: keras.Model) -> list[np.ndarray]:
    return [array(y) for y in keras.tree.flatten(model(inputs_for(model)))]


def layers_in(model: keras.Model) -> dict[str, str]:
    """Path -> class, of all layers and operations."""
    return {path: type(operation).__name__ for path, operation in _calls.walk(model)}


def names_of(weights: list[keras.Variable]) -> list[str]:
    """As `layer/kernel`; in a Sequential model a path begins with the model unless layers came built."""
    return ["/".join(weight.path.split("/")[-2:]) for weight in weights]


def by_hand(layer: keras.Layer) -> keras.Layer:
    return MaskedLayer(layer)


# --- whole models ---------------------------------------------------------------------------------------


@every_model
def test_layers_with_kernels_are_masked_and_the_others_are_named_with_the_reason(make):
    model, (expected, others) = make(), MODELS[make]
    wrapped = wrap(model, HALF)
    kinds = {path: op for path, op in _calls.walk(wrapped) if isinstance(op, MaskedLayer)}
    assert {path: len(layer.masked) for path, layer in kinds.items()} == expected
    assert len(masked_weights(wrapped)) == sum(expected.values())
    inputs = {path: "InputLayer" for path in wrapped.left_alone if "input" in path or path in "ab"}
    reasons = {path: f"{kind} has no kernel" for path, kind in {**inputs, **others}.items()}
    assert wrapped.left_alone == reasons


@every_model
def test_copy_has_the_names_and_outputs_of_the_model(make):
    model = make()
    wrapped = wrap(model, HALF)
    assert wrapped.name == model.name
    assert [layer.name for layer in wrapped.layers] == [layer.name for layer in model.layers]
    assert names_of(wrapped.trainable_variables) == names_of(model.trainable_variables)
    assert_equal(outputs(model), outputs(wrapped))


@every_model
def test_model_itself_is_left_as_it_was(make):
    model = make()
    before, config, kinds, result = arrays(model), model.get_config(), layers_in(model), outputs(model)
    wrapped = wrap(model, HALF)
    assign_random_masks(wrapped)
    for weight in wrapped.trainable_variables:
        weight.assign(array(weight) + 1)
    assert model.get_config() == config and layers_in(model) == kinds and masked_weights(model) == []
    assert_equal(before, arrays(model))
    assert_equal(result, outputs(model))


@every_model
def test_stripped_model_has_the_layers_of_the_model_and_the_outputs_of_the_wrapped_one(make):
    model = make()
    wrapped = wrap(model, HALF)
    assign_random_masks(wrapped)
    before = arrays(wrapped)
    stripped = strip(wrapped)
    assert stripped.name == model.name and layers_in(stripped) == layers_in(model)
    assert type(stripped) is type(model) and masked_weights(stripped) == []
    assert_equal(outputs(wrapped), outputs(stripped))
    assert_equal(counting(wrapped), [array(weight) for weight in stripped.trainable_variables])
    assert any((a != b).any() for a, b in zip(outputs(model), outputs(stripped), strict=True))
    assert_equal(before, arrays(wrapped))


@pytest.mark.parametrize("make", [nested, in_wrappers])
def test_stripped_model_runs_where_tfcompress_cannot_be_imported(make, tmp_path):
    wrapped = wrap(make(), HALF)
    assign_random_masks(wrapped)
    strip(wrapped).save(tmp_path / "model.keras")
    np.save(tmp_path / "inputs.npy", inputs_for(wrapped))
    np.save(tmp_path / "outputs.npy", outputs(wrapped)[0])
    run_python(WITHOUT_TFCOMPRESS, tmp_path)


WITHOUT_TFCOMPRESS = """
import sys

class Blocker:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "tfcompress":
            raise ImportError(name)

sys.meta_path.insert(0, Blocker)
import keras, numpy as np

try:
    import tfcompress
except ImportError:
    model = keras.saving.load_model("model.keras")
    got = keras.ops.convert_to_numpy(model(np.load("inputs.npy")))
    np.testing.assert_allclose(got, np.load("outputs.npy"), rtol=1e-6, atol=1e-6)
else:
    raise AssertionError("tfcompress was imported")
"""


def test_shared_layer_has_one_mask_for_all_its_calls():
    model = shared()
    wrapped = wrap(model, HALF, include="twice")
    (masked,) = masked_weights(wrapped)
    masked.mask.assign(np.eye(4, dtype=bool))
    kernel, bias = (array(weight) for weight in model.get_layer("twice").weights)
    diagonal, x = np.diag(kernel), inputs_for(model)
    once = np.maximum(x * diagonal + bias, 0)
    expected = np.maximum(once * diagonal + bias, 0) @ array(model.get_layer("head").kernel)
    np.testing.assert_allclose(outputs(wrapped)[0], expected, rtol=1e-5, atol=1e-6)


# --- which layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (network, {"include": "head"}, ["head"]),
        (network, {"include": ["first", "h.*d"]}, ["first", "head"]),
        (network, {"exclude": "first"}, ["second", "head"]),
        (network, {"include": ".*", "exclude": "(norm|relu|drop|flat|input).*"}, ["first", "second", "head"]),
        (network, {"include": "(first|second)", "exclude": ["first"]}, ["second"]),
        (nested, {"include": "body/.*", "exclude": ".*input.*"}, ["down", "up"]),
        (nested, {"exclude": "body/chain/up"}, ["down", "head"]),
        (in_wrappers, {"exclude": "both"}, ["inner"]),
    ],
)
def test_layers_are_chosen_by_path_or_regular_expression(make, options, expected):
    wrapped = wrap(make(), HALF, **options)
    assert {m.path.split("/")[-2] for m in masked_weights(wrapped)} == set(expected)


def test_layers_that_were_not_chosen_are_named_too():
    wrapped = wrap(sequential(), HALF, include="head")
    assert wrapped.left_alone["conv"] == "not chosen"
    assert wrapped.left_alone["norm"] == "BatchNormalization has no kernel"
    again = wrap(wrapped, HALF)
    assert again.left_alone["head"] == "masked already" and "conv" not in again.left_alone


def test_layers_get_different_rules_by_wrapping_several_times():
    rules = {"first": HALF, "second": DynamicNetworkSurgery(), "head": MagnitudePruning(0.9)}
    model = network()
    for name, rule in rules.items():
        model = wrap(model, rule, include=name)
    masked = masked_weights(model)
    assert [(m.path, m.rule) for m in masked] == [(f"{name}/kernel", rule) for name, rule in rules.items()]
    assert [set(m.memory) for m in masked] == [set(), {"centre"}, set()]


def test_masks_and_memories_are_kept_when_other_layers_are_wrapped():
    once = wrap(network(), DynamicNetworkSurgery(), include="first")
    assign_random_masks(once)
    once.get_layer("first").masked[0].memory["centre"].assign(0.25)
    twice = wrap(once, HALF)
    kept = {m.path: m.kept for m in masked_weights(twice)}
    np.testing.assert_array_equal(kept["first/kernel"], masked_weights(once)[0].kept)
    assert kept["second/kernel"].all() and kept["head/kernel"].all()
    assert float(array(twice.get_layer("first").masked[0].memory["centre"])) == 0.25


def test_function_may_wrap_each_layer_in_its_own_way():
    def wrapper(layer):
        return layer if layer.name == "head" else MaskedLayer(layer, MagnitudePruning(0.1 * layer.filters))

    masked = masked_weights(wrap(network(), wrapper))
    assert [(m.path, m.rule.sparsity) for m in masked] == [("first/kernel", 0.8), ("second/kernel", 0.8)]


# --- the state of training ------------------------------------------------------------------------------


def adamw(**settings) -> keras.optimizers.Optimizer:
    return keras.optimizers.AdamW(0.01, **settings)


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adamw": adamw,
    "averaged": lambda: adamw(use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=4),
    "in_the_middle_of_a_step": lambda: adamw(gradient_accumulation_steps=4),
    "scaled_loss": lambda: keras.optimizers.LossScaleOptimizer(adamw(), initial_scale=4.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_wrapped_and_stripped_models_train_on_as_if_nothing_had_happened(name):
    if name == "averaged" and keras.backend.backend() == "jax":
        pytest.skip("under JAX, Keras 3.15 cannot train averaged weights a second time, wrapped or not")
    model = network(OPTIMIZERS[name](), metrics=["accuracy"])
    fit(model)
    wrapped = wrap(model, by_hand)
    stripped = strip(wrapped)
    assert_equal(optimizer_state(model), optimizer_state(wrapped))
    assert_equal(optimizer_state(model), optimizer_state(stripped))
    history = fit(model, epochs=2).history
    for copied in (wrapped, stripped):
        assert fit(copied, epochs=2).history.keys() == {"loss", "accuracy"}
        for a, b in zip(model.trainable_variables, copied.trainable_variables, strict=True):
            np.testing.assert_allclose(array(b), array(a), rtol=0, atol=1e-6)
        for key, values in copied.history.history.items():
            np.testing.assert_allclose(values, history[key], rtol=1e-5)


class Block(layers.Layer):
    """Holds what changes or counts while a layer is called: statistics, a seed and a loss."""

    def __init__(self, **kwargs):
        super().__init__(activity_regularizer="l2", **kwargs)
        self.dense, self.dropout = layers.Dense(4), layers.Dropout(0.5, seed=1)
        self.norm = layers.BatchNormalization(momentum=0.5)

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.norm.build((*input_shape[:-1], 4))

    def call(self, x, training=False):
        x = self.norm(self.dropout(self.dense(x), training=training), training=training)
        self.add_loss(keras.ops.mean(x))
        return x

    def get_config(self):
        return {"name": self.name}


def test_state_and_losses_of_wrapped_layers_go_on_too():
    x = keras.Input((6,))
    model = keras.Model(x, layers.Dense(1)(Block(name="block")(x)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    wrapped = wrap(model, by_hand)
    rng = np.random.default_rng(0)
    examples = rng.normal(size=(32, 6)), rng.normal(size=(32, 1))
    before = [array(variable) for variable in model.get_layer("block").non_trainable_variables]
    first, second = (m.fit(*examples, epochs=2, shuffle=False, verbose=0).history for m in (model, wrapped))
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=1e-6)
    blocks = model.get_layer("block"), wrapped.get_layer("block").layer
    state = [[array(variable) for variable in block.variables] for block in blocks]
    for a, b in zip(*state, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    after = [array(variable) for variable in blocks[1].non_trainable_variables]
    assert len(before) == 3 and all((a != b).any() for a, b in zip(before, after, strict=True))


def test_copies_are_compiled_as_the_model_was():
    model = network(adamw(), metrics=["accuracy"], jit_compile=True, steps_per_execution=2)
    for copied in (wrap(model, by_hand), strip(wrap(model, by_hand))):
        assert copied.jit_compile is True and copied.steps_per_execution == 2
        assert copied.optimizer.get_config() == model.optimizer.get_config()
        assert copied.get_compile_config() == model.get_compile_config()
    bare = nested()
    assert not wrap(bare, by_hand).compiled and not strip(wrap(bare, by_hand)).compiled


def test_copies_compute_as_the_model_does_whatever_the_policy_is_by_now():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy(before)
    fit(model)
    wrapped = wrap(model, by_hand)
    for copied in (wrapped, strip(wrapped)):
        assert_equal(optimizer_state(model), optimizer_state(copied))
        assert copied.get_layer("first").compute_dtype == "float16"
        np.testing.assert_array_equal(array(copied(data()[0])), array(model(data()[0])))


def test_layers_that_are_not_trained_stay_so():
    model = nested()
    model.get_layer("body").get_layer("down").trainable = False
    model.get_layer("head").trainable = False
    wrapped = wrap(model, by_hand)
    for copied in (wrapped, strip(wrapped)):
        assert names_of(copied.trainable_variables) == names_of(model.trainable_variables)
        assert not copied.get_layer("head").trainable and copied.get_layer("body").trainable
    assert wrapped.trainable and len(masked_weights(wrapped)) == 3


def test_model_that_is_not_trained_at_all_stays_so():
    model = nested()
    model.trainable = False
    wrapped = wrap(model, by_hand)
    assert wrapped.trainable_variables == [] and strip(wrapped).trainable_variables == []


# --- files ----------------------------------------------------------------------------------------------

RULES = {
    "magnitude": MagnitudePruning(schedules.Polynomial(0.25, 0.75, end_step=5, frequency=2)),
    "surgery": DynamicNetworkSurgery(sparsity=0.6),
}


@pytest.mark.parametrize("rule", RULES)
def test_saved_model_trains_on_as_the_one_that_was_saved(rule, tmp_path):
    model = wrap(network(adamw(), dropout=0), RULES[rule])
    fit(model, UpdateMasks())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for trained in (model, loaded):
        fit(trained, UpdateMasks())
    assert_equal(arrays(model), arrays(loaded))
    assert_equal(optimizer_state(model), optimizer_state(loaded))
    assert 0.2 < np.mean([(~m.kept).mean() for m in masked_weights(loaded)]) < 0.8


@pytest.mark.parametrize("rule", RULES)
def test_weights_file_keeps_weights_masks_and_memories(rule, tmp_path):
    model, other = (wrap(network(), RULES[rule]) for _ in range(2))
    fit(model, UpdateMasks())
    assign_random_masks(model)
    fit(other, UpdateMasks(), epochs=2)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert_equal([array(w) for w in model.weights], [array(w) for w in other.weights])
    assert_equal(optimizer_state(model), optimizer_state(other))
    np.testing.assert_array_equal(array(model(data()[0])), array(other(data()[0])))


def test_deepcopy_keeps_masks_and_a_clone_begins_with_fresh_ones():
    model = wrap(network(), HALF)
    assign_random_masks(model)
    assert_equal(counting(model), counting(copy.deepcopy(model)))
    cloned = keras.models.clone_model(model)
    assert [m.rule for m in masked_weights(cloned)] == [HALF] * 3
    assert all(m.kept.all() for m in masked_weights(cloned))


def twins() -> keras.Model:
    """Two layers that only their place tells apart."""
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(4)(layers.Dense(4)(x)))


def twin_names(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers[1:]]


def masked_at(place: int) -> keras.Model:
    model = twins()
    return wrap(model, HALF, include=twin_names(model)[place])


OTHER_MASKS = {  # what is saved, into what it is loaded
    "not_wrapped": (network, lambda: wrap(network(), HALF)),
    "other_layers": (lambda: wrap(network(), HALF, exclude="first"), lambda: wrap(network(), HALF)),
    "other_rule": (
        lambda: wrap(network(), DynamicNetworkSurgery()),
        lambda: wrap(network(), MagnitudePruning(0.5)),
    ),
    "rule_with_memory": (lambda: wrap(network(), HALF), lambda: wrap(network(), DynamicNetworkSurgery())),
    "other_place": (lambda: masked_at(0), lambda: masked_at(1)),
}


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras, before it raises
@pytest.mark.parametrize("name", OTHER_MASKS)
def test_weights_saved_under_other_masks_are_refused_and_masks_stay(name, tmp_path):
    saved, model = (make() for make in OTHER_MASKS[name])
    assign_random_masks(saved, seed=1)
    assign_random_masks(model, seed=2)
    saved.save_weights(tmp_path / "model.weights.h5")
    before = [masked.kept for masked in masked_weights(model)]
    with pytest.raises(ValueError, match="saved from a model that is not wrapped, or wrapped in another way"):
        model.load_weights(tmp_path / "model.weights.h5")
    assert_equal(before, [masked.kept for masked in masked_weights(model)])


def test_place_survives_saving_and_weights_are_loaded_into_the_same_place(tmp_path):
    saved, model = masked_at(1), masked_at(1)
    saved.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
    assert_equal([array(w) for w in saved.weights], [array(w) for w in model.weights])


@NEEDS_TENSORFLOW
@pytest.mark.parametrize(("write", "file"), [(export.saved_model, "model"), (export.tflite, "model.tflite")])
def test_wrapped_and_stripped_models_are_exported_with_equal_outputs(write, file, tmp_path):
    wrapped, x = wrap(network(), HALF), data(8)[0]
    assign_random_masks(wrapped, sparsity=0.2)  # with more zeros, TFLite files are written in two encodings
    stripped = strip(wrapped)
    np.testing.assert_array_equal(array(wrapped(x)), array(stripped(x)))
    for model in (wrapped, stripped):  # each is compared with what Keras says
        assert write(model, tmp_path / file, data=x).relative_error < 1e-5


# --- layers of layers -----------------------------------------------------------------------------------


def test_masked_layer_may_be_built_inside_another_layer():
    x = keras.Input((5, 4))
    model = keras.Model(x, layers.TimeDistributed(MaskedLayer(layers.Dense(3)), name="steps")(x))
    (masked,) = masked_weights(model)
    assert masked.kept.shape == (4, 3)
    masked.mask.assign(np.zeros((4, 3), bool))
    np.testing.assert_array_equal(outputs(model)[0], np.zeros((3, 5, 3)))


def test_masks_inside_another_layer_are_not_put_on_twice_and_not_stripped_by_halves():
    x = keras.Input((5, 4))
    y = layers.TimeDistributed(MaskedLayer(layers.Dense(3)), name="steps")(x)
    model = keras.Model(x, layers.Dense(2, name="head")(y))
    wrapped = wrap(model, HALF)
    assert wrapped.left_alone["steps"] == "masked already" and len(masked_weights(wrapped)) == 2
    with pytest.raises(ValueError, match="'steps/.*kernel' is held by another layer"):
        strip(wrapped)


def test_padding_is_passed_over_under_masks_too():
    wrapped = wrap(with_padding(), HALF)
    assign_random_masks(wrapped)
    words = np.array([[1, 2, 3, 0, 0], [1, 2, 3, 4, 4]])
    padded, full = array(wrapped(words))
    kernel, bias = (array(weight) for weight in strip(wrapped).get_layer("head").weights)
    recurrent = strip(wrapped).get_layer("recurrent")
    embedded = array(strip(wrapped).get_layer("words").embeddings)[words[:1, :3]]
    np.testing.assert_allclose(padded, (array(recurrent(embedded)) @ kernel + bias)[0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(padded, full)


# --- refusals -------------------------------------------------------------------------------------------


def unbuilt() -> keras.Model:
    return keras.Sequential([layers.Dense(2)])


def test_a_dict_gives_layers_rules_of_their_own():
    quarter = MagnitudePruning(0.25)
    wrapped = wrap(nested(), {"head": HALF, "body/.*down": by_hand, "body/.*": quarter, ".*": HALF})
    rules = {path: op.rule for path, op in _calls.walk(wrapped) if isinstance(op, MaskedLayer)}
    assert rules == {"head": HALF, "body/down": None, "body/chain/up": quarter}  # the first match counts


def test_what_a_dict_does_not_name_stays_as_it_is():
    model = network()
    wrapped = wrap(model, {"second": HALF, "head": MagnitudePruning(0.75)})
    assert [
        type(layer).__name__ for layer in wrapped.layers if layer.name in ("first", "second", "head")
    ] == [
        "Conv2D",
        "MaskedLayer",
        "MaskedLayer",
    ]
    assert wrapped.left_alone["first"] == "not chosen"
    assert [layer.name for layer in wrap(model, {".*": HALF}, exclude="head").layers] == [
        layer.name for layer in model.layers
    ]
    wrapped.fit(*data(), epochs=1, verbose=0, callbacks=[UpdateMasks()])
    for masked, share in zip(masked_weights(wrapped), (0.5, 0.75), strict=True):
        assert (~masked.kept).mean() == share


def without_kernels() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), layers.BatchNormalization(name="norm")])


def wrapped_once() -> keras.Model:
    return wrap(sequential(), HALF)


@pytest.mark.parametrize(
    ("make", "wrapper", "options", "message"),
    [
        (subclassed, HALF, {}, "is a subclassed model"),
        (unbuilt, HALF, {}, "is not built"),
        (lambda: layers.Dense(2), HALF, {}, "Expected a keras.Model"),
        (sequential, 0.5, {}, "Expected a rule .* got 0.5"),
        (sequential, MagnitudePruning, {}, "Expected a rule .* got <class"),
        (sequential, MaskedLayer, {}, "Expected a rule .* got <class"),
        (sequential, HALF, {"include": "haed"}, "Did you mean 'head'"),
        (sequential, HALF, {"exclude": "haed"}, "Did you mean 'head'"),
        (sequential, HALF, {"include": "norm"}, "'norm' cannot be masked: BatchNormalization has no kernel"),
        (without_kernels, HALF, {}, "No layer of .* is left to mask: .*BatchNormalization has no kernel"),
        (sequential, HALF, {"exclude": ["conv", "head"]}, "is left to mask"),
        (sequential, {}, {}, "Expected a rule .* got {}"),
        (sequential, {"head": 0.5}, {}, "Expected a rule .* got 0.5"),
        (sequential, {"haed": HALF}, {}, "Did you mean 'head'"),
        (sequential, {0: HALF}, {}, "Expected a layer name"),
        (sequential, {"norm": HALF, "head": HALF}, {}, "'norm' cannot be masked: BatchNormalization has no"),
        (sequential, {"n.*": HALF}, {}, r"is left to mask: none of \['norm'\]"),
        (sequential, {"head": HALF}, {"exclude": "head"}, r"is left to mask: none of \['head'\]"),
        (sequential, {"head": MagnitudePruning(0.5, block=(3, 1))}, {}, "do not divide 'head'"),
        (wrapped_once, HALF, {}, "No layer of 'chain' is left to mask: .*'conv': 'masked already'"),
        (wrapped_once, HALF, {"include": "head"}, "'head' cannot be masked: masked already"),
        (wrapped_once, by_hand, {}, "is left to mask"),
        (sequential, MagnitudePruning(0.5, block=(3, 1)), {}, r"Blocks of \(3, 1\) .*do not divide 'head'"),
        (sequential, MagnitudePruning(n_of_m=(2, 4)), {}, "multiples of 4, 'head' has 15"),
    ],
    ids=[
        "subclassed",
        "unbuilt",
        "layer",
        "number",
        "class_of_a_rule",
        "class_of_a_wrapper",
        "misspelt_include",
        "misspelt_exclude",
        "layer_without_a_kernel",
        "model_without_kernels",
        "all_excluded",
        "no_rules",
        "number_in_a_dict",
        "misspelt_key",
        "key_that_is_no_name",
        "key_without_a_kernel",
        "keys_without_a_kernel",
        "key_excluded",
        "blocks_in_a_dict",
        "twice",
        "layer_twice",
        "twice_by_hand",
        "blocks",
        "n_of_m",
    ],
)
def test_what_cannot_be_wrapped_is_refused_and_left_as_it_was(make, wrapper, options, message):
    model = make()
    before = [array(weight) for weight in model.weights]
    with pytest.raises(ValueError, match=message):
        wrap(model, wrapper, **options)
    assert_equal(before, [array(weight) for weight in model.weights])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: MaskedLayer(layers.Dense(2, name="head")), "'head' is masked already"),
        (lambda: wrapped_once().get_layer("head").layer, "'head' is masked already"),
        (lambda: "dense", "Expected a keras layer, got 'dense'"),
    ],
    ids=["masked_layer", "layer_inside", "string"],
)
def test_layer_is_masked_once(layer, message):
    with pytest.raises(ValueError, match=message):
        MaskedLayer(layer())


def test_layer_without_a_kernel_is_refused_when_it_is_built():
    with pytest.raises(ValueError, match=r"'relu' \(ReLU\) has no kernel to mask"):
        MaskedLayer(layers.ReLU(name="relu"))(keras.Input((4,)))


@pytest.mark.parametrize("wrong", [0.5, MagnitudePruning, "magnitude"])
def test_rule_of_a_layer_must_be_one(wrong):
    with pytest.raises(ValueError, match="Expected a mask rule"):
        MaskedLayer(layers.Dense(2), wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (sequential, "has no masked or shared layers"),
        (
            lambda: strip(wrap(sequential(), by_hand)),
            "'chain' has no masked or shared layers, so there is nothing",
        ),
        (subclassed, "is a subclassed model"),
        (unbuilt, "is not built"),
    ],
    ids=["plain", "twice", "subclassed", "unbuilt"],
)
def test_what_has_no_masks_is_not_stripped(make, message):
    with pytest.raises(ValueError, match=message):
        strip(make())


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (sequential, lambda model: model.get_layer("head")),
        (sequential, lambda model: model.get_layer("head").layer),
        (in_wrappers, lambda model: model.get_layer("steps").layer.layer),
        (attending, lambda model: model.get_layer("attention").layer.query_dense),
    ],
    ids=["wrapper", "layer", "in_a_wrapper", "in_attention"],
)
@pytest.mark.parametrize(("method", "argument"), [("quantize", "int8"), ("enable_lora", 1)])
def test_layer_is_neither_quantized_nor_adapted_under_a_mask(make, layer, method, argument):
    wrapped = wrap(make(), HALF)
    assign_random_masks(wrapped)
    before, result = arrays(wrapped), outputs(wrapped)
    with pytest.raises(ValueError, match=rf"{method}\(\) would replace the kernel .*tfcompress\.strip"):
        getattr(layer(wrapped), method)(argument)
    assert_equal(before, arrays(wrapped))
    assert_equal(result, outputs(wrapped))


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize")
@pytest.mark.parametrize("make", [sequential, in_wrappers, attending])
@pytest.mark.parametrize("reload", [False, True])
def test_model_is_quantized_after_it_is_stripped_and_not_before(make, reload, tmp_path):
    wrapped = wrap(make(), HALF)
    assign_random_masks(wrapped)
    if reload:
        wrapped.save(tmp_path / "model.keras")
        wrapped = keras.saving.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"quantize\(\) would replace"):
        wrapped.quantize("int8")
    assert len(masked_weights(wrapped)) == sum(MODELS[make][0].values())
    stripped = strip(wrapped)
    stripped.quantize("int8")
    modes = {getattr(op, "quantization_mode", None) for _, op in _calls.walk(stripped)}
    assert "int8" in modes or make is attending


# --- what would go unnoticed ----------------------------------------------------------------------------


def test_stripping_masks_that_were_never_made_warns():
    with pytest.warns(UserWarning, match=r"hides anything.*UpdateMasks\(\)"):
        strip(wrap(sequential(), HALF))


class Counting(keras.Model):
    """Trains in a way of its own, and has the constructor of keras.Model."""

    def train_step(self, *args):
        self.steps = getattr(self, "steps", 0) + 1
        return super().train_step(*args)


class Fixed(Counting):
    """The same with a constructor of its own."""

    def __init__(self, width):
        x = keras.Input((4,))
        super().__init__(x, layers.Dense(width)(x))
        self.width = width


def test_copies_train_as_the_class_of_the_model_does():
    x = keras.Input((4,))
    model = Counting(x, layers.Dense(2)(x), name="counting")
    for copied in (wrap(model, HALF), strip(wrap(model, by_hand))):
        copied.compile("sgd", "mse", run_eagerly=True)
        copied.fit(np.ones((8, 4)), np.ones((8, 2)), batch_size=4, verbose=0)
        assert type(copied) is Counting and copied.steps == 2 and copied.name == "counting"


def test_copy_of_a_class_that_cannot_be_made_again_says_what_it_lost():
    with pytest.warns(UserWarning, match=r"without the train_step\(\) of Fixed"):
        assert not isinstance(wrap(Fixed(2), HALF), Fixed)


@pytest.mark.parametrize("put_on", [lambda m: wrap(m, HALF, include="head"), lambda m: constrain(m, HALF)])
def test_kernels_with_adapters_are_not_masked(put_on):
    model = sequential()
    model.get_layer("head").enable_lora(2)
    with pytest.raises(ValueError, match="LoRA adapters, which no mask hides"):
        put_on(model)


class Holding(layers.Layer):
    """Holds layers whose kernels have layouts of their own."""

    def build(self, shape):
        self.attention, self.up = layers.MultiHeadAttention(2, 3), layers.Conv1DTranspose(4, 2, name="up")
        self.attention.build(shape, shape)
        self.up.build(shape)

    def call(self, x):
        return self.up(self.attention(x, x))


def test_kernels_inside_a_layer_of_the_users_have_the_layouts_of_their_layers():
    x = keras.Input((5, 4))
    wrapped = wrap(keras.Model(x, Holding()(x)), MagnitudePruning(n_of_m=(1, 2)))
    found = {masked.path.split("/")[-2]: masked for masked in masked_weights(wrapped)}
    assert set(found) == {"query", "key", "value", "attention_output", "up"}
    assert found["query"].layout.channels == (0,) and found["up"].layout.channels == (-1,)
    mask = found["query"].rule.update([found["query"]], 0)[0]
    assert (mask.reshape(2, 2, 6).sum(axis=1) == 1).all()
