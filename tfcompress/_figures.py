"""What a user's function says of a model.

>>> figure(lambda model: 0.5, None)
0.5
"""

from collections.abc import Callable
from typing import Any


def figure(evaluate: Callable[[Any], Any], model: Any) -> float:
    """What `evaluate` returns, as a float.

    Raises:
        ValueError: it is no number.
    """
    found = evaluate(model)
    try:
        return float(found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"evaluate must return a number, e.g. one of its metrics, got {found!r}.") from error


def check_functions(required: bool = True, **functions: Any) -> None:
    """Raises `ValueError` unless the arguments of these names are functions, or None where not required."""
    for name, function in functions.items():
        if not callable(function) and (required or function is not None):
            or_none = "" if required else ", or None"
            raise ValueError(f"{name} must be a function of the model{or_none}, got {function!r}.")
