"""Weights that stay zero while `model.fit` trains the others."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfcompress import _cloning
from tfcompress._arrays import to_numpy


class Zeros:
    """Keeps weights of a model, and the optimizer's slots of them, at zero where masks say so.

    A mask is a constraint on its weight, so it holds in every step, under any optimizer. To be made when
    training begins: masks that a training left on which ended in an error are taken off.
    """

    def __init__(self, model: keras.Model):
        _release_stale(model)
        self.model = model
        self.masks: dict[int, tuple[keras.Variable, np.ndarray, Any]] = {}

    def set(self, masks: Iterable[tuple[keras.Variable, np.ndarray]]) -> None:
        """Takes on masks (1 = free) that broadcast to their weights, in place of those of the same weights.

        The training step is compiled anew if any differs from what was.
        """
        new = {id(weight): (weight, np.asarray(mask, bool)) for weight, mask in masks}
        if all(
            key in self.masks and np.array_equal(self.masks[key][1], mask) for key, (_, mask) in new.items()
        ):
            return
        for key, (weight, mask) in new.items():
            before = self.masks[key][2] if key in self.masks else weight.constraint
            self.masks[key] = (weight, mask, before)
            weight.constraint = _Mask(mask, before)
        self.apply()
        self.model.make_train_function(force=True)

    def apply(self) -> None:
        """Zeroes now. The optimizer overwrites weights by their moving averages, so these too."""
        for weight, mask, _ in self.masks.values():
            weight.assign(np.where(mask, to_numpy(weight), 0))
        slots = _cloning.slots(self.model.optimizer, self.model.weights)
        for slot, weight in slots:
            if id(weight) in self.masks and slot.shape == weight.shape:
                slot.assign(np.where(self.masks[id(weight)][1], to_numpy(slot), 0))

    def release(self) -> None:
        """Lets all weights go; those that are zero stay so until a step of training moves them."""
        for weight, _, before in self.masks.values():
            weight.constraint = before
        if self.masks:
            self.model.make_train_function(force=True)
        self.masks = {}


def _release_stale(model: keras.Model) -> None:
    stale = [weight for weight in model.weights if isinstance(weight.constraint, _Mask)]
    for weight in stale:
        weight.constraint = _beneath(weight.constraint)
    if stale:
        model.make_train_function(force=True)


def _beneath(constraint: Any) -> Any:
    return _beneath(constraint.before) if isinstance(constraint, _Mask) else constraint


class _Mask(keras.constraints.Constraint):
    """Zeroes after every update, behind the constraint that was there before."""

    def __init__(self, mask: np.ndarray, before: Any):
        self.mask, self.before = mask, before

    def __call__(self, value: Any) -> Any:
        # JAX hands constraints the variable itself, and its `where` does not take one.
        value = keras.ops.convert_to_tensor(value if self.before is None else self.before(value))
        return keras.ops.where(self.mask, value, keras.ops.zeros((), value.dtype))
