"""Blocks are plain layers: they can be pruned exactly, trained and exported, and do what papers say."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery import check_exact, inputs_for, outputs_of, randomize, relative_error

from tfcompress import blocks, export

SIZE = 12


def in_a_net(*chain):
    """Blocks between two convolutions and a head, for small images."""

    def make():
        images = keras.Input((SIZE, SIZE, 3))
        x = blocks.convolution(images, 16, 3, name="first")
        for number, block in enumerate(chain):
            x = block(x, f"b{number}")
        x = blocks.convolution(x, 16, 3, name="last")
        x = keras.layers.GlobalAveragePooling2D()(x)
        return randomize(keras.Model(images, keras.layers.Dense(5, activation="softmax")(x)))

    return make


BLOCKS = {
    "separable": lambda x, name: blocks.separable(x, 24, strides=2, name=name),
    "inverted_residual": lambda x, name: blocks.inverted_residual(x, 16, name=name),
    "inverted_residual, stride 2": lambda x, name: blocks.inverted_residual(x, 20, 2, name=name),
    "inverted_residual, no expansion": lambda x, name: blocks.inverted_residual(
        x, 16, expansion=1, name=name
    ),
    "basic": lambda x, name: blocks.basic(x, 16, name=name),
    "basic, stride 2": lambda x, name: blocks.basic(x, 24, 2, name=name),
    "bottleneck": lambda x, name: blocks.bottleneck(x, 8, 2, name=name),
    "split": lambda x, name: blocks.aggregated(x, 16, cardinality=4, width=4, form="split", name=name),
    "concatenated": lambda x, name: blocks.aggregated(
        x, 16, cardinality=4, width=4, form="concatenated", name=name
    ),
    "grouped": lambda x, name: blocks.aggregated(x, 24, 2, cardinality=4, width=4, name=name),
    "shuffle_unit": lambda x, name: blocks.shuffle_unit(x, 16, groups=2, name=name),
    "shuffle_unit, stride 2": lambda x, name: blocks.shuffle_unit(x, 48, 2, groups=4, name=name),
    "fire": lambda x, name: blocks.fire(x, 8, 12, 16, name=name),
    "inception": lambda x, name: blocks.inception(x, 8, (6, 10), (4, 6), 6, name=name),
    "inception, normalized": lambda x, name: blocks.inception(x, 8, (6, 10), (4, 6), 6, norm=True, name=name),
    "xception_module": lambda x, name: blocks.xception_module(x, (16, 16), name=name),
    "xception_module, pooled": lambda x, name: blocks.xception_module(x, (20, 24), pool=True, name=name),
}
NETS = {
    "mobilenet": lambda: randomize(blocks.mobilenet((32, 32, 3), 5, width=0.25)),
    "shufflenet": lambda: randomize(blocks.shufflenet((32, 32, 3), 5, groups=2, width=0.25)),
    "squeezenet": lambda: randomize(blocks.squeezenet((64, 64, 3), 5, version="1.1")),
    "xception": lambda: randomize(blocks.xception((64, 64, 3), 5, middle=1)),
    "resnext": lambda: randomize(blocks.resnext((32, 32, 3), 5, cardinality=4, width=4)),
}


@pytest.mark.parametrize("name", [*BLOCKS, *NETS])
def test_a_pruned_net_equals_the_silenced_one(name):
    model = NETS[name]() if name in NETS else in_a_net(BLOCKS[name])()
    assert check_exact(model).count_params() < model.count_params()


def chains():
    """All blocks, one behind the other where channels allow; so that fewer models are converted."""
    same = [block for name, block in BLOCKS.items() if keeps_channels(block)]
    others = [block for name, block in BLOCKS.items() if not keeps_channels(block)]
    back = lambda x, name: blocks.convolution(x, 16, name=name)  # noqa: E731
    return {
        "same": in_a_net(*same),
        "others": in_a_net(*[part for block in others for part in (block, back)]),
    }


def keeps_channels(block):
    return block(keras.Input((SIZE, SIZE, 16)), "b").shape[-1] == 16


@pytest.mark.parametrize("name", ["same", "others", "squeezenet"])
def test_a_net_trains_and_runs_in_tflite_as_in_keras(name, tmp_path):
    pytest.importorskip("tensorflow")
    model = (NETS | chains())[name]()
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)  # one step is not worth a graph
    x = inputs_for(model, 4)[0]
    before = [weight.copy() for weight in model.get_weights()]
    assert np.isfinite(model.train_on_batch(x, np.arange(4) % 5))
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    report = export.tflite(model, tmp_path / "model.tflite")
    assert report.max_error < 1e-4


FORMS = ["split", "concatenated", "grouped"]


@pytest.mark.parametrize(("cardinality", "strides"), [(1, 1), (4, 2)])
@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(FORMS, 2)))
def test_the_forms_of_resnext_compute_the_same(source, target, cardinality, strides):
    def net(form):
        x = keras.Input((SIZE, SIZE, 10))
        y = blocks.aggregated(x, 10, strides, cardinality=cardinality, width=3, form=form, name="a")
        return randomize(
            keras.Model(x, blocks.aggregated(y, 12, cardinality=2, width=2, form=form, name="b")), 3
        )

    one = net(source)
    for layer in one.layers:
        if layer.weights:
            layer.set_weights(
                [np.random.default_rng(0).uniform(0.2, 1, w.shape) for w in layer.get_weights()]
            )
    other = blocks.carry(one, net(target))
    inputs = inputs_for(one)
    assert relative_error(outputs_of(one, inputs), outputs_of(other, inputs)) < 1e-5


def test_weights_that_are_not_there_are_said():
    x = keras.Input((SIZE, SIZE, 8))
    one, other = (
        keras.Model(x, blocks.aggregated(x, 8, cardinality=2, width=2, name=name)) for name in ("a", "b")
    )
    with pytest.raises(ValueError, match="Did you mean 'a_conv1'"):
        blocks.carry(one, other)


def test_a_residual_block_whose_branch_is_zero_is_its_input():
    for block in (
        lambda x: blocks.basic(x, 8, name="b"),
        lambda x: blocks.bottleneck(x, 2, name="b"),
        lambda x: blocks.aggregated(x, 8, cardinality=2, width=2, name="b"),
        lambda x: blocks.shuffle_unit(x, 8, groups=2, name="b"),
    ):
        x = keras.Input((SIZE, SIZE, 8))
        model = keras.Model(x, block(x))
        for layer in model.layers:
            if isinstance(layer, keras.layers.Conv2D):
                layer.set_weights([np.zeros(weight.shape) for weight in layer.get_weights()])
        images = np.abs(inputs_for(model)[0])
        np.testing.assert_allclose(model(images), images, rtol=1e-6)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=10)
def test_fire_and_inception_keep_the_order_of_their_branches(a, b, c, d):
    x = keras.Input((5, 5, 3))
    both = keras.Model(x, blocks.fire(x, a, b, c, name="f"))
    image = np.abs(inputs_for(both)[0])
    for name, part in (("f_expand1", slice(0, b)), ("f_expand3", slice(b, b + c))):
        alone = keras.Model(x, both.get_layer(f"{name}_relu").output)
        np.testing.assert_array_equal(both(image)[..., part], alone(image))
    whole = keras.Model(x, blocks.inception(x, a, (2, b), (2, c), d, name="i"))
    start = 0
    for name, width in (("1x1", a), ("3x3", b), ("5x5", c), ("pool_proj", d)):
        alone = keras.Model(x, whole.get_layer(f"i_{name}_relu").output)
        np.testing.assert_array_equal(whole(image)[..., start : start + width], alone(image))
        start += width


def test_between_depthwise_and_pointwise_xception_has_nothing_and_mobilenet_has_a_relu():
    def kinds(model):
        return [type(layer).__name__ for layer in model.layers]

    x = keras.Input((8, 8, 4))
    assert kinds(keras.Model(x, blocks.separable(x, 4, name="b"))) == [
        "InputLayer",
        *("DepthwiseConv2D", "BatchNormalization", "ReLU"),
        *("Conv2D", "BatchNormalization", "ReLU"),
    ]
    assert kinds(keras.Model(x, blocks.xception_module(x, (4,), first_relu=False, name="b"))) == [
        "InputLayer",
        "SeparableConv2D",
        "BatchNormalization",
        "Add",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    {
        "groups": (lambda x: blocks.convolution(x, 9, groups=4, name="b"), "4 groups do not divide"),
        "outputs": (lambda x: blocks.shuffle_unit(x, 12, name="b"), "adds its input of 8 channels"),
        "between": (lambda x: blocks.shuffle_unit(x, 20, 2, groups=3, name="b"), "do not divide"),
        "form": (lambda x: blocks.aggregated(x, 8, form="groupd", name="b"), "Did you mean 'grouped'"),
        "module": (lambda x: blocks.xception_module(x, (9,), name="b"), "adds its input"),
        "version": (lambda x: blocks.squeezenet(version="2.0"), "Unknown version"),
        "no groups": (lambda x: blocks.shufflenet(groups=5), "Unknown number of groups"),
        "width": (lambda x: blocks.mobilenet(width=0), "width is what"),
    }.values(),
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(keras.Input((8, 8, 8)))
