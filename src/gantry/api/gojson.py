"""Request bodies decoded by the rules of Go's encoding/json, which clients have come to rely on.

Field names match without regard to case, null is the same as absent, unknown fields are
ignored, a wrong type is an error whose text scripts look for ("json: cannot unmarshal …").
A converter is built once for each type; a body is parsed by msgspec and then walked.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UnsetType

from gantry.api.goscan import syntax_error
from gantry.model.container import Unsigned
from gantry.model.errors import InvalidParameter

T = TypeVar("T", bound=msgspec.Struct)

Value = Any  # a parsed JSON value: dict, list, str, int, float, bool or None
Convert = Callable[[Value, str], Value]
"""Checks a value; the second argument is the "Struct.Field.Path" for the error text."""

INT64: Final = (-(1 << 63), (1 << 63) - 1)

STRSLICES: Final = frozenset(
    (
        *("CreateRequest.Cmd", "CreateRequest.Entrypoint", "CreateRequest.Shell"),
        *("HostConfig.HostConfig.CapAdd", "HostConfig.HostConfig.CapDrop"),
    )
)
"""Lists that may also be a single string (moby's strslice, until 1.51)."""

GO_NAMES: Final = {
    "ContainerConfig": "CreateRequest",  # embedded there: Go names the outer struct
    "ExecCreate": "ExecCreateRequest",
    "_ExecStart": "ExecStartRequest",
    "_Connect": "ConnectRequest",
    "_Create": "CreateRequest",
    "_Disconnect": "DisconnectRequest",
    "_Edits": "UpdateConfig",
}

_decoder: Final = msgspec.json.Decoder()


def parse(body: bytes) -> Value:
    """One JSON document. InvalidParameter with Docker's text for anything else."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    if not body.strip():
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    text = body.decode("utf-8", "replace")  # Go replaces what is not UTF-8
    message = syntax_error(text)
    if message:
        raise InvalidParameter(message)
    try:
        return _decoder.decode(text.encode())
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidParameter(f"invalid JSON: {error}")


def decode(body: bytes, kind: type[T]) -> T:
    """A body as a Struct. An absent or null field is the Struct's default."""
    result: T = convert(parse(body), kind)
    return result


def convert(value: Value, kind: type[T], path: str = "") -> T:
    """A parsed value as a Struct; null is the Struct with all its defaults.

    path: "Struct.Field" where the value stood, for the error text.
    """
    if value is None:
        return kind()
    try:
        result: T = _converter(kind)(value, path)
    except UnmarshalError as error:
        raise InvalidParameter(f"invalid JSON: {error}")
    return result


def canonical(value: Value, kind: type[msgspec.Struct]) -> dict[str, Value]:
    """The fields of `kind` that a parsed object has, by their proper names, checked.

    For services that take what the client sent and must tell absent from empty.
    """
    if value is None:
        return {}
    fields = _fields(kind)
    if not isinstance(value, dict):
        raise InvalidParameter(f"invalid JSON: {UnmarshalError(value, '', go_name(kind))}")
    found = {}
    try:
        for key, item in value.items():
            field = fields.get(key) or fields.get(key.lower())
            if field is not None and item is not None:
                item = field.convert(item, f"{go_name(kind)}.{field.wire}")
                found[field.wire] = msgspec.to_builtins(item)
    except UnmarshalError as error:
        raise InvalidParameter(f"invalid JSON: {error}")
    return found


def has_field(value: Value, kind: type[msgspec.Struct]) -> bool:
    """Whether an object has any non-null field of `kind`."""
    fields = _fields(kind)
    return isinstance(value, dict) and any(
        item is not None and (key in fields or key.lower() in fields) for key, item in value.items()
    )


class UnmarshalError(Exception):
    """A value of the wrong type, in Go's words."""

    def __init__(self, value: Value, path: str, kind: str) -> None:
        where = f"Go struct field {path}" if path else "Go value"
        super().__init__(f"json: cannot unmarshal {_describe(value)} into {where} of type {kind}")


def _describe(value: Value) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


class _Field:
    __slots__ = ("convert", "name", "wire")

    def __init__(self, name: str, wire: str, convert: Convert) -> None:
        self.name = name
        self.wire = wire
        self.convert = convert


_structs: dict[type[msgspec.Struct], dict[str, _Field]] = {}
_converters: dict[object, Convert] = {}


def _fields(kind: type[msgspec.Struct]) -> dict[str, _Field]:
    """Fields of a Struct by wire name and by wire name in lower case."""
    known = _structs.get(kind)
    if known is not None:
        return known
    table: dict[str, _Field] = {}
    _structs[kind] = table
    hints = typing.get_type_hints(kind, include_extras=True)
    for info in msgspec.structs.fields(kind):
        field = _Field(info.name, info.encode_name, _converter(hints[info.name]))
        table[info.encode_name] = field
        table[info.encode_name.lower()] = field
    return table


def go_name(kind: object) -> str:
    """The Go type that Docker's error texts name."""
    if kind == Unsigned:
        return "uint64"
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [arm for arm in typing.get_args(kind) if arm not in (type(None), UnsetType)]
        return go_name(inner[0])
    if origin is list:
        return "[]" + go_name(typing.get_args(kind)[0])
    if origin is dict:
        return "map[string]" + go_name(typing.get_args(kind)[1])
    names: dict[object, str] = {str: "string", int: "int64", bool: "bool", float: "float64"}
    if kind in names:
        return names[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return GO_NAMES.get(kind.__name__, kind.__name__.lstrip("_"))
    return "interface {}"


def _converter(kind: object) -> Convert:
    known = _converters.get(kind)
    if known is None:
        known = _build(kind)
        _converters[kind] = known
    return known


def _build(kind: object) -> Convert:
    if kind == Unsigned:
        return _unsigned
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [arm for arm in typing.get_args(kind) if arm not in (type(None), UnsetType)]
        return _converter(inner[0])  # null never gets to a converter but in lists and maps
    if origin is list:
        return _list_of(kind, typing.get_args(kind)[0])
    if origin is dict:
        return _map_of(kind, typing.get_args(kind)[1])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct_of(kind)
    match kind:
        case t if t is str:
            return _scalar(str, "string")
        case t if t is bool:
            return _scalar(bool, "bool")
        case t if t is int:
            return _integer
        case t if t is float:
            return _number
    return lambda value, path: value


def _scalar(kind: type, name: str) -> Convert:
    def check(value: Value, path: str) -> Value:
        if value.__class__ is kind:
            return value
        raise UnmarshalError(value, path, name)

    return check


def _integer(value: Value, path: str) -> Value:
    if value.__class__ is int:
        if INT64[0] <= value <= INT64[1]:
            return value
        raise _NumberError(value, path)
    if value.__class__ is float:
        raise _NumberError(value, path)
    raise UnmarshalError(value, path, "int64")


def _unsigned(value: Value, path: str) -> Value:
    if value.__class__ is int and 0 <= value < 1 << 64:
        return value
    if value.__class__ is int or value.__class__ is float:
        raise _NumberError(value, path, "uint64")
    raise UnmarshalError(value, path, "uint64")


class _NumberError(UnmarshalError):
    def __init__(self, value: float, path: str, kind: str = "int64") -> None:
        Exception.__init__(
            self,
            f"json: cannot unmarshal number {value!r} into "
            f"{'Go struct field ' + path if path else 'Go value'} of type {kind}",
        )


def _number(value: Value, path: str) -> Value:
    if value.__class__ is int or value.__class__ is float:
        return float(value)
    raise UnmarshalError(value, path, "float64")


def _zero(kind: object) -> Value:
    """What Go makes of a null inside a list or map."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return None
    if origin is list:
        return []
    if origin is dict:
        return {}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind()
    zeros: dict[object, Value] = {str: "", int: 0, Unsigned: 0, bool: False, float: 0.0}
    return zeros.get(kind)


def _list_of(kind: object, item: object) -> Convert:
    convert_item = _converter(item)
    name = go_name(kind)
    strings = item is str

    def check(value: Value, path: str) -> Value:
        if value.__class__ is not list:
            if strings and value.__class__ is str and path in STRSLICES:
                return [value]
            raise UnmarshalError(value, path, name)
        return [
            _zero(item) if element is None else convert_item(element, path) for element in value
        ]

    return check


def _map_of(kind: object, item: object) -> Convert:
    convert_item = _converter(item)
    name = go_name(kind)

    def check(value: Value, path: str) -> Value:
        if value.__class__ is not dict:
            raise UnmarshalError(value, path, name)
        return {
            key: _zero(item) if element is None else convert_item(element, path)
            for key, element in value.items()
        }

    return check


def _struct_of(kind: type[msgspec.Struct]) -> Convert:
    name = go_name(kind)
    table: dict[str, _Field] = {}

    def check(value: Value, path: str) -> Value:
        nonlocal table
        if value.__class__ is not dict:
            raise UnmarshalError(value, path, name)
        table = table or _fields(kind)  # late: Structs may name each other
        # Go's errors name the innermost struct and the whole path from the root.
        prefix = f"{name}{path[path.find('.') :] if '.' in path else ''}."
        arguments = {}
        for key, item in value.items():
            field = table.get(key) or table.get(key.lower())
            if field is not None and item is not None:
                arguments[field.name] = field.convert(item, prefix + field.wire)
        return kind(**arguments)

    return check
