"""tfmot's functions: models and layers with masks, and without them again."""

import abc
from collections.abc import Sequence
from typing import Any

import keras

from tfcompress import _calls, _kernels, layers
from tfcompress.compat.tfmot.masks import LowMagnitude
from tfcompress.compat.tfmot.schedules import ConstantSparsity, PruningSchedule
from tfcompress.layers import MaskedLayer

HALF = ConstantSparsity(0.5, 0)

# In a list of layers, which are not built, these are known to have no kernels.
NO_KERNELS = tuple(
    getattr(keras.layers, name)
    for name in """
    Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D
    AveragePooling3D BatchNormalization Concatenate Cropping1D Cropping2D Cropping3D Dot Dropout ELU Flatten
    GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization Identity InputLayer Lambda
    LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum Multiply
    Normalization PReLU Permute ReLU RepeatVector Rescaling Reshape Softmax SpatialDropout1D SpatialDropout2D
    SpatialDropout3D Subtract UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D
    ZeroPadding2D ZeroPadding3D
    """.split()
)


class PruningPolicy(abc.ABC):
    """Which layers of a model are pruned."""

    @abc.abstractmethod
    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Whether to prune this layer."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raises `ValueError` if the model should not be pruned."""


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: PruningSchedule = HALF,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: Any = None,
    sparsity_m_by_n: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Returns a model, a layer or a list of layers whose small weights are masked while it trains.

    Compile it, train it with the callback `UpdatePruningStep()`; then `strip_pruning` gives a plain model.

    Args:
        to_prune: a functional or built Sequential model, which is copied; a layer; or a list of layers.
            Layers without kernels, and those that are masked already, are left as they are.
        pruning_schedule: such as `PolynomialDecay(...)`.
        block_size: (inputs, outputs) of the blocks that are masked as one, as in the kernel of a Dense layer.
        block_pooling_type: `"AVG"` or `"MAX"`, of the magnitudes in a block.
        pruning_policy: an object whose `allow_pruning(layer)` says which layers of a model to prune.
        sparsity_m_by_n: `(m, n)`: of every n consecutive input channels m are masked, from the first batch
            on; the schedule does not count.
        **kwargs: for the wrapper of a single layer.

    Raises:
        ValueError: `to_prune` is none of these, nothing in it can be pruned, or a setting is wrong.
    """
    m_by_n = None if sparsity_m_by_n is None else tuple(sparsity_m_by_n)
    rule = LowMagnitude(pruning_schedule, tuple(block_size), block_pooling_type, m_by_n)
    if isinstance(to_prune, keras.Model):
        return _prune_model(to_prune, rule, pruning_policy)
    if isinstance(to_prune, list):
        return [_prune_layer(layer, rule) for layer in to_prune]
    if isinstance(to_prune, keras.layers.Layer):
        return _prune_layer(to_prune, rule, **kwargs)
    raise ValueError(
        "`prune_low_magnitude` can only prune a Sequential or functional keras.Model, a keras layer or a "
        f"list of layers, got {type(to_prune).__name__}."
    )


def strip_pruning(model: keras.Model) -> keras.Model:
    """Returns the model without its masks: what they hide is zero.

    Raises:
        ValueError: nothing in the model is masked.
    """
    return layers.strip(model)


def prune_scope() -> keras.saving.CustomObjectScope:
    """Where tfmot has to be when it loads a pruned model. Here any place will do."""
    return keras.saving.custom_object_scope({})


def _prune_model(model: keras.Model, rule: LowMagnitude, policy: PruningPolicy | None) -> keras.Model:
    _calls.check_functional(model)
    if policy is not None and hasattr(policy, "ensure_model_supports_pruning"):
        policy.ensure_model_supports_pruning(model)
    chosen = [
        path
        for path, layer in _prunable_layers(model).items()
        if policy is None or policy.allow_pruning(layer)
    ]
    if not chosen:
        raise ValueError(f"'{model.name}' has no layer to prune, or the policy allows none.")
    return layers.wrap(model, rule, include=chosen)


def _prunable_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers with other than depthwise kernels, by path; of those in a Keras wrapper, the wrapper."""
    walked = list(_calls.walk(model))
    inside = {id(inner) for _, operation in walked for inner in _calls.wrapped_layers(operation)}
    return {
        path: operation
        for path, operation in walked
        if id(operation) not in inside
        and not isinstance(operation, MaskedLayer)
        and not _calls.is_functional(operation)
        and any(layout.channels for _, layout in _kernels.kernels(operation))
    }


def _prune_layer(layer: Any, rule: LowMagnitude, **kwargs: Any) -> Any:
    if isinstance(layer, MaskedLayer) or type(layer) in NO_KERNELS:
        return layer
    return MaskedLayer(layer, rule, **kwargs)
