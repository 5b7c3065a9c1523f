"""Stand-ins for the dear modules of the standard library, for a process that ends at once.

`typing`, `json`, `ctypes` and the like, with what they import (re, enum, selectors …), take
longer to load than a container takes to start. A command of gantry-runc needs little
of them: names that only type checkers read, and what lies beneath in C. So each is stood in
for by its C module; whoever asks for more than that gets the real one, loaded at that moment.

`install` is for the command's own process, before anything else is imported. Elsewhere (the
launcher, tests) the same code runs with the real modules.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)


def install() -> None:
    """Put the stand-ins where imports look. A module that is loaded already stays."""
    for name, make in (
        ("_collections_abc", _abstract),
        ("types", _types),
        ("contextlib", _contextlib),
        ("ctypes", _ctypes),
        ("collections", _collections),
        ("functools", _functools),
        ("typing", _typing),
        ("signal", _signal),
        ("socket", _socket),
        ("json", _json),
    ):
        if name not in sys.modules:
            sys.modules[name] = _StandIn(name, make)
    # What the package itself does, but without the package.
    sys.modules.setdefault("collections.abc", sys.modules["_collections_abc"])


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
        _load("_collections_abc")  # the others are full of classes of these
        real = _load(self.__name__)
        if self.__name__ == "collections":
            vars(real).setdefault("abc", sys.modules["collections.abc"])
        return real


def _load(name: str) -> ModuleType:
    """The real module, from now on for everybody who imports it."""
    if isinstance(sys.modules.get(name), _StandIn):
        del sys.modules[name]
    __import__(name)
    real = sys.modules[name]
    if name == "_collections_abc":
        sys.modules["collections.abc"] = real
        if "os" in sys.modules:
            real.MutableMapping.register(type(sys.modules["os"].environ))
    return real


def _abstract() -> dict[str, Any]:
    """collections.abc: names for annotations, and what `os` makes its environment of."""
    found: dict[str, Any] = {}

    class Abstract(type):
        """Who is one is known to the real class only."""

        def __instancecheck__(cls, value: object) -> bool:
            return cls.__subclasscheck__(type(value))

        def __subclasscheck__(cls, other: type) -> bool:
            ours = type.__subclasscheck__(cls, other)
            if ours or found.get(cls.__name__) is not cls:
                return ours
            return issubclass(other, getattr(_load("_collections_abc"), cls.__name__))

        def __getitem__(cls, _: object) -> type:
            return cls

    class Mapping(metaclass=Abstract):
        def get(self, key: str, default: Any = None) -> Any:
            try:
                return self[key]
            except KeyError:
                return default

        def __contains__(self, key: str) -> bool:
            return self.get(key) is not None

        def keys(self) -> list[str]:
            return list(self)

        def items(self) -> list[tuple[str, Any]]:
            return [(key, self[key]) for key in self]

        def values(self) -> list[Any]:
            return [self[key] for key in self]

        if TYPE_CHECKING:

            def __getitem__(self, key: str) -> Any: ...
            def __iter__(self) -> Iterator[str]: ...

    class MutableMapping(Mapping):
        def pop(self, key: str, *default: Any) -> Any:
            if default and key not in self:
                return default[0]
            value = self[key]
            del self[key]
            return value

        def update(self, other: dict[str, Any]) -> None:
            for key, value in other.items():
                self[key] = value

        if TYPE_CHECKING:

            def __setitem__(self, key: str, value: Any) -> None: ...
            def __delitem__(self, key: str) -> None: ...

    def check_methods(cls: type, *names: str) -> Any:
        """Whether a class has all of these methods; an answer for __subclasshook__."""
        for name in names:
            found = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
            if not found or found[0] is None:
                return NotImplemented
        return True

    names = ("Callable", "Collection", "Generator", "Iterable", "Iterator", "Sequence", "Set")
    found.update((name, Abstract(name, (), {})) for name in names)
    found.update(Mapping=Mapping, MutableMapping=MutableMapping, _check_methods=check_methods)
    return found


def _types() -> dict[str, Any]:
    return {
        "CodeType": type(_types.__code__), "GenericAlias": type(list[int]),
        "MappingProxyType": type(vars(type)), "ModuleType": ModuleType,
    }  # fmt: skip


def _contextlib() -> dict[str, Any]:
    class Generated:
        """What a function made by contextmanager returns."""

        def __init__(self, steps: Generator[Any, None, None]) -> None:
            self._steps = steps

        def __enter__(self) -> Any:
            for value in self._steps:
                return value
            raise RuntimeError("generator didn't yield")

        def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
            try:
                if error is None:
                    next(self._steps)
                else:
                    self._steps.throw(error)
            except StopIteration as stop:
                return error is not None and stop is not error
            except BaseException as other:
                # A StopIteration comes out of a generator as the cause of a RuntimeError.
                if other is error or (type(error) is StopIteration and other.__cause__ is error):
                    return False
                raise
            self._steps.close()
            raise RuntimeError("generator didn't stop")

    def contextmanager(function: Callable[..., Generator[Any, None, None]]) -> Any:
        def made(*args: Any, **given: Any) -> Generated:
            return Generated(function(*args, **given))

        return sys.modules["functools"].wraps(function)(made)

    class suppress:
        def __init__(self, *kinds: type[BaseException]) -> None:
            self._kinds = kinds

        def __enter__(self) -> None:
            pass

        def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
            return kind is not None and issubclass(kind, self._kinds)

    class ExitStack:
        def __init__(self) -> None:
            self._exits: list[Callable[..., object]] = []

        def push(self, leave: Any) -> Any:
            self._exits.append(getattr(leave, "__exit__", leave))
            return leave

        def enter_context(self, manager: Any) -> Any:
            value = manager.__enter__()
            self.push(manager)
            return value

        def callback(self, function: Callable[..., object], *args: Any, **given: Any) -> Any:
            def call(*_: object) -> None:
                function(*args, **given)

            self._exits.append(call)
            return function

        def pop_all(self) -> ExitStack:
            taken = type(self)()
            taken._exits, self._exits = self._exits, []
            return taken

        def close(self) -> None:
            self.__exit__(None, None, None)

        def __enter__(self) -> ExitStack:
            return self

        def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
            now = error
            while self._exits:
                leave = self._exits.pop()
                try:
                    if leave(type(now) if now else None, now, now.__traceback__ if now else None):
                        now = None
                except BaseException as raised:
                    now = raised
            if now is not None and now is not error:
                raise now
            return now is not error

    made = (contextmanager, suppress, ExitStack)
    return {thing.__name__: thing for thing in made}


def _ctypes() -> dict[str, Any]:
    """The types and functions that the package makes of _ctypes, as far as commands use them."""
    import _ctypes

    made: dict[str, Any] = {
        name: type(name, (_ctypes._SimpleCData,), {"_type_": letter})
        for name, letter in (
            ("c_char", "c"), ("c_ubyte", "B"), ("c_ushort", "H"), ("c_int", "i"), ("c_uint", "I"),
            ("c_long", "l"), ("c_ulong", "L"), ("c_char_p", "z"), ("c_void_p", "P"),
            ("py_object", "O"),
        )
    }  # fmt: skip
    made.update(c_uint8=made["c_ubyte"], c_uint16=made["c_ushort"], c_uint32=made["c_uint"])
    if _ctypes.sizeof(made["c_long"]) == 8:
        made.update(c_size_t=made["c_ulong"], c_uint64=made["c_ulong"])

    class CDLL:
        _flags = _ctypes.FUNCFLAG_CDECL

        def __init__(self, name: str | None, *, use_errno: bool = False) -> None:
            self._handle = _ctypes.dlopen(name, 0)  # type: ignore[arg-type]  # None: the program
            flags = self._flags | (_ctypes.FUNCFLAG_USE_ERRNO if use_errno else 0)
            body = {"_flags_": flags, "_restype_": made["c_int"]}
            self._function = type("_FuncPtr", (_ctypes.CFuncPtr,), body)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") and name.endswith("__"):
                raise AttributeError(name)
            found = self[name]
            setattr(self, name, found)
            return found

        def __getitem__(self, name: str) -> Any:
            return self._function((name, self))  # not kept: types given to one are its own

    class PyDLL(CDLL):
        _flags = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI

    def function_type(result: Any, *arguments: Any) -> type:
        body = {"_flags_": PyDLL._flags, "_restype_": result, "_argtypes_": arguments}
        return type("CFunctionType", (_ctypes.CFuncPtr,), body)

    any_, address = made["py_object"], made["c_void_p"]
    casting = function_type(any_, address, any_, any_)(vars(_ctypes)["_cast_addr"])

    def cast(value: Any, wanted: Any) -> Any:
        return casting(value, value, wanted)

    def create_string_buffer(start: bytes | int, size: int | None = None) -> Any:
        if isinstance(start, int):
            return (made["c_char"] * start)()
        buffer = (made["c_char"] * (len(start) + 1 if size is None else size))()
        buffer.value = start
        return buffer

    return {
        **vars(_ctypes), **made, "CDLL": CDLL, "PyDLL": PyDLL, "PYFUNCTYPE": function_type,
        "cast": cast, "create_string_buffer": create_string_buffer,
    }  # fmt: skip


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
