"""What a mask rule is: from weights to the masks that say which of them count.

Your own is one small class. It works on NumPy arrays, between the steps of training:

>>> from dataclasses import dataclass
>>> import numpy as np
>>> from tfcompress.layers import MaskRule
>>> @dataclass(frozen=True)
... class Positive(MaskRule):
...     def next_update(self, step):
...         return step  # at every step
...     def update(self, masked, step):
...         return [weight.value > 0 for weight in masked]
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras
import numpy as np

from tfcompress._arrays import to_numpy
from tfcompress._kernels import Layout
from tfcompress._settings import Settings


@dataclass(frozen=True)
class MaskedWeight:
    """A weight, the mask on it, and what its rule remembers of it.

    Attributes:
        weight: the variable that is trained.
        mask: bool variable of the same shape, True = the entry counts.
        layout: what the weight's axes run over.
        rule: what updates the mask; None for a mask that stays as it is.
        memory: name -> scalar variable, see `MaskRule.memory`.
    """

    weight: keras.Variable
    mask: keras.Variable
    layout: Layout
    rule: "MaskRule | None" = None
    memory: dict[str, keras.Variable] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.weight.path

    @property
    def value(self) -> np.ndarray:
        """The weight as an array."""
        return to_numpy(self.weight)

    @property
    def kept(self) -> np.ndarray:
        """The mask as an array."""
        return to_numpy(self.mask)

    @property
    def size(self) -> int:
        return int(np.prod(self.weight.shape))


@dataclass(frozen=True)
class MaskRule(Settings):
    """Decides when masks are updated, and to what. Subclasses are frozen dataclasses.

    Attributes:
        straight_through: whether masked entries are trained, too: they count as zero in the forward
            pass, but their gradient is that of an entry that counts. Otherwise it is zero.
        memory: name -> initial value of the scalars that the rule keeps with each weight. They are
            saved with the model.
    """

    straight_through: ClassVar[bool] = False
    memory: ClassVar[dict[str, float]] = {}

    @property
    def masks_biases(self) -> bool:
        """Whether biases get masks, too; with `wrap` only."""
        return False

    def next_update(self, step: int) -> int | None:
        """The first step from `step` on at which masks are updated; None if there is none."""
        raise NotImplementedError

    def update(self, masked: Sequence[MaskedWeight], step: int) -> list[np.ndarray]:
        """The new masks, bool, of all the weights under this rule, in their order, at a step that is due."""
        raise NotImplementedError

    def check(self, path: str, shape: tuple[int, ...], layout: Layout) -> None:
        """Raises `ValueError` if the rule cannot mask a weight of this shape."""


def masked_weights(model: Any) -> list[MaskedWeight]:
    """The masked weights of a model or layer, whether it is functional, Sequential or subclassed."""
    found = [getattr(variable, "masked", None) for variable in model.variables]
    return [masked for masked in found if masked is not None]


def link(masked: MaskedWeight) -> None:
    """Makes the mask known to `masked_weights`."""
    masked.weight.masked = masked


def unlink(masked: MaskedWeight) -> None:
    del masked.weight.masked
