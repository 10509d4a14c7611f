"""What is left to `make test-thorough`: more of what the suite has tried already."""

from collections.abc import Collection, Iterable

import pytest


def beside(params: Iterable, kept: Collection) -> list:
    """`params` for `parametrize`, of which all but `kept` are marked as thorough."""
    return [param if param in kept else _thorough(param) for param in params]


def _thorough(param):
    values = param if isinstance(param, tuple) else (param,)
    return pytest.param(*values, marks=pytest.mark.thorough)
