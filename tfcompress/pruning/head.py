"""Replace a big dense head by global average pooling."""

import keras

from tfcompress import _calls, _names
from tfcompress.pruning.rewired import rewired

# What the new Dense has of the old one. The kernel has another shape, so it starts from the default.
_KEPT = (
    "units activation use_bias kernel_regularizer bias_regularizer activity_regularizer kernel_constraint "
    "bias_constraint"
).split()


def replace_head(model: keras.Model, *, name: str = "head") -> keras.Model:
    """Returns a copy with everything from the first Flatten on replaced by pooling and one Dense.

    The dense layers of networks like VGG-16 hold most of their weights; Luo and Wu (2017, section
    3.3) replace them by global average pooling and a single Dense layer, which is where most of
    their compression comes from. The new Dense has the units, activation, regularizers and constraints of
    the old last one; what follows that one, such as a Softmax layer, stays. It is new: train it.

    A Sequential model comes back as one. The copy is compiled as the model was, with the optimizer's state
    of the layers that stay. Losses and metrics that were given by the name of the output do not find the
    new one: call `compile()` then.

    Args:
        model: a functional or Sequential classifier, one input and one output, with a Flatten over
            maps `(batch, height, width, channels)` followed by Dense layers. It is not changed.
        name: of the new Dense layer. If the model has a layer of that name, a number is added.

    Raises:
        ValueError: the model is subclassed or not built; it has no such head; or something that does not
            come through the Flatten joins behind it, which pooling would cut off.
    """
    recipe = _calls.read(model)
    first, last = _head(model, recipe)
    flat, old = first.operation, last.operation
    pool = keras.layers.GlobalAveragePooling2D(data_format=flat.data_format, dtype=flat.dtype_policy)
    kept = {key: getattr(old, key) for key in _KEPT}
    dense = keras.layers.Dense(**kept, dtype=old.dtype_policy, name=_names.free(name, recipe.operations))
    maps: list[keras.KerasTensor] = []

    def flatten(operation, tensors):
        maps.extend(tensors)
        return operation(*tensors)

    # Nothing reads the Flatten and the layers behind it any more, so `rewired` leaves them out.
    changes = {
        (first.name, first.index): flatten,
        (last.name, last.index): lambda operation, tensors: dense(pool(maps[0])),
    }
    return rewired(model, calls=changes)


def _head(model: keras.Model, recipe: _calls.Recipe) -> tuple[_calls.Call, _calls.Call]:
    """The calls of the Flatten and of the last Dense."""
    flat = [call for call in recipe.calls if isinstance(call.operation, keras.layers.Flatten)]
    outputs = keras.tree.flatten(recipe.outputs)
    if len(flat) != 1 or len(outputs) != 1 or len(recipe.shapes[flat[0].inputs[0]]) != 4:
        raise ValueError(
            f"'{model.name}' needs one Flatten over maps (batch, height, width, channels) and one output "
            f"for its head to be replaced; it has {len(flat)} Flatten and {len(outputs)} outputs."
        )
    behind = {(flat[0].name, flat[0].index)}
    for call in recipe.calls:
        sources = {(ref.operation, ref.call) for ref in call.inputs}
        if sources & behind and sources - behind:
            raise ValueError(
                f"'{call.name}' joins what comes from the Flatten '{flat[0].name}' with something else, "
                "which pooling would cut off. Replace this head by hand."
            )
        behind |= {(call.name, call.index)} if sources & behind else set()
    last = _last_dense(recipe, outputs[0])
    if last is None or (last.name, last.index) not in behind:
        raise ValueError(
            f"'{model.name}' does not end in a Dense layer behind the Flatten '{flat[0].name}', with nothing "
            "but layers of one input after it, so it is not clear what the new head should be."
        )
    return flat[0], last


def _last_dense(recipe: _calls.Recipe, output: _calls.Ref) -> _calls.Call | None:
    """The last Dense; behind it there may be layers of one input, such as an Activation of its own."""
    calls = {(call.name, call.index): call for call in recipe.calls}
    call = calls.get((output.operation, output.call))
    while call is not None and not isinstance(call.operation, keras.layers.Dense):
        ref = call.inputs[0] if len(call.inputs) == 1 else None
        call = None if ref is None else calls.get((ref.operation, ref.call))
    return call
