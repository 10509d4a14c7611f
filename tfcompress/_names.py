"""Layers chosen by name.

>>> chosen(["stem", "block1_conv", "block2_conv"], include=r"block\\d_.*", exclude="block2_conv")
['block1_conv']
"""

import functools
import itertools
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from tfcompress._checks import near_miss

Patterns = str | Sequence[str] | None


def chosen(names: Iterable[str], include: Patterns = None, exclude: Patterns = None) -> list[str]:
    """The names that `include` and `exclude` leave: names, or regular expressions for a whole name.

    Raises:
        ValueError: a pattern matches no name.
    """
    names = list(names)
    include, exclude = listed(include), listed(exclude)
    for pattern in [*include, *exclude]:
        if not any(matches(name, pattern) for name in names):
            raise ValueError(near_miss("layer or pattern", pattern, names))
    return [
        name
        for name in names
        if (not include or any(matches(name, pattern) for pattern in include))
        and not any(matches(name, pattern) for pattern in exclude)
    ]


def shares(names: Iterable[str], share: Any) -> dict[str, Any]:
    """Name -> its share, out of one for all or a dict by name or regular expression; the first match counts.

    Raises:
        ValueError: a pattern matches no name.
    """
    names = list(names)
    if not isinstance(share, Mapping):
        return dict.fromkeys(names, share)
    for pattern in share:
        chosen(names, [pattern])
    matching = {name: [one for pattern, one in share.items() if matches(name, pattern)] for name in names}
    return {name: found[0] for name, found in matching.items() if found}


def matches(name: str, pattern: str) -> bool:
    """Whether the pattern is the name, or a regular expression for all of it."""
    regex = _regex(pattern)
    return name == pattern or (regex is not None and regex.fullmatch(name) is not None)


def free(name: str, taken: Container[str]) -> str:
    """The name, with a number behind it if it is taken.

    >>> free("head", ["head", "head_1"])
    'head_2'
    """
    numbered = (f"{name}_{number}" for number in itertools.count(1))
    return next(each for each in itertools.chain([name], numbered) if each not in taken)


def listed(patterns: Patterns) -> list[str]:
    """One pattern, several or none as a list.

    Raises:
        ValueError: they are not strings.
    """
    found = [patterns] if isinstance(patterns, str) else [] if patterns is None else patterns
    if not isinstance(found, Iterable) or not all(isinstance(pattern, str) for pattern in found):
        raise ValueError(f"Expected a layer name or regular expression, or a list of them, got {patterns!r}.")
    return list(found)


@functools.cache
def _regex(pattern: str) -> re.Pattern | None:
    """None for what is no regular expression: it can only be a name."""
    try:
        return re.compile(pattern)
    except re.error:
        return None
