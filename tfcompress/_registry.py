"""Objects by name: what a user may write where an object is wanted.

>>> class Square: ...
>>> shapes = Registry("shape")
>>> _ = shapes.register("square")(Square)
>>> shapes.names()
['square']
>>> type(shapes.get("square")).__name__
'Square'
>>> shapes.get("squere")
Traceback (most recent call last):
...
ValueError: Unknown shape 'squere'. Did you mean 'square'? Available: square.
"""

import inspect
from collections.abc import Callable
from typing import Any

from tfcompress._checks import near_miss


class Registry:
    """Classes of one kind, each under a name."""

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, type] = {}

    def register(self, name: str) -> Callable[[type], type]:
        """Decorator: makes the class available as `name`, and sets its attribute `name`."""

        def add(cls: Any) -> type:
            self._classes[name] = cls
            cls.name = name
            return cls

        return add

    def names(self) -> list[str]:
        return sorted(self._classes)

    def get(self, identifier: Any) -> Any:
        """Returns an object for a name, `{"name": ..., **arguments}`, a class, or an object.

        Raises:
            ValueError: the name is unknown, or the arguments are not those of the class.
        """
        if isinstance(identifier, dict):
            arguments = dict(identifier)
            return self._made(self._class(arguments.pop("name", None)), arguments)
        if isinstance(identifier, str):
            return self._made(self._class(identifier), {})
        if isinstance(identifier, type):
            return self._made(identifier, {})
        return identifier

    def _made(self, cls: Any, arguments: dict[str, Any]) -> Any:
        signature = inspect.signature(cls)
        try:
            signature.bind(**arguments)
        except TypeError as error:
            name, takes = getattr(cls, "name", None) or cls.__name__, ", ".join(signature.parameters)
            raise ValueError(f"The {self.kind} '{name}' takes ({takes}): {error}.") from error
        return cls(**arguments)

    def _class(self, name: Any) -> type:
        if not isinstance(name, str) or name not in self._classes:
            raise ValueError(near_miss(self.kind, name, self.names()))
        return self._classes[name]
