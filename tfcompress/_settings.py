"""Frozen dataclasses that Keras can serialise.

>>> from dataclasses import dataclass
>>> import keras
>>> @keras.saving.register_keras_serializable(package="example")
... @dataclass(frozen=True)
... class Rate(Settings):
...     start: float = 1.0
>>> revived(serialised(Rate(0.5)))
Rate(start=0.5)
"""

import dataclasses
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Settings:
    """A base class whose fields are its config. Register subclasses with Keras."""

    def get_config(self) -> dict[str, Any]:
        return {
            field.name: serialised(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.init
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**{key: revived(value) for key, value in config.items()})


def serialised(value: Any) -> Any:
    """What JSON can hold in place of a `Settings`; other values as they are, tuples as lists."""
    if isinstance(value, Settings):
        return keras.saving.serialize_keras_object(value)
    return list(value) if isinstance(value, tuple) else value


def revived(value: Any) -> Any:
    """The inverse of `serialised`; lists become tuples."""
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    return tuple(value) if isinstance(value, list) else value
