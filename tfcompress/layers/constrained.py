"""Masks without wrappers, for models that cannot be copied: constraints on the weights themselves."""

import warnings
from typing import Any

import keras
import numpy as np

from tfcompress import _kernels
from tfcompress._arrays import to_numpy
from tfcompress._names import Patterns, chosen
from tfcompress.layers.rules import MaskedWeight, MaskRule, link, masked_weights, unlink
from tfcompress.layers.substituted import guard, unguard


class MaskConstraint(keras.constraints.Constraint):
    """Zeroes what a mask hides after every update, behind the constraint that was there before."""

    def __init__(self, mask: keras.Variable, before: Any = None):
        self.mask, self.before = mask, before

    def __call__(self, value: Any) -> Any:
        # JAX hands constraints the variable itself, and its `where` does not take one.
        value = keras.ops.convert_to_tensor(value if self.before is None else self.before(value))
        return keras.ops.where(self.mask.value, value, keras.ops.zeros((), value.dtype))


def constrain(
    model: keras.Model,
    rule: MaskRule,
    *,
    include: Patterns = None,
    exclude: Patterns = None,
    from_zeros: bool = False,
) -> list[MaskedWeight]:
    """Masks the kernels of a model in place, by constraints: for subclassed models.

    Train it with `callbacks.UpdateMasks()`, as a model from `wrap`, and call `release` at the end. What is
    masked is zero in the weights themselves, in every step, so that entries never come back: a rule that
    trains masked entries needs `wrap`. Masks are not saved with the model, but zeros are: `from_zeros` goes
    on with them.

    Args:
        model: any built Keras model. **It is changed**: its variables get constraints.
        rule: such as `MagnitudePruning(0.8)`.
        include: names of layers or regular expressions; without it all layers with kernels. A layer
            whose name is not unique goes by its path, `"model/block/dense"`.
        exclude: likewise, these are not masked.
        from_zeros: begin with masks that hide the entries that are zero now, as in a model that was masked
            before it was saved. Otherwise with masks that hide nothing.

    Returns:
        What is masked, as `layers.masked_weights(model)` lists it.

    Raises:
        ValueError: the model is not built, something in it is masked already, a pattern matches no
            layer, or the rule needs masked entries to be trained or does not fit a weight.
    """
    if not isinstance(rule, MaskRule) or rule.straight_through:
        raise ValueError(
            f"Expected a rule that leaves masked entries alone, such as MagnitudePruning(0.5), got {rule!r}. "
            "DynamicNetworkSurgery trains them, too: it needs tfcompress.wrap(model, rule)."
        )
    if not model.built or not model.trainable_variables:
        raise ValueError(f"'{model.name}' has no weights yet. Build it, or call it on a batch of data.")
    adapted = [layer.name for layer in _kernels.all_held(model) if getattr(layer, "lora_enabled", False)]
    if adapted:
        raise ValueError(
            f"'{adapted[0]}' has LoRA adapters, which no mask hides; save and load the model to merge them."
        )
    kernels = _kernels.by_layer(model)
    pairs = [pair for path in chosen(kernels, include, exclude) for pair in kernels[path]]
    taken = [weight.path for weight, _ in pairs if hasattr(weight, "masked")]
    if taken or not pairs:
        reason = f"'{taken[0]}' is masked already" if taken else "no layer with a kernel is left"
        raise ValueError(f"Nothing was masked in '{model.name}': {reason}.")
    for weight, layout in pairs:
        rule.check(weight.path, tuple(weight.shape), layout)
    for weight, layout in pairs:
        kept = to_numpy(weight) != 0 if from_zeros else np.ones(weight.shape, bool)
        mask = keras.Variable(kept, dtype="bool", trainable=False, name="mask")
        weight.constraint = MaskConstraint(mask, weight.constraint)
        link(MaskedWeight(weight, mask, layout, rule))
    guard(model, "masked")
    _compile_anew(model)
    return masked_weights(model)


def release(model: keras.Model) -> None:
    """Takes away what `constrain` put on; masked entries are zero, and free from now on.

    Warns if some are not, because weights were put into the model after the last step under its masks, by
    `load_weights` or `EarlyStopping(restore_best_weights=True)`: such weights stay as they are.

    Raises:
        ValueError: nothing in the model is constrained.
    """
    constrained = [masked for masked in masked_weights(model) if is_constrained(masked)]
    if not constrained:
        raise ValueError(
            f"Nothing in '{model.name}' is masked by constraints, so there is nothing to release."
        )
    changed = [masked.path for masked in constrained if masked.value[~masked.kept].any()]
    if changed:
        warnings.warn(
            f"'{changed[0]}' is not zero where its mask says so: other weights were put into the model after "
            "its last step of training. They stay as they are. Callbacks that put weights back, such as "
            "EarlyStopping, belong before UpdateMasks in the list.",
            stacklevel=2,
        )
    for masked in constrained:
        masked.weight.constraint = masked.weight.constraint.before
        unlink(masked)
    unguard(model)
    _compile_anew(model)


def is_constrained(masked: MaskedWeight) -> bool:
    """Whether the mask works by a constraint, and not by a wrapper."""
    return isinstance(masked.weight.constraint, MaskConstraint)


def hide(masked: MaskedWeight) -> None:
    """Zeroes, in the weight itself, what the mask hides."""
    masked.weight.assign(np.where(masked.kept, masked.value, 0))


def _compile_anew(model: keras.Model) -> None:
    """A training step that was compiled before knows nothing of the constraints."""
    if model.compiled:
        model.make_train_function(force=True)
