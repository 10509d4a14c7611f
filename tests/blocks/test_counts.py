"""Parameters and multiplications of nets and blocks, as papers and other implementations count them."""

import itertools

import keras
import numpy as np
import pytest
import thorough
from hypothesis import given
from hypothesis import strategies as st

from tfcompress import analysis, blocks


def macs(model):
    return analysis.summary(model).totals["macs"]


def trained(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(("width", "millions"), [(1.0, 568.7), (0.75, 325.4), (0.5, 149.5), (0.25, 41.0)])
def test_mobilenet_by_width(width, millions):
    assert macs(blocks.mobilenet(width=width)) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(("pixels", "millions"), [(192, 418), (160, 291)])
def test_mobilenet_by_resolution(pixels, millions):
    model = blocks.mobilenet(resolution=pixels / 224)
    assert model.input_shape[1:3] == (pixels, pixels)
    assert macs(model) / 1e6 == pytest.approx(millions, abs=0.5)
    assert model.count_params() == 4_253_864


def test_most_of_mobilenet_is_pointwise():
    model = blocks.mobilenet()
    rows = analysis.summary(model).rows
    pointwise = sum(row["macs"] for row in rows if row["layer"].endswith("_pointwise"))
    assert pointwise / macs(model) == pytest.approx(0.9486, abs=1e-4)


@pytest.mark.parametrize(("groups", "millions"), [(1, 143.1), (2, 140.8), (3, 137.5), (4, 134.3), (8, 138.4)])
def test_shufflenet_by_groups(groups, millions):
    assert macs(blocks.shufflenet(groups=groups)) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("groups", "width"),
    thorough.beside(
        itertools.product([1, 2, 3, 4, 8], [0.25, 0.5, 1.5, 2.0]),
        [(1, 2.0), (2, 1.5), (3, 0.25), (4, 1.5), (8, 0.5)],
    ),
)
def test_shufflenet_has_all_widths(groups, width):
    model = blocks.shufflenet((32, 32, 3), 10, groups=groups, width=width)
    assert model(np.zeros((1, 32, 32, 3))).shape == (1, 10)


# Channels behind the stem and the stages, in the authors' code.
AUTHORS = {
    (3, 0.5): (12, 120, 240, 480),
    (3, 1.0): (24, 240, 480, 960),
    (3, 1.5): (24, 360, 720, 1440),
    (3, 2.0): (48, 480, 960, 1920),
    (8, 0.5): (16, 192, 384, 768),
    (8, 1.0): (24, 384, 768, 1536),
    (8, 1.5): (24, 576, 1152, 2304),
    (8, 2.0): (48, 768, 1536, 3072),
}


@pytest.mark.parametrize(("groups", "width"), AUTHORS)
def test_shufflenet_has_the_authors_channels(groups, width):
    model = blocks.shufflenet((32, 32, 3), 10, groups=groups, width=width)
    layers = ("stem_relu", "stage2_unit1_relu", "stage3_unit1_relu", "stage4_unit1_relu")
    assert tuple(model.get_layer(name).output.shape[-1] for name in layers) == AUTHORS[groups, width]


@pytest.mark.parametrize(("version", "params"), [("1.0", 1_248_424), ("1.1", 1_235_496)])
def test_squeezenet(version, params):
    assert blocks.squeezenet(version=version).count_params() == params


def test_residual_nets():
    assert trained(blocks.resnet50()) == 25_557_032
    model = blocks.resnext()
    assert trained(model) == 25_028_904
    assert macs(model) / 1e9 == pytest.approx(4.23, abs=0.005)


def test_xception():
    model = blocks.xception()
    assert model.count_params() == 22_910_480
    kinds = [type(layer).__name__ for layer in model.layers]
    assert (kinds.count("SeparableConv2D"), kinds.count("Conv2D")) == (34, 6)


def test_inception_is_googlenets_first():
    x = keras.Input((28, 28, 192))
    model = keras.Model(x, blocks.inception(x, 64, (96, 128), (16, 32), 32, name="i3a"))
    assert model.output_shape == (None, 28, 28, 256)
    shapes = [(1, 192, 64), (1, 192, 96), (3, 96, 128), (1, 192, 16), (5, 16, 32), (1, 192, 32)]
    assert model.count_params() == sum(size**2 * i * o + o for size, i, o in shapes)
    assert macs(model) == 28**2 * sum(size**2 * i * o for size, i, o in shapes)


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3, 5]))
def test_a_separable_convolution_costs_the_share_of_the_paper(channels, filters, size):
    x = keras.Input((6, 6, channels))
    whole = macs(keras.Model(x, blocks.convolution(x, filters, size, name="a")))
    parts = macs(keras.Model(x, blocks.separable(x, filters, size, name="a")))
    assert parts / whole == pytest.approx(1 / filters + 1 / size**2)


def test_equal_complexity_of_resnext():
    x = keras.Input((8, 8, 256))
    found = []
    for cardinality, width in ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4)):
        block = blocks.aggregated(x, 256, cardinality=cardinality, width=width, name="a")
        model = keras.Model(x, block)
        found.append(sum(np.prod(kernel.shape) for kernel in kernels(model)))
    assert all(68_000 < weights < 72_000 for weights in found)


def kernels(model):
    return [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
