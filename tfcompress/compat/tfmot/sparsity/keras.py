"""The names of `tensorflow_model_optimization.sparsity.keras`."""

from tfcompress.compat.tfmot.callbacks import PruningSummaries, UpdatePruningStep
from tfcompress.compat.tfmot.pruning import PruningPolicy, prune_low_magnitude, prune_scope, strip_pruning
from tfcompress.compat.tfmot.schedules import ConstantSparsity, PolynomialDecay, PruningSchedule

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]
