"""Random models out of everything that moves channels about."""

import keras
import numpy as np
from keras import layers, ops

SIZE = 8  # height and width stay, so that any two tensors can meet


def build(seed: int, steps: int = 10) -> keras.Model:
    """A model of about `steps` random operations on 8x8 maps; the same one for the same seed."""
    rng = np.random.default_rng(seed)
    inputs = keras.Input((SIZE, SIZE, 3))
    tensors = [layers.Conv2D(int(rng.integers(4, 9)), 1)(inputs)]
    shared: list[keras.Layer] = []
    for _ in range(steps):
        operation = OPERATIONS[rng.integers(len(OPERATIONS))]
        tensors += operation(rng, tensors, shared)
    used = [layers.Conv2D(4, 1)(tensor) for tensor in tensors[-3:]]
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(tensor) for tensor in used])
    return keras.Model(inputs, layers.Dense(3)(x))


def _pick(rng, tensors):
    return tensors[rng.integers(len(tensors))]


def _width(rng) -> int:
    return int(rng.integers(2, 9))


def _convolution(rng, tensors, shared):
    kernel, activation = int(rng.integers(1, 4)), [None, "relu", "sigmoid"][rng.integers(3)]
    return [layers.Conv2D(_width(rng), kernel, padding="same", activation=activation)(_pick(rng, tensors))]


def _normalization(rng, tensors, shared):
    scale, center = (bool(flag) for flag in rng.integers(0, 2, 2))
    return [layers.BatchNormalization(scale=scale, center=center)(_pick(rng, tensors))]


def _depthwise(rng, tensors, shared):
    return [
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=int(rng.integers(1, 3)))(
            _pick(rng, tensors)
        )
    ]


def _separable(rng, tensors, shared):
    return [layers.SeparableConv2D(_width(rng), 3, padding="same")(_pick(rng, tensors))]


def _grouped(rng, tensors, shared):
    x = _pick(rng, tensors)
    groups = [g for g in (2, 3, 4) if x.shape[-1] % g == 0]
    if not groups:
        return []
    chosen = groups[rng.integers(len(groups))]
    return [layers.Conv2D(chosen * int(rng.integers(1, 4)), 3, padding="same", groups=chosen)(x)]


def _merge(rng, tensors, shared):
    x = _pick(rng, tensors)
    y = _pick(rng, [t for t in tensors if t.shape == x.shape])
    kind = [layers.Add, layers.Multiply, layers.Maximum, layers.Average, layers.Subtract][rng.integers(5)]
    return [kind()([x, y])]


def _residual(rng, tensors, shared):
    x = _pick(rng, tensors)
    y = layers.Conv2D(_width(rng), 1, activation="relu")(x)
    return [x + layers.Conv2D(x.shape[-1], 3, padding="same")(y)]


def _concatenation(rng, tensors, shared):
    parts = [_pick(rng, tensors) for _ in range(int(rng.integers(2, 4)))]
    return [layers.Concatenate()(parts)] if sum(part.shape[-1] for part in parts) < 40 else []


def _split(rng, tensors, shared):
    x = _pick(rng, tensors)
    if x.shape[-1] < 4:
        return []
    cut = int(rng.integers(2, x.shape[-1] - 1))
    return [x[..., :cut], x[..., cut:]] if rng.integers(2) else list(ops.split(x, [cut], axis=-1))


def _gate(rng, tensors, shared):
    x = _pick(rng, tensors)
    gate = layers.Dense(_width(rng), activation="relu")(layers.GlobalAveragePooling2D()(x))
    gate = layers.Reshape((1, 1, x.shape[-1]))(layers.Dense(x.shape[-1], activation="sigmoid")(gate))
    return [layers.Multiply()([x, gate])]


def _spatial_gate(rng, tensors, shared):
    x = _pick(rng, tensors)
    return [x * layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)]


def _pool(rng, tensors, shared):
    return [layers.MaxPooling2D(3, strides=1, padding="same")(_pick(rng, tensors))]


def _pointwise(rng, tensors, shared):
    x = _pick(rng, tensors)
    return [ops.relu6(x + 3) / 6 if rng.integers(2) else layers.PReLU(shared_axes=[1, 2])(x)]


def _pad(rng, tensors, shared):
    x = _pick(rng, tensors)
    return [ops.pad(x, [[0, 0], [0, 0], [0, 0], [1, 1]])] if x.shape[-1] < 10 else []


def _again(rng, tensors, shared):
    """A layer used before, on another tensor of the same width."""
    x = _pick(rng, tensors)
    usable = [layer for layer in shared if layer.kernel.shape[-2] == x.shape[-1]]
    if not usable:
        shared.append(layers.Conv2D(_width(rng), 1))
        return [shared[-1](x)]
    return [usable[rng.integers(len(usable))](x)]


def _nested(rng, tensors, shared):
    x = _pick(rng, tensors)
    inner = keras.Input(x.shape[1:])
    y = layers.Conv2D(_width(rng), 3, padding="same", activation="relu")(inner)
    model = keras.Model(inner, [layers.Conv2D(x.shape[-1], 1)(y), y])
    outputs = list(model(x))
    return outputs if rng.integers(2) else [*outputs, model(outputs[0])[1]]


def _transposed(rng, tensors, shared):
    """Through channels first and back."""
    x = layers.Permute((3, 1, 2))(_pick(rng, tensors))
    return [layers.Permute((2, 3, 1))(layers.BatchNormalization(axis=1)(x))]


OPERATIONS = [
    _convolution,
    _convolution,
    _normalization,
    _depthwise,
    _separable,
    _grouped,
    _merge,
    _residual,
    _concatenation,
    _split,
    _gate,
    _spatial_gate,
    _pool,
    _pointwise,
    _pad,
    _again,
    _nested,
    _transposed,
]
