"""Frozen values that cost nothing to declare.

`dataclass` compiles each class's methods when its module is imported (about half a
millisecond a class); a runtime that starts anew for each command has sixty of them.
A `Record` is the same to a reader and to the type checker, and is declared in
microseconds: a value keeps only the fields that were given, defaults are class attributes.

    class Point(Record):
        x: int
        y: int = 0

    Point(x=1).y == 0
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar, Final, Self, dataclass_transform

EMPTY: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Record:
    """Base of frozen values: keyword arguments only, equality by fields."""

    _fields: ClassVar[dict[str, str]] = {}
    _required: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = {
            name: note
            for name, note in vars(cls).get("__annotations__", {}).items()
            if not name.startswith("_") and not str(note).startswith("ClassVar")
        }
        cls._fields = {**cls._fields, **own}
        cls._required = tuple(name for name in cls._fields if not hasattr(cls, name))

    def __init__(self, **values: object) -> None:
        for name in values:
            if name not in self._fields:
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
        for name in self._required:
            if name not in values:
                raise TypeError(f"{type(self).__name__} needs {name!r}")
        self.__dict__.update(values)

    @classmethod
    def unchecked(cls, values: dict[str, object]) -> Self:
        """A value of fields that the caller has checked (decoders)."""
        made = cls.__new__(cls)
        made.__dict__.update(values)
        return made

    def replace(self, **changes: object) -> Self:
        """The same value with other fields."""
        return type(self)(**{**self.__dict__, **changes})

    def items(self) -> Iterator[tuple[str, object]]:
        """(field, value) in the order of declaration, defaults included."""
        for name in self._fields:
            yield name, getattr(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._fields)

    def __hash__(self) -> int:
        return hash((type(self), *(repr(value) for _, value in self.items())))

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.__dict__.items())
        return f"{type(self).__name__}({shown})"
