"""Training that knows of int8: weights come back, zeros and values stay, the file does what was trained."""

import delegated
import keras
import numpy as np
import pytest
from keras import layers
from masks import array, constants
from surgery import randomize

pytest.importorskip("tf_keras", reason="the extra [tfmot] is not installed")
pytest.importorskip("tensorflow_model_optimization", reason="the extra [tfmot] is not installed")

import tfcompress
from tfcompress.export import QuantizationAware
from tfcompress.layers import MagnitudePruning

pytestmark = pytest.mark.filterwarnings("ignore")  # those of tf_keras and tfmot


def residual() -> keras.Model:
    x = i = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomize(keras.Model(i, layers.Dense(5, activation="softmax", name="head")(x)), 0)


def nested() -> keras.Model:
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(6, activation="relu", name="one")], name="inner"
    )
    i = keras.Input((8,), name="vector")
    return randomize(keras.Model(i, {"class": layers.Dense(3, name="two")(inner(i))}), 1)


def data(model, images=48):
    rng = np.random.default_rng(0)
    return rng.normal(size=(images, *model.input_shape[1:])).astype("float32"), rng.integers(0, 3, images)


def trained(model, **settings):
    aware = QuantizationAware(model)
    loss = "sparse_categorical_crossentropy"
    aware.compile("adam", {"class": loss} if isinstance(model.output, dict) else loss, **settings)
    x, y = data(model)
    aware.fit(x, y, epochs=2, batch_size=8, verbose=0)
    return aware


def equal(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", [residual, nested])
def test_weights_go_there_and_come_back(make):
    model = make()
    before = model.get_weights()
    equal(QuantizationAware(model).trained(), model)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_moves_all_weights_and_the_file_does_what_was_trained(tmp_path):
    model = residual()
    aware = trained(model)
    new = aware.trained()
    for one, other in zip(model.get_weights(), new.get_weights(), strict=True):
        assert (one != other).any()
    x, _ = data(model)
    report = aware.tflite(tmp_path / "model.tflite", data=x, tolerance=0.05)
    assert report.quantization == "int8"
    outputs = tfcompress.export.run_tflite(tmp_path / "model.tflite", x)
    assert np.abs(outputs - new.predict(x, verbose=0)).max() < 0.1
    float32 = tfcompress.export.tflite(new, tmp_path / "float32.tflite", data=x)
    assert report.latency.median_ms > 0 and float32.relative_error < 1e-4


def test_zeros_and_shared_values_stay(tmp_path):
    model = tfcompress.strip(tfcompress.share(_pruned(residual()), {"stem|head": 3}))
    aware = trained(model)
    new = aware.trained()
    for name in ("stem", "head"):
        one, other = (np.asarray(m.get_layer(name).kernel) for m in (model, new))
        np.testing.assert_array_equal(one == 0, other == 0)
        assert (one != other).any() and len(np.unique(other[other != 0])) <= 7
        for value in np.unique(one):
            assert len(np.unique(other[one == value])) == 1


@pytest.mark.parametrize("block", [(1, 4), (16, 4)])
def test_blocks_stay_whole_and_the_delegate_runs_the_file_as_the_interpreter_does(block, tmp_path):
    i = keras.Input((12, 12, 8))
    x = layers.Conv2D(16, 3, use_bias=False, name="stem")(i)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(32, 1, activation="relu", name="head")(x)
    x = layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    pruned = _pruned(randomize(keras.Model(i, x), 0), MagnitudePruning(0.75, block=block))
    aware = trained(pruned)
    report = aware.tflite(tmp_path / "model.tflite", data=data(pruned)[0], tolerance=0.1)
    kept = {name: array(aware.trained().get_layer(name).kernel) != 0 for name in ("stem", "head")}
    for name, found in kept.items():
        np.testing.assert_array_equal(found, array(pruned.get_layer(name).kernel) != 0)
        assert 0.7 < (~found).mean() < 0.8
    shapes = {name: np.moveaxis(found, -1, 0).shape for name, found in kept.items()}
    for name, stored in constants(report.path, shapes, half=False).items():
        assert stored.dtype == np.int8
        taps = stored.reshape(len(stored), -1, stored.shape[-1])
        outputs, channels = block
        blocks = taps.reshape(len(taps) // outputs, outputs, taps.shape[1], -1, channels)
        assert (~blocks.any((1, 4))).mean() >= (~kept[name]).mean()
    content = report.path.read_bytes()
    x = data(pruned)[0]
    for mine, stock in zip(
        delegated.outputs(delegated.interpreter(content, force=True), x),
        delegated.outputs(delegated.interpreter(content), x),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, stock)


def _pruned(model, rule=None):
    wrapped = tfcompress.wrap(model, rule or MagnitudePruning(0.5), include=["stem", "head"])
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    wrapped.fit(*data(model), verbose=0, callbacks=[tfcompress.callbacks.UpdateMasks()])
    return tfcompress.strip(wrapped)


def test_each_object_has_a_twin_of_its_own():
    model = residual()
    first = trained(model).trained()
    equal(QuantizationAware(model).trained(), model)
    assert any((a != b).any() for a, b in zip(first.get_weights(), model.get_weights(), strict=True))


def test_layers_that_tfmot_does_not_take_stay_in_float(tmp_path):
    i = keras.Input((8, 8, 3))
    x = layers.Rescaling(0.5, name="scale")(i)
    x = layers.SeparableConv2D(4, 3, name="separable")(x)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    model = randomize(
        keras.Model(i, layers.Dense(3, activation="softmax", name="head")(layers.Flatten()(x))), 0
    )
    aware = trained(model)
    assert set(aware.left_alone) == {"scale", "separable"}
    assert "two layers" in aware.left_alone["separable"]
    equal_shapes = [w.shape for w in aware.trained().get_weights()]
    assert equal_shapes == [w.shape for w in model.get_weights()]
    aware.tflite(tmp_path / "model.tflite", data=data(model)[0])


def test_batch_norms_go_with_the_layer_before_them_and_else_stay_in_float(tmp_path):
    assert not QuantizationAware(residual()).left_alone
    i = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(4, 3, name="separable")(layers.BatchNormalization(name="first")(i))
    x = layers.Conv2D(4, 3, name="conv")(layers.BatchNormalization(name="second")(x))
    y = layers.BatchNormalization(name="one")(x)
    z = layers.BatchNormalization(name="other")(x)
    x = layers.Flatten()(layers.Add()([y, z]))
    model = keras.Model(i, layers.Dense(3, activation="softmax")(x))
    aware = trained(randomize(model, 0))
    assert set(aware.left_alone) == {"first", "separable", "second", "one", "other"}
    aware.tflite(tmp_path / "model.tflite", data=data(model)[0])


@keras.saving.register_keras_serializable("tests")
class Own(layers.Layer):
    def call(self, x):
        return x


def test_all_that_has_no_twin_is_listed():
    i = keras.Input((8,))
    x = Own(name="own")(layers.Dense(4, name="first")(i))
    model = keras.Model(i, layers.Dense(2)(keras.ops.exp(x)))
    with pytest.raises(
        ValueError, match=r"own \(Own\): tf_keras has no such layer; .*exp \(Exp\): an operation"
    ):
        QuantizationAware(model)


def test_objects_of_keras_3_are_refused():
    aware = QuantizationAware(nested())
    with pytest.raises(ValueError, match="trained by tf_keras"):
        aware.compile(keras.optimizers.SGD(0.1), "mse")


def test_masks_are_to_be_stripped_before():
    with pytest.raises(ValueError, match="no such layer"):
        QuantizationAware(tfcompress.wrap(residual(), MagnitudePruning(0.5)))
