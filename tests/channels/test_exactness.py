"""The smaller model equals the model in which nothing reads the removed channels any more."""

import keras
import numpy as np
import pytest
import random_graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import MODELS
from surgery import check_exact, inputs_for, outputs_of

from tfcompress import channels


@pytest.mark.parametrize("name", MODELS)
def test_shrunk_model_equals_silenced_model(name):
    small = check_exact(MODELS[name]())
    assert small.count_params() < MODELS[name]().count_params()


@pytest.mark.parametrize("name", MODELS)
def test_every_group_of_the_zoo_but_the_known_ones_is_free(name):
    graph = channels.trace(MODELS[name]())
    reasons = {group.locked for group in graph if group.locked}
    known = ("model's output", "model's input", "padding", "look across", "spreads it", "initial state")
    assert not graph.unknown
    assert all(any(words in reason for words in known) for reason in reasons), reasons


@given(st.integers(0, 10**6))
@settings(max_examples=12)
def test_random_graphs_shrink_exactly(seed):
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    check_exact(random_graphs.build(seed), seed=seed)


def test_shrunk_model_of_float64_equals_to_1e9():
    keras.config.set_dtype_policy("float64")
    try:
        check_exact(MODELS["inception"](), tolerance=1e-9)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_model_keeps_its_policy(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = MODELS["residual_with_projection"]()
        small = check_exact(model, tolerance=0.05)
    finally:
        keras.config.set_dtype_policy("float32")
    assert small.layers[1].dtype_policy.name == policy
    assert small.layers[1].kernel.dtype == "float32"


def test_layer_norm_stream_is_freed_only_as_an_approximation():
    x = i = keras.Input((8,))
    x = keras.layers.LayerNormalization(name="norm")(keras.layers.Dense(6, name="wide")(x))
    model = keras.Model(i, keras.layers.Dense(2)(x))
    assert "looks across channels" in channels.trace(model)["wide"].locked
    graph = channels.trace(model, approximate=True)
    small = channels.shrink(model, graph, {"wide": np.arange(6) < 3})
    assert small.get_layer("norm").gamma.shape == (3,)
    assert outputs_of(small, inputs_for(small))[0].shape == (2, 2)


def test_group_norm_keeps_its_groups_balanced_as_an_approximation():
    x = i = keras.Input((8, 8, 3))
    x = keras.layers.GroupNormalization(groups=2)(keras.layers.Conv2D(8, 1, name="wide")(x))
    model = keras.Model(i, keras.layers.Conv2D(2, 1)(x))
    graph = channels.trace(model, approximate=True)
    with pytest.raises(ValueError, match="equal numbers"):
        channels.shrink(model, graph, {"wide": np.arange(8) < 4})
    small = channels.shrink(model, graph, {"wide": np.arange(8) % 2 == 0})
    assert outputs_of(small, inputs_for(small))[0].shape == (2, 8, 8, 2)
