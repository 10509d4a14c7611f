"""What a shrunk model carries over, and what the door refuses."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from small_models import MODELS
from surgery import check_exact, inputs_for, outputs_of, random_masks, randomize, relative_error

from tfcompress import channels
from tfcompress.layers import ChannelShuffle


def classifier() -> keras.Model:
    x = i = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, name="first", kernel_regularizer=keras.regularizers.L2(1e-3))(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(6, 3, name="second", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(i, layers.Dense(4, name="head")(x), name="classifier"))


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(16, 8, 8, 3)).astype("float32"), rng.integers(0, 4, 16)


def halved(model: keras.Model) -> tuple[channels.ChannelGraph, dict, keras.Model]:
    graph = channels.trace(model)
    keep = random_masks(graph)
    return graph, keep, channels.shrink(model, graph, keep)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01),
    "averaged": lambda: keras.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.9),
    "accumulating": lambda: keras.optimizers.SGD(0.05, momentum=0.9, gradient_accumulation_steps=2),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "loss_scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_without_a_jump(name):
    """A step of the smaller model does to what stays exactly what it does in the silenced model."""
    model, (x, y) = classifier(), batch()
    model.compile(OPTIMIZERS[name](), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for _ in range(3):
        model.train_on_batch(x, y)
    graph, keep, small = halved(model)
    channels.silence(model, graph, keep)
    for _ in range(1 if name != "accumulating" else 2):
        model.train_on_batch(x, y)
        small.train_on_batch(x, y)
    for layer, (kernel_axes) in {"first": ("all", "first"), "second": ("first", "second")}.items():
        dense, lean = model.get_layer(layer).kernel.numpy(), small.get_layer(layer).kernel.numpy()
        inputs = slice(None) if kernel_axes[0] == "all" else keep[kernel_axes[0]]
        np.testing.assert_allclose(dense[:, :, inputs][..., keep[kernel_axes[1]]], lean, atol=1e-6)
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations)


def test_slots_that_are_not_shaped_like_their_weight_are_left_new():
    model, (x, y) = classifier(), batch()
    model.compile(
        keras.optimizers.Adafactor(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.train_on_batch(x, y)
    _, _, small = halved(model)
    assert np.isfinite(small.train_on_batch(x, y))


def test_names_flags_and_regularizers_carry_over():
    model = classifier()
    model.get_layer("norm").trainable = False
    _, _, small = halved(model)
    assert small.name == "classifier" and small.inputs[0].name == "image"
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert not small.get_layer("norm").trainable and small.get_layer("first").trainable
    assert small.get_layer("first").kernel_regularizer.l2 == pytest.approx(1e-3)
    assert [w.path for w in small.weights] == [w.path for w in model.weights]


def test_model_compiled_with_the_users_own_loss_stays_compiled():
    def my_loss(target, output):
        return keras.ops.mean(keras.ops.square(output), axis=-1)

    model, (x, y) = classifier(), batch()
    model.compile("sgd", my_loss, metrics=["accuracy"])
    _, _, small = halved(model)
    assert small.compiled and np.isfinite(small.train_on_batch(x, y)[0])


def test_sequential_stays_sequential_and_keeps_its_dropout_seed():
    model = MODELS["sequential"]()
    _, _, small = halved(model)
    assert isinstance(small, keras.Sequential)
    seeds = [[v.numpy().tolist() for v in m.variables if "seed" in v.name] for m in (model, small)]
    assert seeds[0] == seeds[1] != []


def test_lambda_and_custom_layers_are_kept_and_listed():
    class Doubled(layers.Layer):
        def call(self, x):
            return 2 * x

    x = i = keras.Input((6,))
    x = layers.Dense(8, name="free")(x)
    x = Doubled(name="doubled")(layers.Dense(8, name="before")(x))
    x = layers.Dense(8, activation=lambda t: t * t, name="squared")(x)
    model = keras.Model(i, layers.Dense(2)(layers.Lambda(lambda t: t + 1, name="plus")(x)))
    graph, keep, small = halved(model)
    channels.silence(model, graph, keep)
    inputs = inputs_for(model)
    assert relative_error(outputs_of(model, inputs), outputs_of(small, inputs)) < 1e-5
    assert graph.unknown == {"doubled": "Doubled", "plus": "Lambda"}
    assert "'doubled', a layer of unknown kind (Doubled)" in graph["before"].locked
    assert "doubled (Doubled)" in graph.summary()
    assert small.get_layer("free").units == 4 and small.get_layer("before").units == 8


def test_registered_layer_is_pruned_through():
    class PerChannel(layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

        def call(self, x):
            return x * self.factor

    channels.register(PerChannel, channels.ChannelSpec("each", axes={"factor": ("in",)}))
    x = i = keras.Input((6,))
    x = PerChannel(name="scale")(layers.Dense(8)(x))
    _, _, small = halved(keras.Model(i, layers.Dense(2)(x)))
    assert small.get_layer("scale").factor.shape == (4,)


class Doubling(layers.Conv2D):
    """Is told half of its filters, and says so in its config."""

    def __init__(self, half, **kwargs):
        super().__init__(2 * half, 3, **kwargs)

    def get_config(self):
        return {"name": self.name, "half": self.filters // 2}


class Halving(layers.Conv2D):
    """Calls something else `filters` than its parent does."""

    def __init__(self, filters, **kwargs):
        super().__init__(2 * filters, 3, **kwargs)

    def get_config(self):
        return {"name": self.name, "filters": self.filters // 2}


@pytest.mark.parametrize("kind", [Doubling, Halving])
def test_subclass_whose_config_does_not_name_its_parents_sizes_is_unknown(kind):
    x = i = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 1)(kind(4, name="odd")(x))
    model = keras.Model(i, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    assert channels.trace(model).unknown == {"odd": kind.__name__}
    assert check_exact(model).get_layer("odd").filters == 8


def test_subclass_with_a_call_of_its_own_is_unknown():
    class Softly(layers.Dense):
        def call(self, x):
            return keras.ops.softmax(super().call(x))

    x = i = keras.Input((6,))
    model = keras.Model(i, layers.Dense(2)(Softly(8, name="soft")(x)))
    assert channels.trace(model).unknown == {"soft": "Softly"}


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        ("softmax", "looks across channels"),
        ("log_softmax", "looks across channels"),
        (lambda x: x / keras.ops.sum(x, -1, keepdims=True), "not known to work on each element alone"),
        (layers.Softmax(), "not known to work on each element alone"),
        (layers.PReLU(), "not known to work on each element alone"),
    ],
)
def test_channels_behind_an_activation_that_may_mix_them_are_locked(activation, reason):
    x = i = keras.Input((6,))
    x = layers.Activation(activation)(layers.Dense(8, name="mixed")(x))
    graph = channels.trace(keras.Model(i, layers.Dense(2)(x)))
    assert reason in graph["mixed"].locked


def test_result_loads_in_a_process_without_tfcompress(tmp_path):
    _, _, small = halved(randomize(MODELS["nested_models"]()))
    small.save(tmp_path / "small.keras")
    inputs = inputs_for(small)[0]
    np.save(tmp_path / "inputs.npy", inputs)
    np.save(tmp_path / "outputs.npy", keras.ops.convert_to_numpy(small(inputs)))
    program = (
        "import sys; sys.modules['tfcompress'] = None\n"
        "import keras, numpy as np\n"
        "model = keras.saving.load_model('small.keras')\n"
        "got = keras.ops.convert_to_numpy(model(np.load('inputs.npy')))\n"
        "np.testing.assert_allclose(got, np.load('outputs.npy'), rtol=1e-5, atol=1e-6)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shrinking_nothing_is_a_faithful_copy():
    model = classifier()
    graph = channels.trace(model)
    copy = channels.shrink(model, graph, {})
    assert all((a.numpy() == b.numpy()).all() for a, b in zip(model.weights, copy.weights, strict=True))
    assert all(a is not b for a, b in zip(model.weights, copy.weights, strict=True))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"frist": np.ones(8, bool)}, "Did you mean 'first'"),
        ({"first": np.ones(7, bool)}, r"shape \(8,\)"),
        ({"first": np.ones(8)}, "bool array"),
        ({"first": np.zeros(8, bool)}, "at least one"),
        ({"head": np.arange(4) < 2}, "locked: it makes the model's output"),
    ],
)
def test_wrong_keep_is_refused(keep, message):
    model = classifier()
    with pytest.raises(ValueError, match=message):
        channels.shrink(model, channels.trace(model), keep)


def test_unbalanced_grouped_convolution_is_refused():
    model = MODELS["depthwise_by_groups"]()
    channels.trace(model)
    model = MODELS["resnext_block"]()
    graph = channels.trace(model)
    name = graph.free[1].name
    with pytest.raises(ValueError, match="equal numbers from each of its blocks"):
        channels.shrink(model, graph, {name: np.arange(16) < 8})


def test_graph_of_another_model_is_refused():
    graph = channels.trace(classifier())
    with pytest.raises(ValueError, match="another model"):
        channels.shrink(MODELS["inception"](), graph, {})


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Subclassed, "subclassed model"),
        (lambda: keras.Sequential([layers.Dense(3)]), "not built"),
        (lambda: "resnet", "Expected a keras.Model, got str"),
    ],
)
def test_models_without_a_graph_are_refused_with_a_way_out(model, message):
    with pytest.raises(ValueError, match=message):
        channels.trace(model())


def test_layer_that_cannot_be_copied_is_named():
    class Stubborn(layers.Layer):
        def __init__(self, table):
            super().__init__()
            self.table = table

        def call(self, x):
            return x

    x = i = keras.Input((6,))
    model = keras.Model(i, layers.Dense(2)(Stubborn(np.ones(3))(layers.Dense(4)(x))))
    with pytest.raises(ValueError, match="Stubborn"):
        channels.trace(model)


@pytest.mark.parametrize("arguments", [(3, channels.ChannelSpec("mix")), (layers.Dense, "mix")])
def test_registering_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match="Expected"):
        channels.register(*arguments)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="Unknown kind"):
        channels.ChannelSpec("mixed")


def test_variables_that_a_wrapper_adds_are_copied():
    x = i = keras.Input((8, 8, 3))
    x = layers.SpectralNormalization(layers.Conv2D(6, 3, name="inside"), name="spectral")(x)
    model = keras.Model(
        i, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, name="free")(x)))
    )
    graph, _, small = halved(randomize(model))
    assert graph.unknown == {"spectral": "SpectralNormalization"}
    for old, new in zip(
        model.get_layer("spectral").variables, small.get_layer("spectral").variables, strict=True
    ):
        assert (old.numpy() == new.numpy()).all()


def test_transfer_learning_model_is_pruned_inside_its_base():
    base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3))
    i = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(layers.RandomFlip("horizontal")(i))
    x = layers.GlobalAveragePooling2D()(base(x, training=False))
    model = keras.Model(i, layers.Dense(5)(layers.Dropout(0.2)(x)))
    base.trainable = False
    small = check_exact(model)
    assert not small.get_layer(base.name).trainable
    assert small.count_params() < 0.5 * model.count_params()
    assert not channels.trace(model).unknown


def test_arrays_added_as_constants_lock_what_they_meet():
    x = i = keras.Input((6,))
    x = layers.Dense(4, name="shifted")(x) + np.arange(4.0, dtype="float32")
    graph = channels.trace(keras.Model(i, layers.Dense(2)(x)))
    assert "constant array" in graph["shifted"].locked


def test_tensors_that_are_not_read_as_channels_are_locked():
    i = keras.Input((6,))
    words = keras.ops.cast(keras.ops.abs(layers.Dense(4, name="words")(i)), "int32")
    x = layers.Embedding(100, 5, name="lookup")(words)
    mask = layers.Dense(4, activation="sigmoid", name="mask")(i) > 0.5
    x = layers.LSTM(3, name="memory")(x, mask=mask)
    graph = channels.trace(keras.Model(i, layers.Dense(2)(x)))
    assert "looks up words" in graph["words"].locked and graph["mask"].locked
    assert graph["lookup"].locked is None and graph["memory"].locked is None


def test_heads_whose_attention_scores_the_model_returns_stay():
    x = i = keras.Input((7, 4))
    x = layers.Dense(8)(x)
    y, scores = layers.MultiHeadAttention(4, 2, name="att")(x, x, return_attention_scores=True)
    model = keras.Model(i, [layers.Dense(2)(y), scores])
    assert channels.trace(model)["att:heads"].locked == "it makes the model's output"
    assert check_exact(model).outputs[1].shape == (None, 4, 7, 7)


@pytest.mark.parametrize("merge_mode", ["concat", None])
def test_both_directions_keep_equal_numbers(merge_mode):
    x = i = keras.Input((7, 3))
    x = layers.Bidirectional(layers.LSTM(6, name="lstm"), merge_mode=merge_mode, name="both")(x)
    model = keras.Model(i, layers.Dense(2)(layers.Concatenate()(x) if merge_mode is None else x))
    graph = channels.trace(model)
    few, many = np.arange(6) < 2, np.arange(6) >= 2
    with pytest.raises(ValueError, match=r"equal numbers.*Selection\(\)\.masks"):
        channels.shrink(model, graph, {"both/forward_lstm": few, "both/backward_lstm": many})
    small = channels.shrink(model, graph, {"both/forward_lstm": few, "both/backward_lstm": few[::-1]})
    assert small.get_layer("both").forward_layer.units == small.get_layer("both").backward_layer.units == 2


def adapted_dense():
    x = i = keras.Input((6,))
    adapted = layers.Dense(8, name="adapted")
    return keras.Model(i, layers.Dense(2)(layers.Dense(4)(adapted(x)))), adapted


def adapted_embedding():
    i = keras.Input((6,), dtype="int32")
    adapted = layers.Embedding(5, 8, name="adapted")
    return keras.Model(i, layers.Dense(2)(layers.LSTM(4)(adapted(i)))), adapted


@pytest.mark.parametrize("build", [adapted_dense, adapted_embedding])
def test_layer_with_weights_that_no_rule_covers_stays_and_is_in_the_summary(build):
    model, adapted = build()
    adapted.enable_lora(2)
    graph = channels.trace(model)
    assert "holds weights that no rule covers: adapted/lora" in graph["adapted"].locked
    assert graph["adapted"].locked in graph.summary()
    check_exact(model)


def test_heads_of_an_attention_with_lora_inside_stay():
    x = i = keras.Input((7, 4))
    attention = layers.MultiHeadAttention(4, 2, name="att")
    x = layers.Dense(8, name="before")(x)
    model = keras.Model(i, layers.Dense(2)(attention(x, x)))
    attention.query_dense.enable_lora(2)
    graph = channels.trace(model)
    for name in ("before", "att", "att:heads"):
        assert "holds weights that no rule covers: att/query/lora" in graph[name].locked


def test_layers_of_a_quantized_model_are_in_the_summary():
    x = i = keras.Input((6,))
    model = keras.Model(i, layers.Dense(2, name="b")(layers.Dense(4, name="a")(x)))
    for name in "ab":
        model.get_layer(name).quantize("int8")
    graph = channels.trace(model)
    assert all("kernel_scale" in graph[name].locked for name in "ab")
    copy = channels.shrink(model, graph, {})
    inputs = inputs_for(model)
    assert relative_error(outputs_of(model, inputs), outputs_of(copy, inputs)) == 0


def test_what_an_open_size_hides_is_locked():
    i = keras.Input((None, 3))
    sliced, spread = (layers.Conv1D(8, 3, name=name)(i) for name in ("sliced", "spread"))
    parts = [sliced[:, 20:], layers.Reshape((-1, 24))(spread)]
    made = [layers.Dense(2)(layers.GlobalMaxPooling1D()(part)) for part in parts]
    graph = channels.trace(keras.Model(i, layers.Add()(made)))
    assert "a part of an axis whose size is open" in graph["sliced"].locked
    assert "cannot be followed from channel to channel" in graph["spread"].locked


def test_group_names_stay_when_the_first_channel_goes():
    x = i = keras.Input((6,))
    x = ChannelShuffle(4)(layers.Dense(8, name="wide")(x))
    a, b = keras.ops.split(x, 2, axis=-1)
    model = keras.Model(i, layers.Concatenate()([layers.Dense(2)(b), layers.Dense(2)(a)]))
    graph = channels.trace(model)
    first, second = graph["wide"].layers["wide"][:, 0], graph["wide/2"].layers["wide"][:, 0]
    assert 0 in first
    small = channels.trace(channels.shrink(model, graph, {"wide": first != 0}))
    after = np.delete(np.arange(8), 0)
    assert after[small["wide"].layers["wide"][:, 0]].tolist() == first[first != 0].tolist()
    assert after[small["wide/2"].layers["wide"][:, 0]].tolist() == second.tolist()
