"""What the public doors ask of numbers and names, in one wording.

>>> check_number("floor", 0.5, "[0, 1]")
>>> check_number("floor", -0.5, "[0, 1]")
Traceback (most recent call last):
ValueError: floor must be a number in [0, 1], got -0.5.
>>> check_number("step", 0, "(0, inf)")
Traceback (most recent call last):
ValueError: step must be a number above 0, got 0.
>>> check_whole("bits", 9, 1, 8)
Traceback (most recent call last):
ValueError: bits must be a whole number from 1 to 8, got 9.
>>> check_choice("scope", "globl", ["global", "layer"])
Traceback (most recent call last):
ValueError: Unknown scope 'globl'. Did you mean 'global'? Available: global, layer.
"""

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any, TypeGuard


def near_miss(kind: str, name: object, available: Iterable[object]) -> str:
    """The message for a name that is not there: the nearest one, then all of them."""
    names = [str(one) for one in available]
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"Unknown {kind} {name!r}.{hint} Available: {', '.join(names)}."


def check_choice(kind: str, value: Any, available: Iterable[object], *, or_else: str = "") -> None:
    """Raises `ValueError` unless the value is one of these.

    Where others are taken, `or_else` names them in the message, here and below; to see them is the caller's.
    """
    available = list(available)
    if value not in available:
        raise ValueError(near_miss(kind, value, available).removesuffix(".") + _or(or_else) + ".")


def check_whole(
    name: str, value: Any, least: int = 1, most: float = math.inf, *, or_none: bool = False
) -> None:
    """Raises `ValueError` unless the value is a whole number of this range, both ends included."""
    if is_whole(value, least, most) or (or_none and value is None):
        return
    span = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
    raise ValueError(f"{name} must be a whole number {span}{_or('None' * or_none)}, got {value!r}.")


def check_number(name: str, value: Any, span: str = "(-inf, inf)", *, or_else: str = "") -> None:
    """Raises `ValueError` unless the value is a number in this interval, `[` with its end and `(` without."""
    if not is_number(value, span):
        raise ValueError(f"{name} must be a number{_said(span)}{_or(or_else)}, got {value!r}.")


def is_whole(value: Any, least: int = 1, most: float = math.inf) -> TypeGuard[int]:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and least <= int(value) <= most


def is_number(value: Any, span: str = "(-inf, inf)") -> bool:
    """Whether the value is a real number in this interval. True and False are none, nor is NaN."""
    number: Any = value  # which numbers.Real would keep from comparing
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    low, high = map(float, span[1:-1].split(","))
    above = low <= number if span[0] == "[" else low < number
    below = number <= high if span[-1] == "]" else number < high
    return bool(above and below)


def _said(span: str) -> str:
    low, high = span[1:-1].split(", ")
    if high != "inf":
        return f" in {span}"
    return "" if low == "-inf" else f" above {low}" if span[0] == "(" else f" of at least {low}"


def _or(else_: str) -> str:
    return else_ and f", or {else_}"
