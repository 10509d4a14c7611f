"""The table of stock Keras names what Keras has."""

import keras
import pytest
from surgery import inputs_for, outputs_of, random_masks

from tfcompress import channels
from tfcompress.channels import specs, table

CALLS = {
    "get_item": lambda x, _: x[..., 1:],
    "reshape": lambda x, f: f(x, (-1, 24)),
    "split": lambda x, f: f(x, 2, axis=-1)[0],
    "pad": lambda x, f: f(x, [[0, 0], [0, 0], [1, 1]]),
    "swapaxes": lambda x, f: f(x, 1, 2),
    "moveaxis": lambda x, f: f(x, 1, 2),
    "clip": lambda x, f: f(x, 0, 1),
    "threshold": lambda x, f: f(x, 0, 1),
    "cast": lambda x, f: f(x, "float16"),
    "expand_dims": lambda x, f: f(x, 1),
    "squeeze": lambda x, f: f(keras.ops.expand_dims(x, 1), 1),
    "concatenate": lambda x, f: f([x, x]),
    "stack": lambda x, f: f([x, x]),
}
BINARY = next(names for spec, names in table.OPS_TABLE if spec is table.MERGE).split()
NAMES = [name for _, names in table.OPS_TABLE for name in names.split()]


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_for_an_operation_is_found_again(name):
    x = keras.Input((4, 6))
    function = getattr(keras.ops, name, None)
    call = CALLS.get(name, (lambda x, f: f(x, x)) if name in BINARY else (lambda x, f: f(x)))
    operation = keras.Model(x, call(x, function)).operations[-1]
    assert specs.lookup(operation) is not None


def test_layers_that_only_applications_use_are_found():
    """Keras does not export these two classes: they are known by name and module."""
    convnext = keras.applications.ConvNeXtTiny(weights=None, include_top=False, input_shape=(32, 32, 3))
    inception = keras.applications.InceptionResNetV2(weights=None, include_top=False, input_shape=(75, 75, 3))
    kinds = {type(layer).__name__: layer for model in (convnext, inception) for layer in model.layers}
    for name in ("LayerScale", "CustomScaleLayer"):
        assert specs.lookup(kinds[name]) is not None


def test_layer_scale_is_locked_and_freed_as_an_approximation():
    model = keras.applications.ConvNeXtTiny(weights=None, input_shape=(32, 32, 3), classes=5)
    locked, freed = channels.trace(model), channels.trace(model, approximate=True)
    assert len(freed.free) > len(locked.free) and not freed.unknown
    keep = random_masks(freed)
    small = channels.shrink(model, freed, keep)
    assert small.count_params() < 0.4 * model.count_params()
    assert outputs_of(small, inputs_for(small))[0].shape == (2, 5)
