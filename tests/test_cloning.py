"""A copy goes on training where the model stood, whatever was trained, compiled or set on a variable."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from surgery import outputs_of, random_masks, relative_error

import tfcompress
from tfcompress import _cloning, channels

ROWS = 16


def network(use_bias: bool = True, **first) -> keras.Model:
    x = i = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=use_bias, name="first", **first)(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(6, 3, use_bias=use_bias, activation="relu", name="second")(x)
    return keras.Model(i, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, 8, 8, 3)), rng.normal(size=(ROWS, 3))
    return x.astype("float32"), y.astype("float32")


def trained(model: keras.Model, optimizer="adam", loss="mse") -> keras.Model:
    model.compile(optimizer, loss)
    for _ in range(3):
        model.train_on_batch(*batch())
    return model


def halved(model: keras.Model) -> tuple[dict, keras.Model]:
    graph = channels.trace(model)
    keep = random_masks(graph)
    return keep, channels.shrink(model, graph, keep)


def slots(model: keras.Model) -> dict[tuple[str, int], np.ndarray]:
    """(path of a weight, number of the slot) -> the slot."""
    found: dict = {}
    for slot, weight in _cloning.slots(model.optimizer, model.trainable_variables):
        count = sum(path == weight.path for path, _ in found)
        found[weight.path, count] = keras.ops.convert_to_numpy(slot)
    return found


# What is trained changes after compile


def test_slots_stay_with_their_weights_when_a_base_is_unfrozen():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(8, 3, name="inner")], name="base")
    i = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="free")(inner(i, training=False))
    model = keras.Model(i, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))
    inner.trainable = False
    before = slots(trained(model))
    inner.trainable = True
    copy = _cloning.clone(model)
    after = slots(copy)
    assert set(after) - set(before) == {(f"inner/{name}", n) for name in ("kernel", "bias") for n in (0, 1)}
    assert all((after[key] == before[key]).all() for key in before)
    assert all((after[key] == 0).all() for key in set(after) - set(before))
    assert int(copy.optimizer.iterations) == 3
    assert np.isfinite(copy.train_on_batch(*batch()))


def test_slots_stay_with_their_weights_when_a_layer_is_frozen():
    model = trained(network(), keras.optimizers.SGD(0.01, momentum=0.9))
    before = slots(model)
    model.get_layer("first").trainable = False
    keep, small = halved(model)
    after = slots(small)
    assert {path for path, _ in before} - {path for path, _ in after} == {"first/kernel", "first/bias"}
    expected = before["second/kernel", 0][:, :, keep["first"]][..., keep["second"]]
    assert (after["second/kernel", 0] == expected).all()
    assert (after["head/bias", 0] == before["head/bias", 0]).all()
    assert np.isfinite(small.train_on_batch(*batch()))


def test_single_frozen_weights_stay_frozen():
    model = network()
    model.get_layer("first").kernel.trainable = False
    _, small = halved(trained(model))
    assert not small.get_layer("first").kernel.trainable and small.get_layer("first").bias.trainable
    before = small.get_layer("first").kernel.numpy()
    small.train_on_batch(*batch())
    assert (small.get_layer("first").kernel.numpy() == before).all()


def test_weight_frozen_after_training_is_no_longer_trained():
    model = trained(network())
    model.get_layer("first").kernel.trainable = False
    _, small = halved(model)
    assert ("first/kernel", 0) not in slots(small) and ("first/bias", 0) in slots(small)


def test_model_that_is_frozen_as_a_whole_stays_so():
    model = network()
    model.trainable = False
    model.get_layer("head").trainable = True  # of no effect, since the model around it is frozen
    copy = _cloning.clone(model)
    assert not copy.trainable and copy.get_layer("head").trainable and not copy.get_layer("first").trainable
    assert copy.trainable_variables == model.trainable_variables == []


@pytest.mark.parametrize("scaled", [False, True])
def test_moving_averages_of_weights_that_were_not_trained_begin_at_the_weights(scaled):
    """At zero they would, when the optimizer overwrites weights by them, erase those."""
    optimizer = keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=1)
    model = network()
    model.get_layer("first").trainable = False
    trained(model, keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer)
    model.get_layer("first").trainable = True
    copy = _cloning.clone(model)
    copy.train_on_batch(*batch())
    expected, found = (m.get_layer("first").kernel.numpy() for m in (model, copy))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_prune_takes_a_model_that_was_unfrozen_for_fine_tuning():
    model = network()
    model.get_layer("first").trainable = False
    trained(model)
    model.get_layer("first").trainable = True
    assert tfcompress.prune(model, "l1", sparsity=0.5).compiled


def test_rewired_copy_keeps_the_slots_of_what_is_trained_now():
    from tfcompress.pruning.rewired import rewired

    model = network()
    model.get_layer("first").trainable = False
    before = slots(trained(model))
    model.get_layer("first").trainable = True
    after = slots(rewired(model))
    assert all((after[key] == before[key]).all() for key in before) and len(after) == len(before) + 4


# Weights that the copy has and the model had not


def test_constants_are_folded_into_readers_without_bias_of_a_trained_model():
    model = trained(network(use_bias=False))
    kernel = model.get_layer("first").kernel
    kernel.assign(np.where(np.arange(8) < 2, 0, kernel.numpy()))
    model.get_layer("norm").beta.assign(np.full(8, 1.5))
    before = slots(model)
    small = channels.shrink(model, channels.trace(model), {"first": np.arange(8) >= 2}, fold_constants=True)
    x, y = batch()
    assert relative_error(outputs_of(model, [x]), outputs_of(small, [x])) < 1e-5
    after = slots(small)
    assert (after["second/kernel", 1] == before["second/kernel", 1][:, :, 2:]).all()
    assert (after["second/bias", 0] == 0).all()
    assert np.isfinite(small.train_on_batch(x, y))


# Initializers that hold arrays


@pytest.mark.parametrize("value", [np.ones((50, 16), "float32"), np.ones((50, 16)).tolist()])
def test_pretrained_word_vectors_are_shrunk_and_saved(tmp_path, value):
    i = keras.Input((5,), dtype="int32")
    vectors = keras.initializers.Constant(value)
    x = layers.Embedding(50, 16, embeddings_initializer=vectors, name="words")(i)
    x = layers.GlobalAveragePooling1D()(layers.Dense(8, name="hidden")(x))
    keep, small = halved(keras.Model(i, layers.Dense(2)(x)))
    assert small.get_layer("words").embeddings.shape == (50, 8) and keep["words"].sum() == 8
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    words = np.arange(20).reshape(4, 5)
    np.testing.assert_allclose(loaded(words), small(words))


@pytest.mark.parametrize(
    "make",
    [
        lambda array: layers.Dense(8, kernel_initializer=array(6, 8)),
        lambda array: layers.TimeDistributed(layers.Dense(8, kernel_initializer=array(6, 8))),
        lambda array: layers.Bidirectional(
            layers.GRU(4, bias_initializer=array(2, 12), return_sequences=True)
        ),
    ],
)
def test_initial_arrays_of_any_layer_do_not_hinder_a_copy(make):
    rng = np.random.default_rng(0)
    i = keras.Input((4, 5))
    x = layers.Dense(6, name="before")(i)
    x = make(lambda *shape: keras.initializers.Constant(rng.normal(size=shape)))(x)
    model = keras.Model(i, layers.Dense(2)(x))
    _, small = halved(model)
    assert small.get_layer("before").units == 3
    assert [w.numpy().tolist() for w in _cloning.clone(model).weights] == [
        w.numpy().tolist() for w in model.weights
    ]


def test_initializers_without_arrays_stay_in_the_config():
    model = network(
        kernel_initializer=keras.initializers.Constant(0.5), bias_initializer=keras.initializers.HeNormal(3)
    )
    first = halved(model)[1].get_layer("first")
    assert first.kernel_initializer.value == 0.5
    assert isinstance(first.bias_initializer, keras.initializers.HeNormal)


# The way a model was compiled


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("how", ["names", "variables"])
def test_weights_excluded_from_decay_stay_so(how, scaled):
    model = network()
    optimizer = keras.optimizers.AdamW(0.0 + 1e-9, weight_decay=1e8)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, "mse")
    chosen = {"var_names": ["bias", "beta"]} if how == "names" else {"var_list": [model.layers[1].bias]}
    optimizer.exclude_from_weight_decay(**chosen)
    first = model.get_layer("first")
    first.bias.assign(np.arange(1.0, 9.0))
    for copy in (_cloning.clone(model), _cloning.clone(_cloning.clone(model))):
        kernel = copy.get_layer("first").kernel.numpy()
        copy.train_on_batch(*batch())
        np.testing.assert_allclose(copy.get_layer("first").bias.numpy(), np.arange(1.0, 9.0), rtol=1e-5)
        np.testing.assert_allclose(copy.get_layer("first").kernel.numpy(), 0.9 * kernel, rtol=1e-4, atol=1e-6)


class Weighted(keras.losses.Loss):
    """A loss without a config of its own."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def call(self, target, output):
        return self.weight * ops.mean(ops.square(target - output), axis=-1)


class Range(keras.metrics.Metric):
    """A metric without a config of its own."""

    def __init__(self, limit):
        super().__init__(name="range")
        self.limit = limit
        self.largest = self.add_variable((), "zeros", name="largest")

    def update_state(self, target, output, sample_weight=None):
        self.largest.assign(ops.minimum(self.limit, ops.max(output)))

    def result(self):
        return ops.convert_to_tensor(self.largest)


@pytest.mark.parametrize(
    "loss", [lambda target, output: 2 * ops.mean(ops.square(target - output), axis=-1), Weighted(2.0)]
)
def test_loss_that_has_no_config_is_the_same_in_the_copy(loss):
    model = network()
    model.compile("sgd", loss, metrics=["mae", lambda target, output: ops.mean(output), Range(0.5)])
    copy = _cloning.clone(model)
    found = [m.evaluate(*batch(), verbose=0) for m in (copy, model)]
    np.testing.assert_allclose(*found, rtol=1e-5)
    assert found[0][0] == pytest.approx(
        2 * np.mean(np.square(batch()[1] - model.predict_on_batch(batch()[0])))
    )


def test_metrics_of_a_copy_count_for_themselves():
    metric = keras.metrics.MeanSquaredError(name="error")
    model = network()
    model.compile("sgd", "mse", metrics={"head": [metric]}, steps_per_execution=3, loss_weights=[0.5])
    copy = _cloning.clone(model)
    copy.evaluate(*batch(), verbose=0)
    assert float(metric.total) == 0
    assert copy.get_compile_config() == model.get_compile_config()


def test_copy_of_a_compiled_model_is_retrained_by_prune_layerwise():
    model = network()
    model.compile("sgd", lambda target, output: ops.mean(ops.square(target - output), axis=-1))
    small = tfcompress.prune_layerwise(
        model, "l1", sparsity=0.5, retrain=lambda m: m.fit(*batch(), verbose=0), verbose=False
    )
    assert small.compiled


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 / (1 + ops.cast(step, "float32"))

    def get_config(self):
        return {}


def test_users_own_schedule_is_repeated():
    model = trained(network(), keras.optimizers.SGD(Halving()))
    assert float(_cloning.clone(model).optimizer.learning_rate) == pytest.approx(0.025)


class Stubborn(keras.optimizers.SGD):
    def __init__(self, rate):
        super().__init__(rate)

    def get_config(self):
        return {}


def test_optimizer_that_cannot_be_repeated_is_said():
    model = network()
    model.compile(Stubborn(0.1), "mse")
    with pytest.warns(UserWarning, match="is not compiled.*call compile"):
        assert not _cloning.clone(model).compiled


def test_loss_scaling_that_was_turned_off_stays_off():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network()
        model.compile("sgd", "mse", auto_scale_loss=False)
        copy = _cloning.clone(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert type(copy.optimizer) is keras.optimizers.SGD


def test_what_keras_keeps_to_itself_is_where_it_was():
    """The private attributes that `_cloning` reads, so that a Keras that renames them is noticed."""
    model = trained(network(), keras.optimizers.AdamW(0.01))
    assert _cloning._trained_by(model.optimizer) == model.trainable_variables
    assert _cloning._compiled_with(model)["loss"] == "mse"
    assert _cloning._compiled_with(model)["optimizer"] is model.optimizer
    assert _cloning._excluded_from_decay(model.optimizer, model.weights) == ([], [])
    first = model.get_layer("first")
    model.optimizer.exclude_from_weight_decay(var_list=[first.kernel], var_names=["beta"])
    found, names = _cloning._excluded_from_decay(model.optimizer, model.weights)
    assert [weight.path for weight in found] == ["first/kernel"] and names == ["beta"]


# What was set on a variable itself


def test_regularizer_and_constraint_that_were_set_on_a_variable_carry_over():
    model = network(kernel_constraint="non_neg", bias_regularizer="l1")
    first, second = model.get_layer("first"), model.get_layer("second")
    first.kernel.regularizer, second.bias.constraint = (
        keras.regularizers.L2(0.5),
        keras.constraints.MaxNorm(3),
    )
    first.bias.regularizer = None
    _, small = halved(model)
    kernel = small.get_layer("first").kernel
    assert [float(loss) for loss in small.losses] == [pytest.approx(0.5 * np.square(kernel.numpy()).sum())]
    assert kernel.regularizer is not first.kernel.regularizer
    assert isinstance(kernel.constraint, keras.constraints.NonNeg)
    assert small.get_layer("second").bias.constraint.max_value == 3


def test_what_a_change_of_config_asks_for_stands():
    model = network(kernel_regularizer="l1")
    copy = _cloning.copy(
        model, configure=lambda path: {"kernel_regularizer": None} if path == "first" else {}
    )
    assert copy.losses == []
    penalty = keras.regularizers.L2(0.5)
    copy = _cloning.copy(
        model, configure=lambda path: {"kernel_regularizer": penalty} if path == "first" else {}
    )
    assert copy.get_layer("first").kernel.regularizer.l2 == 0.5


class Mask(keras.constraints.Constraint):
    def __init__(self, mask):
        self.mask = mask

    def __call__(self, value):
        return value * self.mask


def test_constraint_that_its_config_cannot_repeat_is_left_out_and_said():
    model = network()
    model.get_layer("first").kernel.constraint = Mask(np.ones((3, 3, 3, 8)))
    with pytest.warns(UserWarning, match="constraint on 'first/kernel'.*Mask"):
        _, small = halved(model)
    assert small.get_layer("first").kernel.constraint is None


# What cannot be copied


class Subclassed(keras.Model):
    pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Subclassed(), "subclassed model"),
        (keras.Sequential([layers.Dense(3)]), "not built"),
        (None, "Expected a keras.Model, got NoneType"),
    ],
)
def test_what_has_no_graph_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        _cloning.clone(model)


def test_fresh_model_has_the_same_layers_new_weights_and_an_optimizer_that_has_not_begun():
    inside = keras.Input((6, 6, 8))
    body = keras.Model(inside, layers.Conv2D(8, 3, padding="same", name="deep")(inside), name="body")
    x = i = keras.Input((8, 8, 3))
    x = body(layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, name="first")(x)))
    model = keras.Model(i, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))
    model.get_layer("norm").trainable = False
    trained(model)
    new = _cloning.fresh(model)
    assert [w.path for w in new.weights] == [w.path for w in model.weights]
    for path in ("first", "head"):
        assert not np.isin(new.get_layer(path).get_weights()[0], model.get_layer(path).get_weights()[0]).any()
    deep = [m.get_layer("body").get_layer("deep").get_weights()[0] for m in (new, model)]
    assert not np.isin(*deep).any()
    assert [w.trainable for w in new.weights] == [w.trainable for w in model.weights]
    assert type(new.optimizer) is type(model.optimizer) and int(new.optimizer.iterations) == 0
    assert np.isfinite(new.train_on_batch(*batch()))
