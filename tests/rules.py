"""What tests of mask rules share: a masked weight without a layer around it."""

import keras
import numpy as np

from tfcompress._kernels import Layout
from tfcompress.layers import MaskedWeight, MaskRule


def masked_weight(kernel: np.ndarray, rule: MaskRule, layout: Layout | None = None) -> MaskedWeight:
    """The kernel under a mask that hides nothing, with a fresh memory."""
    return MaskedWeight(
        keras.Variable(kernel, dtype="float32"),
        keras.Variable(np.ones(kernel.shape, bool), dtype="bool"),
        layout or Layout(),
        rule,
        {name: keras.Variable(value, dtype="float32") for name, value in rule.memory.items()},
    )
