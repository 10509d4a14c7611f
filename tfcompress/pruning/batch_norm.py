"""Measure the statistics of BatchNormalization again."""

from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _cloning, _data
from tfcompress._arrays import to_numpy


def reestimate_batch_norm(model: keras.Model, data: Any) -> keras.Model:
    """Returns a copy whose BatchNormalization layers hold the mean and variance of `data`.

    Removing channels shifts what later layers see; new statistics often win back much of the
    accuracy before any training. Each batch is run in training mode, and the batches' statistics
    are averaged with equal weight, which is what an endless moving average would converge to;
    larger batches give better variances. No weight is trained.

    Args:
        model: a built functional or Sequential model. It is not changed.
        data: inputs, a few hundred images or more: see `prune`.

    Raises:
        ValueError: there is no data, or it does not fit the model.
    """
    copy = _cloning.clone(model)
    layers = [op for _, op in _calls.walk(copy) if isinstance(op, keras.layers.BatchNormalization)]
    if not layers:
        return copy
    sums: list[Any] = [(0.0, 0.0)] * len(layers)
    count = 0
    momenta = [layer.momentum for layer in layers]
    flags = [layer.trainable for layer in layers]
    for layer in layers:
        layer.momentum = 0.0  # after a batch the moving statistics are that batch's own
        layer.trainable = True
    for inputs, _ in _data.batches(data):
        _data.check_inputs(copy, inputs)
        copy(keras.tree.map_structure(keras.ops.convert_to_tensor, inputs), training=True)
        sums = [_add(total, layer) for total, layer in zip(sums, layers, strict=True)]
        count += 1
    for layer, (mean, variance), momentum, flag in zip(layers, sums, momenta, flags, strict=True):
        layer.moving_mean.assign(mean / count)
        layer.moving_variance.assign(variance / count)
        layer.momentum, layer.trainable = momentum, flag
    return copy


def _add(total: tuple, layer: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = to_numpy(layer.moving_mean), to_numpy(layer.moving_variance)
    return total[0] + mean, total[1] + variance
