"""The scale of the BatchNormalization behind a layer (Liu et al. 2017, "Network Slimming")."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress._arrays import to_numpy
from tfcompress.criteria.criterion import Criterion, checked
from tfcompress.criteria.sites import normalization, operations, owners


@dataclass(frozen=True)
class BatchNormScale(Criterion):
    """The absolute scale `|gamma_j|` of the BatchNormalization that reads the layer.

    Use it on networks trained with an L1 penalty on gamma (Liu et al. 2017, section 3); without
    that penalty gamma says little. Layers that no BatchNormalization with a scale follows are left
    out.
    """

    def score(self, model: keras.Model, layers: Sequence[str], data: Any = None) -> dict[str, np.ndarray]:
        operations(model, layers)
        places = owners(model)
        found = {path: normalization(places[path]) for path in layers if path in places}
        return {
            path: checked(path, np.abs(to_numpy(norm.gamma)))
            for path, norm in found.items()
            if norm is not None and norm.scale
        }
