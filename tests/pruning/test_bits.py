"""Bits for each layer: what a sweep finds, and a file of the size that was asked for."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from surgery import randomize

import tfcompress
from tfcompress import analysis
from tfcompress.layers import MagnitudePruning

NAMES = ("body", "middle", "head")


def network(seed=0) -> keras.Model:
    x = i = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, activation="relu", name="body")(x)
    x = layers.Conv2D(32, 3, activation="relu", name="middle")(x)
    x = layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(i, x), seed)


def curve(*figures, whole=0.9):
    return {**dict(enumerate(figures, 1)), 32: whole}


# ------------------------------------------------------------------ the sweep


def test_each_layer_alone_is_as_share_leaves_it():
    model = network()
    before = model.get_weights()
    seen = []
    curves = analysis.bit_sensitivity(
        model,
        lambda copy: seen.append(copy.get_weights()) or len(seen),
        bits=(3, 1),
        method="density",
        seed=4,
    )
    assert list(curves) == list(NAMES) and list(curves["head"]) == [1, 3, 32]
    whole, *others = seen
    for number, arrays in enumerate(others):
        path, bits = NAMES[number // 2], (1, 3)[number % 2]
        shared = tfcompress.strip(tfcompress.share(model, {path: bits}, method="density", seed=4))
        for one, other in zip(arrays, shared.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        assert curves[path][bits] == number + 2
    for one, other, third in zip(whole, before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)


def test_only_the_wanted_layers_are_swept():
    assert list(analysis.bit_sensitivity(network(), lambda m: 0.5, bits=[2], exclude="middle")) == [
        "body",
        "head",
    ]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"bits": [0]}, "whole number from 1 to 12"),
        ({"evaluate": 3}, "evaluate must be a function"),
        ({"evaluate": lambda m: "good"}, "must return a number"),
        ({"method": "liner"}, "Did you mean 'linear'"),
        ({"include": "boddy"}, "Did you mean 'body'"),
    ],
)
def test_a_sweep_of_nothing_is_refused(given_, message):
    with pytest.raises(ValueError, match=message):
        analysis.bit_sensitivity(network(), **{"evaluate": lambda m: 0.5, "bits": [2], **given_})


# ------------------------------------------------------------------ the allocation

CURVES = {
    "body": curve(0.1, 0.5, 0.8, 0.9, 0.9),
    "middle": curve(0.89, 0.9, 0.9, 0.9, 0.9),
    "head": curve(0.2, 0.3, 0.4, 0.85, 0.9),
}


@settings(max_examples=5)
@given(share=st.floats(0.08, 0.24))
def test_the_file_has_the_size_that_was_asked_for_and_no_tolerance_is_larger_than_needed(
    tmp_path_factory, share
):
    model, folder = network(), tmp_path_factory.mktemp("bits")
    plain = sum(weight.nbytes for weight in model.get_weights())

    def size(bits):
        shared = tfcompress.share(model, bits)
        return tfcompress.save_compressed(shared, folder / "model.tfc").size_bytes

    def worst(bits):
        return max(0.9 - CURVES[path][each] for path, each in bits.items())

    bits = tfcompress.bits_for(model, CURVES, share)
    assert list(bits) == list(NAMES) and size(bits) <= share * plain
    for better in sorted({round(0.9 - figure, 9) for each in CURVES.values() for figure in each.values()}):
        if better < worst(bits) - 1e-9:
            fewest = {
                path: next(n for n in range(1, 6) if 0.9 - each[n] <= better + 1e-9)
                for path, each in CURVES.items()
            }
            assert size(fewest) > share * plain


def test_bytes_and_shares_are_the_same():
    model = network()
    plain = sum(weight.nbytes for weight in model.get_weights())
    assert tfcompress.bits_for(model, CURVES, 0.2) == tfcompress.bits_for(model, CURVES, 0.2 * plain)


def test_a_figure_that_falls_again_with_more_bits_counts():
    curves = {"middle": {1: 0.2, 2: 0.9, 3: 0.5, 4: 0.9, 32: 0.9}}
    assert tfcompress.bits_for(network(), curves, 1.0) == {"middle": 4}


def test_layers_without_a_curve_keep_their_weights():
    model = network()
    bits = tfcompress.bits_for(model, {"middle": CURVES["middle"]}, 0.6)
    shared = tfcompress.strip(tfcompress.share(model, bits))
    np.testing.assert_array_equal(
        shared.get_layer("body").get_weights()[0], model.get_layer("body").get_weights()[0]
    )
    assert len(np.unique(shared.get_layer("middle").get_weights()[0])) <= 3


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"size": 0}, "size is a number of bytes"),
        ({"size": "1 MB"}, "size is a number of bytes"),
        ({"size": 0.001}, "with the fewest bits measured it takes"),
        ({"curves": {}}, "analysis.bit_sensitivity"),
        ({"curves": {"boddy": curve(0.1)}}, "Did you mean 'body'"),
        ({"curves": {"body": {1: 0.1}}}, "finite figure for 32"),
        ({"curves": {"body": {1: float("nan"), 32: 0.9}}}, "finite figure for 32"),
        ({"curves": {"body": {0: 0.1, 32: 0.9}}}, "from 1 to 12"),
    ],
)
def test_what_cannot_be_is_refused(given_, message):
    with pytest.raises(ValueError, match=message):
        tfcompress.bits_for(network(), **{"curves": CURVES, "size": 0.2, **given_})


def test_masks_are_to_be_stripped_before():
    with pytest.raises(ValueError, match="strip"):
        tfcompress.bits_for(tfcompress.wrap(network(), MagnitudePruning(0.5)), CURVES, 0.2)
