"""Stand-ins for the dear modules of the standard library, for a process that ends at once.

`typing`, `json`, `socket` and the like, with what they import (re, enum, selectors …), take
longer to load than a container takes to start. A command of gantry-runc needs little
of them: names that only type checkers read, and what lies beneath in C. So each is stood in
for by its C module; whoever asks for more than that gets the real one, loaded at that moment.

`install` is for the command's own process, before anything else is imported. Elsewhere (the
launcher, tests) the same code runs with the real modules.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def install() -> None:
    """Put the stand-ins where imports look. A module that is loaded already stays."""
    import _collections_abc

    # What the package itself does, but without the package.
    sys.modules.setdefault("collections.abc", _collections_abc)
    for name, make in (
        ("collections", _collections),
        ("functools", _functools),
        ("typing", _typing),
        ("signal", _signal),
        ("socket", _socket),
        ("json", _json),
    ):
        if name not in sys.modules:
            sys.modules[name] = _StandIn(name, make)


def settle(*modules: ModuleType) -> None:
    """Have modules of our own executed that `boot.py` has put off: init looks into them, and
    must not load anything."""
    for module in modules:
        getattr(module, "_", None)


class _StandIn(ModuleType):
    """Fills itself at the first look; unknown names are the real module's."""

    def __init__(self, name: str, make: Callable[[], dict[str, Any]]) -> None:
        super().__init__(name)
        self._make: Callable[[], dict[str, Any]] | None = make

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        make = self._make
        if make is not None:
            self._make = None
            vars(self).update({key: value for key, value in make().items() if key[:2] != "__"})
            if name in vars(self):
                return vars(self)[name]
        return getattr(self._real(), name)

    def _real(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        __import__(self.__name__)
        real = sys.modules[self.__name__]
        if self.__name__ == "collections":
            vars(real).setdefault("abc", sys.modules["collections.abc"])
        return real


def _collections() -> dict[str, Any]:
    import _collections  # type: ignore[import-not-found]  # it has no stub

    return {**vars(_collections), "abc": sys.modules["collections.abc"]}


def _functools() -> dict[str, Any]:
    import _functools  # type: ignore[import-not-found]  # it has no stub

    def wraps(wrapped: Any) -> Callable[[Any], Any]:
        def named(wrapper: Any) -> Any:
            for name in ("__module__", "__name__", "__qualname__", "__doc__"):
                setattr(wrapper, name, getattr(wrapped, name, None))
            vars(wrapper).update(vars(wrapped), __wrapped__=wrapped)
            return wrapper

        return named

    return {**vars(_functools), "wraps": wraps}


def _signal() -> dict[str, Any]:
    import _signal  # type: ignore[import-not-found]  # it has no stub

    return dict(vars(_signal))


def _socket() -> dict[str, Any]:
    import _socket

    class Socket(_socket.socket):
        """With what the C class lacks of socket.socket, as far as commands use it."""

        def __enter__(self) -> Socket:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

    return {**vars(_socket), "socket": Socket}


def _typing() -> dict[str, Any]:
    """Names for annotations, which nobody evaluates, and cheap bases."""
    empty = type("Protocol", (), {"__class_getitem__": classmethod(lambda cls, _: cls)})
    found: dict[str, Any] = dict.fromkeys(
        ("Any", "ClassVar", "Final", "Literal", "NoReturn", "Self", "TypeAlias"), empty
    )
    found.update(
        TYPE_CHECKING=False,
        Protocol=empty,
        NamedTuple=_NamedTuple,
        TypeVar=lambda *_, **__: empty,
        dataclass_transform=lambda **_: lambda cls: cls,
    )
    return found


class _Fields(type):
    """Makes tuples with names, as typing.NamedTuple does, but compiles nothing."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> _Fields:
        fields = tuple(body.get("__annotations__", ()))
        if fields:
            from _collections import _tuplegetter  # namedtuple's own

            body["_defaults"] = {field: body.pop(field) for field in fields if field in body}
            body.update((field, _tuplegetter(i, "")) for i, field in enumerate(fields))
            body["_fields"] = fields
        return super().__new__(cls, name, bases, {"__slots__": (), **body})


class _NamedTuple(tuple, metaclass=_Fields):  # type: ignore[type-arg]  # evaluated, and Any is not there
    if TYPE_CHECKING:
        _fields: tuple[str, ...]
        _defaults: dict[str, Any]

    def __new__(cls, *args: Any, **given: Any) -> _NamedTuple:
        rest = cls._fields[len(args) :]
        values = {**cls._defaults, **given}
        if len(args) > len(cls._fields) or not given.keys() <= set(rest):
            raise TypeError(f"{cls.__name__} takes {cls._fields}")
        missing = [name for name in rest if name not in values]
        if missing:
            raise TypeError(f"{cls.__name__} needs {missing}")
        return super().__new__(cls, (*args, *(values[name] for name in rest)))

    def _replace(self, **changes: Any) -> _NamedTuple:
        return type(self)(**{**self._asdict(), **changes})

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))


def _json() -> dict[str, Any]:
    """loads and dumps by json's own C parts; what is unusual goes to json itself."""
    from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner

    class Context:
        strict = True
        object_hook = object_pairs_hook = parse_constant = None
        parse_float, parse_int = float, int
        memo: dict[str, str] = {}

    scan = make_scanner(Context)  # type: ignore[arg-type]  # what it needs of a decoder
    space = " \t\n\r"

    def loads(text: str | bytes, **options: Any) -> Any:
        if not options:
            try:
                whole = (text if isinstance(text, str) else text.decode()).strip(space)
                value, end = scan(whole, 0)
                if end == len(whole):
                    return value
            except (StopIteration, ValueError, TypeError, SystemError):
                pass  # an error, or a constant: json knows the words, and what they mean
        return stand_in._real().loads(text, **options)

    def refuse(value: object) -> object:
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")

    def dumps(value: Any, **options: Any) -> str:
        if not options.keys() <= {"ensure_ascii", "separators"}:
            whole: str = stand_in._real().dumps(value, **options)
            return whole
        plain = options.get("ensure_ascii", True)
        encode = encode_basestring_ascii if plain else encode_basestring
        item, key = options.get("separators", (", ", ": "))
        encoder = make_encoder({}, refuse, encode, None, key, item, False, False, True)
        return "".join(encoder(value, 0))

    stand_in = sys.modules["json"]
    assert isinstance(stand_in, _StandIn)
    return {"loads": loads, "dumps": dumps}
