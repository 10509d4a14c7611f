"""What callbacks need to know of the training they are called in."""

import keras


def planned_steps(params: dict) -> int | None:
    """The most steps that `fit` will take; None where the data does not tell its length."""
    steps = params.get("steps")
    return None if steps is None else steps * params["epochs"]


def steps_ahead(model: keras.Model) -> int:
    """How many steps are taken before callbacks are asked again."""
    return int(getattr(model, "steps_per_execution", None) or 1)


def sync(model: keras.Model) -> None:
    """Brings variables up to date: under JAX the training step keeps its state to itself."""
    getattr(model, "jax_state_sync", lambda: None)()
