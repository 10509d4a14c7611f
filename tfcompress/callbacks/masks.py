"""Update the masks of a model while `model.fit` trains it."""

import math
from typing import Any

import keras
import numpy as np

from tfcompress.callbacks.training import batches_ahead, planned_batches, steps, sync
from tfcompress.layers import MaskedWeight, MaskRule, masked_weights
from tfcompress.layers.constrained import hide, is_constrained


class UpdateMasks(keras.callbacks.Callback):
    """Updates masks as their rules say, and logs the sparsity they have.

    For models from `wrap` and `constrain`, and models that hold `MaskedLayer`s of your own. Before
    each step the rules are asked whether an update is due, by `optimizer.iterations`: a training that
    was interrupted goes on where it was. With `steps_per_execution=k` masks change between executions
    only: of the updates due within the next `k` steps the last is made before them.

    After training the weights that masks hide are set to zero, unless their rule trains them, too
    (`DynamicNetworkSurgery`), so that `model.get_weights()` is as sparse as the model. A callback that puts
    other weights back then, such as `EarlyStopping(restore_best_weights=True)`, belongs before this one.

    Args:
        per_layer: log the sparsity of each weight, too, as `"sparsity/<path of the weight>"`.

    Raises:
        ValueError: at the beginning of training: nothing in the model is masked, or a rule would never
            update its masks in the steps planned.

    Logs `"sparsity"` at the end of each epoch, the share of masked entries among all under a mask. It is in
    `History`, and in TensorBoard if that callback comes after this one.

    >>> import numpy as np
    >>> from tfcompress.layers import MagnitudePruning, wrap
    >>> x = keras.Input((8,))
    >>> model = wrap(keras.Model(x, keras.layers.Dense(4)(x)), MagnitudePruning(0.75))
    >>> model.compile("sgd", "mse")
    >>> model.fit(np.ones((8, 8)), np.ones((8, 4)), verbose=0, callbacks=[UpdateMasks()]).history["sparsity"]
    [0.75]
    """

    def __init__(self, *, per_layer: bool = False):
        super().__init__()
        self.per_layer = per_layer

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._given = steps(model, 1) if model.compiled else None

    def on_train_begin(self, logs: Any = None) -> None:
        self._masked = masked_weights(self.model)
        if not self._masked:
            raise ValueError(
                f"Nothing in '{self.model.name}' is masked, so there is nothing to update. Make the model "
                "with tfcompress.wrap(model, rule), or call tfcompress.constrain(model, rule)."
            )
        self._press(self._masked)
        self._begun = False
        self._asked = 0  # up to this step the rules were asked
        self._idle: float = 0  # batches until they have to be asked again

    def _press(self, masked: list[MaskedWeight]) -> None:
        """From now on rules update these masks, and leave all others as they are."""
        self._rules = _by_rule(masked)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Not in on_train_begin, when BackupAndRestore may be yet to come, and the first epoch is not known.
        if self._begun:
            return
        self._begun = True
        if steps(self.model, 1) != self._given:
            self._recall()
        planned = planned_batches(self.params, epoch)
        for rule, masked in self._rules.items():
            _check_fires(rule, masked, steps(self.model, planned or 1), planned is not None)

    def _recall(self) -> None:
        """After BackupAndRestore: masks of constraints are in no backup, but the zeros they made are."""
        step = steps(self.model, 1).start
        for rule, masked in self._rules.items():
            first = rule.next_update(0)
            if first is not None and first < step:
                constrained = [weight for weight in masked if is_constrained(weight)]
                self._assign(constrained, [weight.value != 0 for weight in constrained])

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        batches = batches_ahead(self.model)
        self._idle -= batches
        if self._idle >= batches:
            return
        sync(self.model)
        ahead = steps(self.model, batches)
        for rule, masked in self._rules.items():
            due = _last_due(rule, range(max(ahead.start, self._asked), ahead.stop))
            if due is not None:
                self._assign(masked, rule.update(masked, due))
        self._asked = ahead.stop
        # No batch counts as more than one step, and reading the step takes a while.
        self._idle = min(map(self._next_due, self._rules), default=math.inf) - ahead.start

    def _next_due(self, rule: MaskRule) -> float:
        due = rule.next_update(self._asked)
        return math.inf if due is None else due

    def _assign(self, masked: list[MaskedWeight], masks: list[np.ndarray]) -> None:
        for weight, mask in zip(masked, masks, strict=True):
            weight.mask.assign(mask)
        constrained = [weight for weight in masked if is_constrained(weight)]
        for weight in constrained:
            hide(weight)
        if constrained and keras.backend.backend() != "tensorflow":
            # Masks that no layer holds are constants in a training step compiled by JAX.
            self.model.make_train_function(force=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is None:
            return
        hidden = {masked.path: int((~masked.kept).sum()) for masked in self._masked}
        logs["sparsity"] = sum(hidden.values()) / sum(masked.size for masked in self._masked)
        if self.per_layer:
            logs |= {f"sparsity/{m.path}": hidden[m.path] / m.size for m in self._masked}

    def on_train_end(self, logs: Any = None) -> None:
        for masked in self._masked:
            if masked.rule is None or not masked.rule.straight_through:
                hide(masked)


def _last_due(rule: MaskRule, ahead: range) -> int | None:
    """The last of these steps at which the rule updates masks."""
    last, due = None, rule.next_update(ahead.start)
    while due is not None and due < ahead.stop:
        last, due = due, rule.next_update(due + 1)
    return last


def _by_rule(masked: list[MaskedWeight]) -> dict[MaskRule, list[MaskedWeight]]:
    rules: dict[MaskRule, list[MaskedWeight]] = {}
    for weight in masked:
        if weight.rule is not None:
            rules.setdefault(weight.rule, []).append(weight)
    return rules


def _check_fires(rule: MaskRule, masked: list[MaskedWeight], ahead: range, planned: bool) -> None:
    """Raises `ValueError` if masks that were never updated will not be, either."""
    due = rule.next_update(ahead.start)
    late = due is None or (planned and due >= ahead.stop)
    if not late or not all(weight.kept.all() for weight in masked):
        return
    plan = f" and fit() plans {len(ahead)}" if planned else ""
    when = (
        "no update is due any more. Let the schedule end later."
        if due is None
        else f"the next update is due at step {due}. Let the schedule begin earlier, or train longer."
    )
    if ahead.start:
        when += " The optimizer counts steps, also those before the model was wrapped: compile() begins anew."
    raise ValueError(f"{rule} would update no mask: the training is at step {ahead.start}{plan}, and {when}")
