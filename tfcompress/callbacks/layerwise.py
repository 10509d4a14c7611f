"""Prune filters layer by layer while `model.fit` trains."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress import _data, channels
from tfcompress.analysis import grouping
from tfcompress.callbacks.zeros import Zeros
from tfcompress.selection import Selection, check_sparsity


class LayerwisePruning(keras.callbacks.Callback):
    """Prunes layer by layer inside one `fit`, and lets the training go on in between.

    Every few epochs the next group of coupled layers is scored on calibration data, and its weakest
    channels are silenced: all weights that read them become zero and stay zero, through momentum,
    weight decay, moving averages of weights, and interruption and resumption by `BackupAndRestore`.
    The model keeps its shape while it trains; afterwards `tfcompress.shrink_silenced(model)`
    removes the silent channels for good, with equal outputs. Where `fit` ends in an error, as by Ctrl-C,
    the channels silenced so far are held until the next `fit` with this callback, which goes on from them.

    Args:
        criterion: see `tfcompress.prune`.
        sparsity: see `tfcompress.prune`.
        data: calibration data for the criterion. What can be read only once, such as a generator, is
            kept in memory.
        start_epoch: the epoch, counted from 0, before which the first group is pruned.
        every: epochs of training between one group and the next, and after the last.
        include: see `tfcompress.prune`.
        exclude: see `tfcompress.prune`.
        order: see `tfcompress.prune_layerwise`.
        selection: see `Selection`; its scope must be `"group"`.

    Raises:
        ValueError: when made or at the beginning of training, before any: an argument or the data is wrong,
            a weight is NaN, nothing can be pruned, the planned epochs do not suffice for all groups, or
            `fit` begins behind an epoch at which groups were due that are not pruned.

    >>> x = keras.Input((8, 8, 1))
    >>> y = keras.layers.Conv2D(16, 3, activation="relu", name="stem")(x)
    >>> y = keras.layers.GlobalAveragePooling2D()(y)
    >>> model = keras.Model(x, keras.layers.Dense(2)(y))
    >>> model.compile("sgd", "mse")
    >>> images, labels = np.random.rand(16, 8, 8, 1), np.zeros((16, 2))
    >>> pruning = LayerwisePruning("apoz", sparsity=0.5, data=images)
    >>> history = model.fit(images, labels, epochs=1, callbacks=[pruning], verbose=0)
    >>> import tfcompress
    >>> tfcompress.shrink_silenced(model).get_layer("stem").filters
    8
    """

    def __init__(
        self,
        criterion: Any,
        *,
        sparsity: Any,
        data: Any = None,
        start_epoch: int = 0,
        every: int = 1,
        include: grouping.Patterns = None,
        exclude: grouping.Patterns = None,
        order: str | Sequence[str] = "forward",
        selection: Selection = Selection(),
    ):
        super().__init__()
        check_sparsity(sparsity)
        if selection.scope != "group":
            raise ValueError(
                "Layer by layer there is no ranking over all layers: use Selection(scope='group')."
            )
        if start_epoch < 0 or every < 1:
            raise ValueError(f"start_epoch must be >= 0 and every >= 1, got {start_epoch} and {every}.")
        self.criterion = grouping.criterion_of(criterion)
        self.sparsity, self.data = sparsity, data
        self.start_epoch, self.every = start_epoch, every
        self.include, self.exclude, self.order = include, exclude, order
        self.selection = selection

    def on_train_begin(self, logs: Any = None) -> None:
        self._zeros = Zeros(self.model)
        self.data = _data.repeatable(self.data)
        self._plan = grouping.plan(
            self.model,
            self.criterion,
            self.data,
            sparsity=self.sparsity,
            include=self.include,
            exclude=self.exclude,
            pool=self.selection.pool,
        )
        self._graph = self._plan.graph
        self._steps = grouping.steps(self._graph, self._plan.groups, self.order)
        needed = self.start_epoch + len(self._steps) * self.every
        if self.params["epochs"] < needed:
            raise ValueError(
                f"{len(self._steps)} groups, one every {self.every} epochs from epoch {self.start_epoch}, "
                f"need {needed} epochs, fit() has {self.params['epochs']}. Train longer or include fewer."
            )
        self._begun = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # What is silent is read off the weights, so that training resumed from a backup goes on alike.
        keep = channels.silenced(self.model, self._graph)
        if not self._begun:
            self._check_begin(epoch, keep)
        self._begun = True
        number, rest = divmod(epoch - self.start_epoch, self.every)
        if rest == 0 and 0 <= number < len(self._steps):
            keep |= self._masks(self._steps[number])
        self._zeros.set(channels.reading_masks(self.model, self._graph, keep))

    def _check_begin(self, epoch: int, silent: Mapping[str, np.ndarray]) -> None:
        """Raises `ValueError` if training begins behind steps that nobody took: no backup was restored."""
        taken = -(-(epoch - self.start_epoch) // self.every)
        due = [name for step in self._steps[: max(taken, 0)] for name in step]
        expected = self.selection.masks(
            {name: self._plan.scores[name] for name in due}, self._plan.sparsity, self._graph.balances
        )
        if not all(mask.all() for mask in expected.values()) and not set(due) & set(silent):
            raise ValueError(
                f"fit() begins at epoch {epoch}, but the groups {due} were due before, and none of them is "
                f"pruned. Let start_epoch={epoch}, or begin at epoch {self.start_epoch}."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._zeros.apply()
        keep = channels.silenced(self.model, self._graph)
        total = sum(group.size for group in self._graph.free)
        if logs is not None:
            logs["sparsity"] = sum(int((~mask).sum()) for mask in keep.values()) / total

    def on_train_end(self, logs: Any = None) -> None:
        self._zeros.apply()
        self._zeros.release()

    def _masks(self, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        groups = [self._graph[name] for name in names]
        found = grouping.scores(
            self.model, self._graph, groups, self.criterion, self.data, self.selection.pool
        )
        return self.selection.masks(found, self._plan.sparsity, self._graph.balances)
