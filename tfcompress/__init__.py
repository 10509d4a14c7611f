"""Model compression for Keras 3: models that are really smaller and really faster.

>>> import keras, tfcompress
>>> x = keras.Input((8, 8, 3))
>>> y = keras.layers.Conv2D(16, 3, activation="relu", name="stem")(x)
>>> y = keras.layers.GlobalAveragePooling2D()(y)
>>> model = keras.Model(x, keras.layers.Dense(2)(y))
>>> small = tfcompress.prune(model, "l1", sparsity=0.5)
>>> small.get_layer("stem").filters
8
"""

from tfcompress import (
    analysis,
    blocks,
    callbacks,
    channels,
    coding,
    constraints,
    criteria,
    distillation,
    export,
    layers,
    ops,
    pruning,
    regularizers,
    schedules,
    selection,
)
from tfcompress.channels import shrink, trace
from tfcompress.export import inspect_compressed, load_compressed, save_compressed
from tfcompress.layers import constrain, densify, release, share, strip, wrap
from tfcompress.ops import load_delegate
from tfcompress.pruning import (
    allocation,
    attach,
    bits_for,
    compact,
    compare,
    fit_head,
    prune,
    prune_by_energy,
    prune_connections,
    prune_iteratively,
    prune_layerwise,
    random_masks,
    reconstruct,
    reestimate_batch_norm,
    remove_zeroed,
    replace,
    replace_head,
    shrink_silenced,
    sparsify,
    sparsity_for,
)
from tfcompress.selection import Cutoff, Selection

__version__ = "0.1.0"

__all__ = [
    "Cutoff",
    "Selection",
    "allocation",
    "analysis",
    "attach",
    "bits_for",
    "blocks",
    "callbacks",
    "channels",
    "coding",
    "compact",
    "compare",
    "constrain",
    "constraints",
    "criteria",
    "densify",
    "distillation",
    "export",
    "fit_head",
    "inspect_compressed",
    "layers",
    "load_compressed",
    "load_delegate",
    "ops",
    "prune",
    "prune_by_energy",
    "prune_connections",
    "prune_iteratively",
    "prune_layerwise",
    "pruning",
    "random_masks",
    "reconstruct",
    "reestimate_batch_norm",
    "regularizers",
    "release",
    "remove_zeroed",
    "replace",
    "replace_head",
    "save_compressed",
    "schedules",
    "selection",
    "share",
    "shrink",
    "shrink_silenced",
    "sparsify",
    "sparsity_for",
    "strip",
    "trace",
    "wrap",
]
