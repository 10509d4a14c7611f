"""Verbs that take channels or connections out of a model: a model in, a smaller model out."""

from tfcompress.pruning import allocation, heads
from tfcompress.pruning.attach import attach
from tfcompress.pruning.batch_norm import reestimate_batch_norm
from tfcompress.pruning.bits import bits_for
from tfcompress.pruning.budget import Budget, sparsity_for
from tfcompress.pruning.by_energy import EnergyRound, prune_by_energy
from tfcompress.pruning.compacted import compact
from tfcompress.pruning.compare import Comparison, compare
from tfcompress.pruning.connections import prune_connections
from tfcompress.pruning.fit_head import fit_head
from tfcompress.pruning.head import replace_head
from tfcompress.pruning.iterative import prune_iteratively
from tfcompress.pruning.layerwise import prune_layerwise
from tfcompress.pruning.prune import prune
from tfcompress.pruning.random_masks import Search, random_masks
from tfcompress.pruning.reconstruct import Reconstruction, reconstruct
from tfcompress.pruning.removed import Removed
from tfcompress.pruning.replace import Redesigned, replace
from tfcompress.pruning.silenced import shrink_silenced
from tfcompress.pruning.sparsify import sparsify
from tfcompress.pruning.zeroed import remove_zeroed

__all__ = [
    "Budget",
    "Comparison",
    "EnergyRound",
    "Reconstruction",
    "Redesigned",
    "Removed",
    "Search",
    "allocation",
    "attach",
    "bits_for",
    "compact",
    "compare",
    "fit_head",
    "heads",
    "prune",
    "prune_by_energy",
    "prune_connections",
    "prune_iteratively",
    "prune_layerwise",
    "random_masks",
    "reconstruct",
    "reestimate_batch_norm",
    "remove_zeroed",
    "replace",
    "replace_head",
    "shrink_silenced",
    "sparsify",
    "sparsity_for",
]
