"""What callbacks need to know of the training they are called in."""

import keras

from tfcompress._arrays import to_numpy


def planned_batches(params: dict, epoch: int) -> int | None:
    """On how many batches `fit` trains from this epoch on; None where the data does not tell its length."""
    batches = params.get("steps")
    return None if batches is None else batches * (params["epochs"] - epoch)


def batches_ahead(model: keras.Model) -> int:
    """On how many batches the model is trained before callbacks are asked again."""
    return int(getattr(model, "steps_per_execution", None) or 1)


def steps(model: keras.Model, batches: int) -> range:
    """The steps, counted as by `optimizer.iterations`, to which the next batches, at least one, belong.

    Where gradients are accumulated, several batches make one step.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    batches_per_step = optimizer.gradient_accumulation_steps or 1
    seen = int(to_numpy(_batches_seen(optimizer)))
    return range(seen // batches_per_step, (seen + batches - 1) // batches_per_step + 1)


def _batches_seen(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """The variable behind `optimizer.iterations`, which divides it by the batches that make a step."""
    return next(variable for variable in optimizer.variables if variable.name == "iteration")


def sync(model: keras.Model) -> None:
    """Brings variables up to date: under JAX the training step keeps its state to itself."""
    getattr(model, "jax_state_sync", lambda: None)()
