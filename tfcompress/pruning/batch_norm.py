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
        ValueError: the model is subclassed or not built, there is no data, or it does not fit the model.
    """
    copy = _cloning.clone(model)
    layers = _batch_norms(copy)
    for layer in layers:
        layer.momentum = 0.0  # after a batch the moving statistics are that batch's own
        layer.trainable = True
    sums: list[Any] = [(0.0, 0.0)] * len(layers)
    count = 0
    for inputs, _ in _data.batches_for(copy, data):
        tensors = [keras.ops.convert_to_tensor(array) for array in inputs]
        copy(keras.tree.pack_sequence_as(copy.input, tensors), training=True)
        sums = [_add(total, layer) for total, layer in zip(sums, layers, strict=True)]
        count += 1
    for layer, old, (mean, variance) in zip(layers, _batch_norms(model), sums, strict=True):
        layer.moving_mean.assign(mean / count)
        layer.moving_variance.assign(variance / count)
        layer.momentum, layer.trainable = old.momentum, old.trainable
        for variable, was in zip(layer.variables, old.variables, strict=True):
            variable.trainable = was.trainable
    return copy


def _batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    layers = (operation for _, operation in _calls.walk(model))
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def _add(total: tuple, layer: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = to_numpy(layer.moving_mean), to_numpy(layer.moving_variance)
    return total[0] + mean, total[1] + variance
