"""tensorflow-model-optimization's pruning (tfmot 0.8), on Keras 3.

Import this in place of `tensorflow_model_optimization`, and Keras in place of tf_keras; the rest of a script
for pruning stays as it is:

>>> import keras
>>> from tfcompress.compat import tfmot
>>> x = keras.Input((8,))
>>> model = keras.Model(x, keras.layers.Dense(4)(x))
>>> schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000)
>>> pruned = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
>>> pruned.layers[1].layer.name == model.layers[1].name
True

The same as in tfmot, which tests/compat checks against the real one: names, arguments and defaults; the
values and update steps of schedules, bit for bit; the batch in which each update happens; the masks of given
weights, by entries, by blocks and m by n; which kernels are pruned (not those of depthwise convolutions).

What differs:

* Masked weights get no gradient and keep their last value, with which they compete at the next update; they
  are zeroed when `fit` ends. tfmot zeroes them in every step, so what competes there is what one
  step of the optimizer made of zero.
* Of magnitudes that tie at the threshold as many stay as the sparsity leaves; in tfmot all of them do, so
  that a kernel with more zeros than asked for is unmasked altogether.
* The last blocks of a kernel that `block_size` does not divide are partial ones. tfmot masks the same blocks,
  but where two or more rows or columns are missing it ranks them by entries of their neighbours, and it
  fails where the blocks make up a single row or column. Here blocks also work on kernels of more than
  two axes: `(inputs, outputs)` at each tap.
* m by n runs along the input channels of every kind of layer. tfmot takes kernels of two or four axes only,
  and in Conv2DTranspose groups output channels.
* `PolynomialDecay` with `begin_step == end_step` gives its final sparsity in that step; tfmot gives NaN.
* Steps are those of `optimizer.iterations`: another `fit` goes on, compiling anew begins anew. tfmot
  counts in the wrappers.
* A `fit` in which `UpdatePruningStep` updates no mask, and none was before, is refused; without that callback
  `strip_pruning` warns, where tfmot fails in `fit`. Refused, too, are models without kernels, and
  stripping what is not pruned. tfmot lets them pass.
* More kinds of layers can be pruned: Conv1DTranspose, EinsumDense, ConvLSTM, Bidirectional, TimeDistributed.
  Layers without kernels are not wrapped, and wrapped ones keep their names.
* `PruningSummaries` logs sparsities at the end of an epoch, and no thresholds: there are none.
* There is no `PrunableLayer` and no `PruneForLatencyOnXNNPack`: kernels of custom layers are found by name,
  and a policy of your own is two methods (`PruningPolicy`).

docs/migrating-from-tfmot.md has the way from here to tfcompress's own interface.
"""

from typing import Any

from tfcompress.compat.tfmot import sparsity

__all__ = ["sparsity"]

MISSING = ("clustering", "experimental", "quantization")


def __getattr__(name: str) -> Any:
    if name in MISSING:
        raise AttributeError(
            f"tfcompress.compat.tfmot has no `{name}`: of tfmot it has the pruning, "
            "`tfmot.sparsity.keras`, only. See docs/migrating-from-tfmot.md."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
