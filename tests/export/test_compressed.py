"""Models come back from compressed files bit for bit, and files tell what each stage won."""

import contextlib
import resource

import keras
import numpy as np
import pytest
from keras import layers
from masks import array, data, fit, network
from small_models import MODELS
from surgery import inputs_for, outputs_of, randomize

from tfcompress import share, wrap
from tfcompress.callbacks import UpdateMasks
from tfcompress.coding import container
from tfcompress.export import FormatError, inspect_compressed, load_compressed, save_compressed
from tfcompress.layers import MagnitudePruning


def same(model, again):
    for weight, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(array(weight), array(other))
        assert weight.dtype == other.dtype


@pytest.mark.parametrize("name", MODELS)
def test_any_model_comes_back(name, tmp_path):
    model = randomize(MODELS[name]())
    save_compressed(model, tmp_path / "model.tfc")
    classes = {type(layer) for layer in model.layers if not type(layer).__module__.startswith("keras.")}
    scope = {cls.__name__: cls for cls in classes}
    again = load_compressed(tmp_path / "model.tfc", scope)
    same(model, again)
    assert type(again) is type(model)
    inputs = inputs_for(model)
    for one, other in zip(outputs_of(model, inputs), outputs_of(again, inputs), strict=True):
        np.testing.assert_array_equal(one, other)


def compressed(path):
    """Pruned by 75 %, with 15 values for each kernel, and trained as that."""
    masked = wrap(network(dropout=0), MagnitudePruning(0.75))
    fit(masked, UpdateMasks())
    shared = share(masked, 4)
    shared.compile(keras.optimizers.Adam(0.01), masked.loss)
    fit(shared)
    return shared, save_compressed(shared, path)


def test_masks_and_shared_values_become_final(tmp_path):
    shared, _ = compressed(tmp_path / "model.tfc")
    again = load_compressed(tmp_path / "model.tfc")
    assert {type(layer).__module__.split(".")[0] for layer in again.layers} == {"keras"}
    x = data()[0]
    np.testing.assert_allclose(array(again(x)), array(shared(x)), rtol=1e-5, atol=1e-6)
    again.compile(keras.optimizers.SGD(0.1), shared.loss)
    fit(again)  # it trains on


def test_every_stage_takes_less(tmp_path):
    _, report = compressed(tmp_path / "model.tfc")
    kernels = {stages.name: stages for stages in report.arrays if stages.name.endswith("kernel")}
    assert len(kernels) == 3
    for stages in kernels.values():
        assert stages.nonzero == stages.entries // 4 and stages.values <= 15
        assert stages.shared < stages.pruned < stages.dense == 4 * stages.entries
        assert stages.encoded < 1.05 * stages.shared
        assert 0 < stages.tables <= 4 * 15 and stages.kind == "table"
    assert report.size_bytes == (tmp_path / "model.tfc").stat().st_size
    assert report.size_bytes == report.header_bytes + sum(stages.encoded for stages in report.arrays)
    assert inspect_compressed(tmp_path / "model.tfc") == report
    assert "kernel" in str(report) and f"{report.ratio:.1f} times smaller" in str(report)


def test_what_nothing_makes_smaller_is_kept_and_listed(tmp_path):
    report = save_compressed(randomize(network()), tmp_path / "model.tfc")
    assert "head/bias" in report.kept_raw
    assert report.size_bytes - report.header_bytes <= report.dense_bytes


def test_zeros_with_a_sign_cost_nothing(tmp_path):
    model = network()
    kernel = model.get_layer("head").kernel
    kernel.assign(-np.abs(array(kernel)) * (np.arange(kernel.shape[0]) % 4 == 0)[:, None])
    assert np.signbit(array(kernel)[array(kernel) == 0]).any()
    report = save_compressed(model, tmp_path / "model.tfc")
    stages = next(stages for stages in report.arrays if stages.name == "head/kernel")
    assert stages.encoded < 1.1 * 4 * stages.nonzero + 100


@keras.saving.register_keras_serializable("test_compressed")
class Twice(layers.Layer):
    def call(self, x):
        return 2 * x


class Unregistered(layers.Layer):
    def call(self, x):
        return 3 * x


def test_own_classes_are_named_where_they_are_missing(tmp_path):
    x = keras.Input((3,))
    model = keras.Model(x, Unregistered()(Twice()(layers.Dense(2)(x))))
    save_compressed(model, tmp_path / "model.tfc")
    with pytest.raises(ValueError, match=r"custom_objects=.*Unregistered"):
        load_compressed(tmp_path / "model.tfc")
    same(model, load_compressed(tmp_path / "model.tfc", {"Unregistered": Unregistered}))


def test_code_in_a_file_is_not_run(tmp_path):
    x = keras.Input((3,))
    model = keras.Model(x, layers.Lambda(lambda x: 2 * x)(layers.Dense(2)(x)))
    with pytest.raises(ValueError, match="cannot be made"):
        save_compressed(model, tmp_path / "model.tfc")
    assert not list(tmp_path.iterdir())


def test_subclassed_models_with_a_config(tmp_path):
    @keras.saving.register_keras_serializable("test_compressed")
    class Own(keras.Model):
        def __init__(self, units=3, **kwargs):
            super().__init__(**kwargs)
            self.units, self.head = units, layers.Dense(units)

        def call(self, x):
            return self.head(x)

        def build(self, shape):
            self.head.build(shape)

        def get_config(self):
            return {"units": self.units, "name": self.name}

    model = Own(5)
    model.build((None, 4))
    save_compressed(model, tmp_path / "model.tfc")
    same(model, load_compressed(tmp_path / "model.tfc"))


@contextlib.contextmanager
def room_for(size: int):
    """No file may be longer than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_without_room_the_old_file_stays(share, tmp_path):
    path = tmp_path / "model.tfc"
    size = save_compressed(randomize(network()), path).size_bytes
    before = path.read_bytes()
    with room_for(int(share * size)), pytest.raises(OSError, match="File too large"):
        save_compressed(randomize(network()), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_weights_that_do_not_fit_the_model_are_said(tmp_path):
    path = tmp_path / "model.tfc"
    save_compressed(network(), path)
    opened = container.read(path)
    arrays = [(entry.name, value) for entry, value in opened.arrays()]
    container.write(path, opened.header, arrays[1:])
    with pytest.raises(FormatError, match="other weights than it holds"):
        load_compressed(path)
    container.write(
        path, {"model": {"class_name": "Dense", "config": {"units": 2}, "module": "keras.layers"}}, []
    )
    with pytest.raises(FormatError, match="holds no model"):
        load_compressed(path)
    container.write(path, {}, [])
    with pytest.raises(ValueError, match="cannot be made"):
        load_compressed(path)


def test_bad_arguments(tmp_path):
    unbuilt = keras.Sequential([layers.Dense(2)])
    for given in (unbuilt, layers.Dense(2), None):
        with pytest.raises(ValueError, match="a keras.Model that is built"):
            save_compressed(given, tmp_path / "model.tfc")
    with pytest.raises(ValueError, match="There is no folder"):
        save_compressed(network(), tmp_path / "none" / "model.tfc")
