"""Guided sparsity learning (Park et al. 2017): pressure only on layers that zeros make faster."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress._checks import check_number, check_whole
from tfcompress.analysis.steps import InputShape
from tfcompress.callbacks.held import let_go
from tfcompress.callbacks.masks import UpdateMasks
from tfcompress.callbacks.record import DROPPED, HELD, PRESSED, Progress, Record
from tfcompress.callbacks.ruled import ruled_layers
from tfcompress.callbacks.training import steps, sync
from tfcompress.callbacks.windows import Given, checked_windows, windows_of
from tfcompress.layers import MaskedWeight, MaskRule
from tfcompress.ops import Window

HOPELESS = "hopeless"


class GuidedSparsity(UpdateMasks):
    """Updates masks as `UpdateMasks` does, but only of layers that it makes faster.

    Zeros cost accuracy everywhere, and gain time only where a sparse convolution beats the dense one. Each
    layer has a window of useful sparsity (`ops.useful_window`): at less than its lower end the sparse
    convolution is slower than the dense one; beyond its upper end most of its time is no longer spent on
    weights. So every masked layer is in one of four states:

    * *hopeless*: it has no window. Its masks stay as they are, and so it is trained as a dense layer.
    * *pressed*: its rule updates its masks.
    * *held*: after an update its sparsity was at or above the upper end. Its masks stay as they are from
      then on.
    * *dropped*: its sparsity has stabilised below the lower end. Its masks hide nothing any more, and the
      layer, its kernel and its bias, has the dense weights of the beginning back, bit for bit, until the
      training ends; the other layers adapt to it.

    The sparsity of a layer is the share of its kernels' entries that are masked. It has stabilised when it
    was the same, within `tolerance`, at the ends of `patience` epochs more; epochs that lie between two
    updates of its rule do not count. It is compared with what it was when it last changed by more than
    `tolerance`, so that a layer that gets sparser in small steps is not dropped. A rule of a schedule that
    presses slowly, such as `schedules.Polynomial`, gets near to the upper end; what a single update makes is
    not cut to it.

    The callback takes the place of `UpdateMasks`, for all models and rules that that is for. Rules that look
    at several layers at once, such as `MagnitudePruning(scope="global")`, see those that are pressed. Where
    an L1 penalty makes the zeros, put it on layers that have a window; it goes on in held ones.
    `EarlyStopping(restore_best_weights=True)` belongs before this callback in the list.

    What is held at its dense weights keeps its slots in the optimizer, which go on without effect: each step
    moves such weights, and a constraint puts them back. A `fit` without this callback trains them again.

    Args:
        windows: None to ask the cost model, on the maps of the model and one thread of this machine;
            a function from `ops.ConvShape` to an `ops.Window`, or None for no window, to ask in its place,
            such as `functools.partial(park_window, ...)`; or a dict from layer names or regular expressions
            to `(lower, upper)`, sparsities in [0, 1], or None. Layers that none matches are hopeless.
        input_shape: the size of one image without batch axis, or a list, one for each of `model.inputs`, to
            be fast at. Needed where the model leaves its size open and no dict tells the windows.
        patience: for how many epochs a sparsity must not change to count as stabilised.
        tolerance: by how much it may change in them all the same.
        backup: path of a folder for what an interrupted training needs to go on as it was: the
            dense weights, the states and the windows. `BackupAndRestore` saves none of these. It serves a
            later `fit` on a model that was saved and loaded, too. Without it only a later `fit` with this
            very callback, on this very model, goes on; any other begins anew with the weights that it finds.
        per_layer: as of `UpdateMasks`.

    Raises:
        ValueError: an argument is out of range; when training begins: nothing is masked, no layer
            has a window, a pattern matches no layer, the windows are not to be found (a subclassed model or
            an open input size, no native core), the backup is of other layers; or as `UpdateMasks`.

    Logs at the end of each epoch, besides the `"sparsity"` of `UpdateMasks`, how many layers are `"pressed"`,
    `"held"` and `"dropped"`. `states` tells it by layer, and `layer_windows` the windows.

    Departs from the paper: the bounds are of sparsities, 1 - x, and come from a measured machine. The
    paper leaves open when a sparsity has stabilised, and what becomes of a dropped layer then.

    Reference: Park et al., Faster CNNs with Direct Sparse Convolutions and Guided Pruning, ICLR 2017,
    section 2.3.

    >>> from tfcompress.layers import MagnitudePruning, wrap
    >>> x = keras.Input((8,))
    >>> y = keras.layers.Dense(4, name="head")(keras.layers.Dense(16, name="body")(x))
    >>> model = wrap(keras.Model(x, y), MagnitudePruning(0.75))
    >>> model.compile("sgd", "mse")
    >>> guided = GuidedSparsity({"body": (0.5, 0.7)})
    >>> history = model.fit(np.ones((8, 8)), np.ones((8, 4)), verbose=0, callbacks=[guided])
    >>> guided.states
    {'body': 'held', 'head': 'hopeless'}
    """

    def __init__(
        self,
        windows: Given = None,
        *,
        input_shape: InputShape | None = None,
        patience: int = 3,
        tolerance: float = 0.005,
        backup: str | Path | None = None,
        per_layer: bool = False,
    ):
        super().__init__(per_layer=per_layer)
        check_whole("patience", patience)
        check_number("tolerance", tolerance, "[0, 1)")
        self.windows, self.input_shape = checked_windows(windows), input_shape
        self.patience, self.tolerance = int(patience), float(tolerance)
        if backup is not None and (not isinstance(backup, (str, Path)) or Path(backup).is_file()):
            raise ValueError(f"backup must be the path of a folder, got {backup!r}.")
        self.backup = None if backup is None else Path(backup)
        self._record: Record | None = None
        self._recorded: keras.Model | None = None  # the model that the record is about

    @property
    def states(self) -> dict[str, str]:
        """Layer -> `"hopeless"`, `"pressed"`, `"held"` or `"dropped"`, once training has begun."""
        return {path: self._now[path].state if path in self._now else HOPELESS for path in self._layers}

    @property
    def layer_windows(self) -> dict[str, Window | None]:
        """Layer -> its window of useful sparsity, None where it has none, once training has begun."""
        return dict(self._windows)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._layers = ruled_layers(model)
        # Copied now, since BackupAndRestore puts other weights in when training begins.
        layers = self._layers if model.compiled else {}  # also `predict` and `evaluate` come here
        self._first: dict[str, list[np.ndarray]] = {path: layer.copies() for path, layer in layers.items()}

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        let_go(self.model)
        self._now: dict[str, Progress] = {}
        layers = {path: layer.layer for path, layer in self._layers.items()}
        self._windows = windows_of(self.model, layers, self.windows, self.input_shape)
        if not any(self._windows.values()):
            raise ValueError(
                f"No layer that a rule masks in '{self.model.name}' has a window of useful sparsity: zeros "
                f"would make none faster ({', '.join(layers) or 'there is none'}). Train it with "
                "UpdateMasks() to have it sparse all the same, or say with windows= where zeros gain."
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._begun:
            return
        sync(self.model)
        self._begin(epoch)
        self._press(self._masked_in(PRESSED, HELD))  # what is recalled is recalled of both
        super().on_epoch_begin(epoch, logs)
        self._drop(self._paths_in(DROPPED))
        self._hold()

    def _assign(self, masked: list[MaskedWeight], masks: list[np.ndarray]) -> None:
        super()._assign(masked, masks)
        self._hold()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        sync(self.model)
        step = steps(self.model, 1).start
        before = self._paths_in(DROPPED)
        for path in self._paths_in(PRESSED):
            if _had_its_chance(self._layers[path].rule, range(self._looked, step)):
                self._now[path] = self._now[path].seen(
                    self._layers[path].sparsity(), self._window(path), self.patience, self.tolerance
                )
        self._drop([path for path in self._paths_in(DROPPED) if path not in before])
        self._press(self._masked_in(PRESSED))
        self._note(step)
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            logs |= {state: len(self._paths_in(state)) for state in (PRESSED, HELD, DROPPED)}

    def on_train_end(self, logs: Any = None) -> None:
        super().on_train_end(logs)
        for path in self._paths_in(DROPPED):  # the optimizer may have put moving averages in their place
            self._layers[path].restore(self._dense[path])
        let_go(self.model)

    # -------------------------------------------------------------- states

    def _paths_in(self, *states: str) -> list[str]:
        return [path for path, progress in self._now.items() if progress.state in states]

    def _masked_in(self, *states: str) -> list[MaskedWeight]:
        return [masked for path in self._paths_in(*states) for masked in self._layers[path].masked]

    def _window(self, path: str) -> Window:
        window = self._windows[path]
        assert window is not None
        return window

    def _hold(self) -> None:
        """Stops pressing layers that are sparse enough."""
        for path in self._paths_in(PRESSED):
            if self._layers[path].sparsity() >= self._window(path).upper - 1e-9:
                self._now[path] = replace(self._now[path], state=HELD)
        self._press(self._masked_in(PRESSED))

    def _drop(self, paths: list[str]) -> None:
        """Puts the dense weights back, to stay."""
        for path in paths:
            self._layers[path].restore(self._dense[path])
        if paths:
            self.model.make_train_function(force=True)

    # -------------------------------------------------------------- what an interrupted training goes on with

    def _begin(self, epoch: int) -> None:
        """States, dense weights and windows: fresh ones, or those of the training that goes on."""
        step = steps(self.model, 1).start
        record = self._known(step)
        if record is None:
            record = self._fresh(step, epoch)
        self._record, self._recorded = record, self.model
        self._windows, self._dense = record.windows, record.dense
        self._looked = max(record.steps)
        self._now = dict(record.steps[self._looked])
        self._first = {}  # those that are needed are in the record

    def _known(self, step: int) -> Record | None:
        """The record of a training that has come to this step, if there is one."""
        shapes = {path: [tuple(w.shape) for w in layer.weights] for path, layer in self._layers.items()}
        record = self._record if self._recorded is self.model else None
        if record is not None and not record.fits(shapes):
            record = None
        if self.backup is not None and Record.is_in(self.backup):
            record = Record.read(self.backup)
        if record is None or step <= min(record.steps):
            return None
        if not record.fits(shapes):
            raise ValueError(
                f"The backup in '{self.backup}' is of other layers than those masked in '{self.model.name}' "
                f"({', '.join(shapes)}). Give each training a folder of its own."
            )
        return record.until(step)

    def _fresh(self, step: int, epoch: int) -> Record:
        if steps(self.model, 1) != self._given:
            warnings.warn(
                f"Training goes on at epoch {epoch}, but what GuidedSparsity knew of it is not to be found. "
                "All layers with a window are pressed again, and what was dropped is no longer held; the "
                "dense weights are those that the model had before BackupAndRestore. Give "
                "GuidedSparsity(backup=...) a folder to keep them in.",
                stacklevel=2,
            )
        useful = [path for path, window in self._windows.items() if window is not None]
        dense = {path: self._first[path] for path in useful}
        record = Record(self._windows, dense, {step: dict.fromkeys(useful, Progress())})
        if self.backup is not None:
            record.write_dense(self.backup)
            record.write_steps(self.backup)
        return record

    def _note(self, step: int) -> None:
        assert self._record is not None
        self._looked = step
        self._record.steps[step] = dict(self._now)
        if self.backup is not None:
            self._record.write_steps(self.backup)


def _had_its_chance(rule: MaskRule, passed: range) -> bool:
    """Whether the rule updated masks in these steps, or never will again."""
    due = rule.next_update(passed.start)
    return due is None or due < passed.stop
