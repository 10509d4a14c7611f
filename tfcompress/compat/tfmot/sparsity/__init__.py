"""As in tfmot, so that `tfmot.sparsity.keras` is found."""

from tfcompress.compat.tfmot.sparsity import keras

__all__ = ["keras"]
