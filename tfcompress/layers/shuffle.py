"""Shuffle channels between the groups of grouped convolutions."""

from collections.abc import Sequence
from typing import Any

import keras

from tfcompress._checks import check_whole


@keras.saving.register_keras_serializable(package="tfcompress")
class ChannelShuffle(keras.layers.Layer):
    """Puts the channels, the last axis, into another order.

    With `groups=g` and `g * n` channels, channel `i * n + j` (the *j*-th of group *i*) moves to place
    `j * g + i`, so that each of the following groups sees channels of every group before: reshape to
    `(g, n)`, transpose, flatten (Zhang et al. 2018, "ShuffleNet", section 3.1).

    The layer holds the order as an explicit permutation, which `tfcompress.shrink` rewrites when
    channels go; a shuffle by reshaping could only lose whole columns of its grid.

    Args:
        groups: the number of groups, which must divide the channels.
        permutation: instead of `groups`: output channel *k* is input channel `permutation[k]`.

    Raises:
        ValueError: not exactly one of the two is given, groups are no whole number above 0, the permutation
            is none, or the channels do not fit.

    >>> import numpy as np
    >>> shuffle = ChannelShuffle(groups=2)
    >>> keras.ops.convert_to_numpy(shuffle(np.array([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])))
    array([[0., 3., 1., 4., 2., 5.]], dtype=float32)
    """

    def __init__(self, groups: int | None = None, *, permutation: Sequence[int] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if (groups is None) == (permutation is None):
            raise ValueError(f"Give either groups or permutation, got {groups} and {permutation}.")
        if permutation is None:
            check_whole("groups", groups)
        if permutation is not None and sorted(permutation) != list(range(len(permutation))):
            raise ValueError(
                f"permutation must hold each of 0 ... {len(permutation) - 1} once, got {permutation}."
            )
        self.groups = None if groups is None else int(groups)
        self.permutation: list[int] | None = (
            None if permutation is None else [int(place) for place in permutation]
        )

    def build(self, input_shape: tuple) -> None:
        channels = input_shape[-1]
        if self.permutation is None:
            if channels % self.groups:
                raise ValueError(f"'{self.name}': {self.groups} groups do not divide {channels} channels.")
            size = channels // self.groups
            self.permutation = [place for first in range(size) for place in range(first, channels, size)]
        if len(self.permutation) != channels:
            raise ValueError(
                f"'{self.name}' orders {len(self.permutation)} channels, its input has {channels}."
            )
        self.built = True

    def call(self, inputs: Any) -> Any:
        return keras.ops.take(inputs, self.permutation, axis=-1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        held = (
            {"groups": self.groups} if self.permutation is None else {"permutation": list(self.permutation)}
        )
        return {**super().get_config(), **held}
