"""Find the strength of a group lasso that leads to a wanted sparsity."""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress import regularizers
from tfcompress._arrays import to_numpy
from tfcompress._checks import check_choice, check_number, check_whole, is_number
from tfcompress._ranking import largest
from tfcompress.callbacks.training import sync
from tfcompress.callbacks.zeros import Zeros


class ReachSparsity(keras.callbacks.Callback):
    """Adapts the strength of group lasso until a wanted share of the groups is zero.

    Nobody can guess a strength: what it takes depends on the loss, the learning rate and the length of
    the training. A sparsity is what one wants. Every so often the callback looks at the group that
    has to go last, the one at the quantile of the wanted sparsity among all groups in order of

        life_g = ||w_g|| / (share_g * scale_g),

    where share_g is its kernel's strength as a multiple of the mean strength. Over the epochs left its
    life must go down to 0, at a rate of `life / epochs left`; since the last look it went down at some
    rate. All strengths are multiplied by

        wanted rate / seen rate, at least 1 / `change`, at most `change`,

    which is integral control of the logarithm of the strength. Watching the lives, not the share of
    zeros, it sees long before the first group dies whether it is too fast, and overshoots at most by the
    groups that die together between two looks. Of what is still missing at the end of these epochs the
    groups of least life are set to zero at once; where the strength could do its work, they are nearly so.

    No kernel dies out: where only the share `floor` of its groups is left, its own strength becomes 0, and
    the others have to give what is missing. After each step that is looked at, and groups that one step
    took below the floor are put back as they were before it. A penalty on `"depth"`, where a kernel is one
    group, has no floor.

    Once the sparsity is reached, the strength is frozen. With `release` it becomes 0, the zero groups are
    held at zero, and what is left of the `fit` is fine-tuning.

    Use it with a model whose groups become exactly zero: `constraints.Proximal`, or `GroupLasso` with
    `constraints.Threshold` (see there). At the end of an epoch `logs` get `"group_sparsity"`, the share that
    is zero, and `"strength"`, the mean of the strengths with which its last step was taken.

    Args:
        sparsity: the share to be zero, in (0, 1), over all kernels that have a penalty.
        of: `"groups"`: of the groups. `"weights"`: of the weights in them, where a group counts as much as
            it is large.
        epochs: by the end of how many epochs to be there, counted from the beginning of all training;
            None for two thirds of those of `fit`, which leaves the rest to fine-tuning.
        looks: how many times to look and adapt in these epochs, if there are as many steps; at least
            once after each epoch. Where the length of the data is unknown, only then. Under JAX the training
            step is compiled anew after each.
        groups: which penalties to watch and to adapt, such as `"filters"`; None for all.
        threshold: a group with no weight above this magnitude counts as zero.
        floor: the smallest share of each kernel's groups that lives on, at least one of them; 0 for none.
        change: the factor by which the strength changes at most after one look.
        bounds: the mean strength stays between these.
        release: what happens when the sparsity is reached; False leaves the strength as it is, and
            more groups may go. Then none is set to zero at the end of the epochs, since only a mask could
            hold it there; the strength goes on growing.
        backup: path of a small JSON file. A strength is not among what `BackupAndRestore` saves: with
            this file an interrupted training goes on with the strength that it had.

    Raises:
        ValueError: an argument is out of range; when training begins: no kernel has such a penalty, a
            strength is 0, or the floor is in the way of the sparsity.

    Warns at the end of training if the sparsity was not reached. `EarlyStopping(restore_best_weights=True)`
    belongs before this callback in the list: it may put back weights of before.

    Departs from the paper, which gives strengths and no way to find them.

    >>> from tfcompress.constraints import Proximal
    >>> from tfcompress.regularizers import GroupLasso
    >>> proximal = Proximal(GroupLasso("filters", 1e-3), step=0.1)
    >>> layer = keras.layers.Dense(8, kernel_constraint=proximal)
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> data = np.eye(4, dtype="float32"), np.zeros((4, 8))
    >>> callback = ReachSparsity(0.5, epochs=20)
    >>> history = model.fit(*data, epochs=30, callbacks=[callback], verbose=0).history
    >>> history["group_sparsity"][0], history["group_sparsity"][-1] >= 0.5
    (0.0, True)
    """

    def __init__(
        self,
        sparsity: float,
        *,
        of: str = "groups",
        epochs: int | None = None,
        looks: int = 20,
        groups: str | None = None,
        threshold: float = 1e-4,
        floor: float = 0.1,
        change: float = 2.0,
        bounds: tuple[float, float] = (1e-8, 1e2),
        release: bool = True,
        backup: str | Path | None = None,
    ):
        super().__init__()
        check_number("sparsity", sparsity, "(0, 1)")
        check_whole("epochs", epochs, or_none=True)
        check_whole("looks", looks)
        check_number("threshold", threshold, "[0, inf)")
        check_number("floor", floor, "[0, 1)")
        check_number("change", change, "(1, inf)")
        _check_bounds(bounds)
        check_choice("groups", groups, (None, *regularizers.GROUPS))
        check_choice("of=", of, ("groups", "weights"))
        self.sparsity, self.of, self.epochs, self.looks = sparsity, of, epochs, looks
        self.groups, self.threshold, self.floor = groups, threshold, floor
        self.change, self.bounds, self.release = change, bounds, release
        self.backup = None if backup is None else Path(backup)
        self._states: dict[int, _State] = {}  # by the optimizer's iterations

    def on_train_begin(self, logs: Any = None) -> None:
        self._found = [
            (weight, lasso)
            for weight in self.model.trainable_variables
            for lasso in regularizers.lassos(weight.regularizer) + regularizers.lassos(weight.constraint)
            if self.groups in (None, lasso.groups)
        ]
        strengths = np.array([lasso.strength for _, lasso in self._found])
        if not self._found or not (strengths.all() or self._states):
            problem = "a strength of 0, which no factor changes" if self._found else "none"
            raise ValueError(
                f"ReachSparsity adapts the strength of group lasso, and '{self.model.name}' has {problem}. "
                "Give it one: tfcompress.attach(model, Proximal(GroupLasso('filters', 1e-3)))."
            )
        # How the strengths differ from kernel to kernel stays as it was.
        self._shares = strengths / strengths.mean() if strengths.all() else np.ones(len(strengths))
        self._counts = self._shares_of_groups()
        most = float(self._counts @ ~self._over_groups(self._protected))
        if self.sparsity > most + 1e-9:
            raise ValueError(
                f"With floor={self.floor} at most {most:.3f} of the {self.of} can be zero, and "
                f"sparsity={self.sparsity} is wanted. Lower one of them."
            )
        self._state: _State | None = None
        self._spared: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of a kernel: which weights, and all
        self._zeros = Zeros(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        if self._state is None:  # not before, so that BackupAndRestore has put the weights back
            self._state = self._begun(epoch)
            self._spare()
            self._follow(self._state)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        steps = self.params.get("steps")
        if steps is not None and batch + 1 < steps:
            self._look(self._epoch + (batch + 1) / steps)
        if self.floor and self._state is not None and not self._state.reached:
            sync(self.model)
            self._spare()
            self._follow(self._state)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        assert self._state is not None
        strength = self._state.strength
        self._look(epoch + 1)
        self._follow(self._state)  # holds also what died later
        self._zeros.apply()
        self._states[int(to_numpy(self.model.optimizer.iterations))] = self._state
        self._save()
        if logs is not None:
            logs["group_sparsity"], logs["strength"] = self._sparsity(), strength

    def on_train_end(self, logs: Any = None) -> None:
        self._zeros.apply()
        self._zeros.release()
        if self._state is None:
            return
        for (_, lasso), share in zip(self._found, self._shares, strict=True):  # those at their floor, too
            lasso.strength = float(self._state.strength * share)
        if not self._state.reached:
            warnings.warn(
                f"ReachSparsity(sparsity={self.sparsity}) got to {self._sparsity():.3f} only in "
                f"training that was to take {self._planned} epochs for it. Train longer, or give it fewer "
                "with epochs=.",
                stacklevel=2,
            )

    # -------------------------------------------------------------- control

    @property
    def _planned(self) -> int:
        return self.epochs or max(1, round(self.params["epochs"] * 2 / 3))

    def _look(self, epochs: float) -> None:
        """Adapts the strength, if it is time; `epochs` have been trained so far."""
        assert self._state is not None
        last = self._state
        due = epochs - last.epochs >= min(self._planned / self.looks, 1) - 1e-9
        if not last.reached and (due or last.epochs < self._planned <= epochs):
            sync(self.model)
            self._state = self._next(last, epochs)
            self._follow(self._state)

    def _next(self, last: "_State", epochs: float) -> "_State":
        life = self._life()
        left, seen = self._planned - epochs, (last.life - life) / (epochs - last.epochs)
        if left <= 0 and self.release:
            self._cut(life)
        if self._sparsity() >= self.sparsity - 1e-9:
            return _State(0.0 if self.release else last.strength, life, epochs, True)
        ratio = life / left / seen if left > 0 and seen > 0 else self.change
        strength = last.strength * min(max(ratio, 1 / self.change), self.change)
        return _State(min(max(strength, self.bounds[0]), self.bounds[1]), life, epochs, False)

    def _follow(self, state: "_State") -> None:
        """Gives the penalties the strengths of this state, and holds the zeros once it is reached."""
        if state.reached and self.release:
            self._zeros.set(self._masks())
        wanted = [
            0.0 if self._at_floor(weight, lasso, share) else float(state.strength * share)
            for (weight, lasso), share in zip(self._found, self._shares, strict=True)
        ]
        if wanted == [lasso.strength for _, lasso in self._found]:
            return
        for (_, lasso), strength in zip(self._found, wanted, strict=True):
            lasso.strength = strength
        if keras.backend.backend() != "tensorflow":  # where a compiled step holds the number, no variable
            self.model.make_train_function(force=True)

    def _spare(self) -> None:
        """Puts groups back where too few are left, and notes those that have to stay where not."""
        for place, ((weight, lasso), share) in enumerate(zip(self._found, self._shares, strict=True)):
            stay, values = self._protected(weight, lasso, share), to_numpy(weight)
            if np.count_nonzero(~lasso.zeroed(weight, self.threshold)) >= np.count_nonzero(stay):
                self._spared[place] = lasso.spread(stay, weight.shape), values
            elif place in self._spared:
                mask, before = self._spared[place]
                weight.assign(np.where(mask, before, values))

    def _masks(self) -> list[tuple[keras.Variable, np.ndarray]]:
        masks: dict[int, tuple[keras.Variable, np.ndarray]] = {}
        for weight, lasso in self._found:
            _, other = masks.get(id(weight), (weight, np.ones(weight.shape, bool)))
            masks[id(weight)] = weight, other & lasso.mask(weight, self.threshold)
        return list(masks.values())

    def _cut(self, life: float) -> None:
        """Sets to zero what does not live longer than this."""
        for (weight, lasso), share in zip(self._found, self._shares, strict=True):
            lives = lasso.spread(self._lives(weight, lasso, share) > life, weight.shape)
            weight.assign(np.where(lives, to_numpy(weight), 0))

    # -------------------------------------------------------------- measures

    def _sparsity(self) -> float:
        """The share that is zero."""
        return float(
            self._over_groups(lambda weight, lasso, _: lasso.zeroed(weight, self.threshold)) @ self._counts
        )

    def _life(self) -> float:
        """The life of the group that has to go last."""
        lives = self._over_groups(self._lives)
        order = np.argsort(lives)
        last = int(np.searchsorted(np.cumsum(self._counts[order]), self.sparsity - 1e-9))
        return float(lives[order][min(last, len(lives) - 1)])

    def _lives(self, weight: Any, lasso: Any, share: float) -> np.ndarray:
        """That of groups which have to stay is infinite."""
        lives = np.where(self._protected(weight, lasso, share), np.inf, lasso.lives(weight, share))
        return np.where(lasso.zeroed(weight, self.threshold), 0, lives)

    def _protected(self, weight: Any, lasso: Any, share: float) -> np.ndarray:
        """The groups of most life, which have to stay: bool `(groups,)`."""
        lives = lasso.lives(weight, share)
        return largest(lives, math.ceil(self.floor * len(lives)) if len(lives) > 1 else 0)

    def _at_floor(self, weight: Any, lasso: Any, share: float) -> bool:
        stay = int(np.count_nonzero(self._protected(weight, lasso, share)))
        return stay > 0 and int(np.count_nonzero(~lasso.zeroed(weight, self.threshold))) <= stay

    def _over_groups(self, measure: Callable[[Any, Any, float], np.ndarray]) -> np.ndarray:
        """A measure of every group of every kernel: `(groups,)`."""
        found = zip(self._found, self._shares, strict=True)
        return np.concatenate([measure(weight, lasso, share) for (weight, lasso), share in found])

    def _shares_of_groups(self) -> np.ndarray:
        """How much each group counts, `(groups,)`, all together 1."""

        def counts(weight: Any, lasso: Any, _: float) -> np.ndarray:
            groups = lasso.norms(weight).shape[0]
            return np.full(groups, 1 if self.of == "groups" else math.prod(weight.shape) / groups)

        found = self._over_groups(counts)
        return found / found.sum()

    # -------------------------------------------------------------- state

    def _begun(self, epoch: int) -> "_State":
        """The state that belongs to the weights: a fresh one, or that of an interrupted training."""
        steps = int(to_numpy(self.model.optimizer.iterations))
        if self.backup is not None and self.backup.exists():
            saved = json.loads(self.backup.read_text(encoding="utf-8"))
            self._states = {int(key): _State(**value) for key, value in saved.items()}
        known = self._states.get(steps) if steps > 0 else None
        if epoch > 0 and known is None:
            warnings.warn(
                f"Training goes on at epoch {epoch}, but what strength it had come to is not known; it goes "
                "on with that of the model. Give ReachSparsity(backup=...) a file to keep it in.",
                stacklevel=2,
            )
        if known is not None and known.reached and known.epochs == epoch:
            self._cut(known.life)  # done already, unless BackupAndRestore saved before this callback's turn
        strength = float(np.mean([lasso.strength for _, lasso in self._found]))
        return known or _State(strength, self._life(), epoch, False)

    def _save(self) -> None:
        if self.backup is not None:
            text = json.dumps({key: asdict(state) for key, state in self._states.items()})
            self.backup.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class _State:
    """The mean strength, the life and the epochs trained at the last look, and whether all is done."""

    strength: float
    life: float
    epochs: float
    reached: bool


def _check_bounds(bounds: Any) -> None:
    pair = isinstance(bounds, Sequence) and len(bounds) == 2
    if not pair or not all(is_number(bound, "(0, inf)") for bound in bounds) or bounds[0] >= bounds[1]:
        raise ValueError(f"bounds must be two positive numbers in order, got {bounds!r}.")
