"""Replace a big dense head by global average pooling."""

from typing import Any

import keras

from tfcompress import _calls, _cloning


def replace_head(model: keras.Model, *, name: str = "head") -> keras.Model:
    """Returns a copy with everything from the first Flatten on replaced by pooling and one Dense.

    The dense layers of networks like VGG-16 hold most of their weights; Luo and Wu (2017, section
    3.3) replace them by global average pooling and a single Dense layer, which is where most of
    their compression comes from. The new Dense has as many units, and the same activation, as the
    old last one. It is new: train it.

    Args:
        model: a functional or Sequential classifier, one input and one output, with a Flatten over
            maps `(batch, height, width, channels)` followed by Dense layers. It is not changed.
        name: of the new Dense layer.

    Raises:
        ValueError: the model has no such head.
    """
    copy = _cloning.clone(model)
    recipe = _calls.read(copy)
    flat = [call for call in recipe.calls if isinstance(call.operation, keras.layers.Flatten)]
    outputs = keras.tree.flatten(recipe.outputs)
    if len(flat) != 1 or len(outputs) != 1 or len(recipe.shapes[flat[0].inputs[0]]) != 4:
        raise ValueError(
            f"'{model.name}' needs one Flatten over maps (batch, height, width, channels) and one output "
            f"for its head to be replaced; it has {len(flat)} Flatten and {len(outputs)} outputs."
        )
    last, after = _last_dense(recipe, outputs[0])
    layer = flat[0].operation
    pooled = keras.layers.GlobalAveragePooling2D(data_format=layer.data_format)(layer.input)
    made = keras.layers.Dense(last.units, activation=last.activation, dtype=last.dtype_policy, name=name)(
        pooled
    )
    for operation in after:
        made = operation(made)
    return keras.Model(_calls.input_of(copy), made, name=model.name)


def _last_dense(recipe: _calls.Recipe, output: _calls.Ref) -> tuple[Any, list]:
    """The last Dense, and the operations behind it, such as an Activation layer of its own."""
    calls = {call.name: call for call in recipe.calls}
    call = calls[output.operation]
    after: list = []
    while not isinstance(call.operation, keras.layers.Dense):
        if len(call.inputs) != 1 or call.inputs[0].operation not in calls:
            raise ValueError("The model does not end in a Dense layer.")
        after.insert(0, call.operation)
        call = calls[call.inputs[0].operation]
    return call.operation, after
