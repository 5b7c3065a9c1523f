"""Records from JSON and back, strictly: a wrong type is an error that names the field.

The decoder of a class is built from its annotations at its first use and kept. Unknown
fields are ignored, as the OCI specifications ask ("implementations MUST ignore").
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

from gantry.model.errors import InvalidParameter
from gantry.model.record import Record

Decoder: TypeAlias = Callable[[object, str], object]

R = TypeVar("R", bound=Record)


class SpecError(InvalidParameter):
    """A document does not fit its schema; the text begins with the field's JSON path."""


_RANGES: Final[dict[str, tuple[int, int]]] = {
    "U8": (0, 2**8 - 1),
    "U16": (0, 2**16 - 1),
    "U32": (0, 2**32 - 1),
    "U64": (0, 2**64 - 1),
    "I32": (-(2**31), 2**31 - 1),
    "I64": (-(2**63), 2**63 - 1),
    "int": (-(2**63), 2**63 - 1),
}

# JSON names that the rule snake_case → camelCase does not give.
_WORDS: Final[dict[str, str]] = {
    "container_id": "containerID",
    "host_id": "hostID",
    "class_id": "classID",
    "clos_id": "closID",
    "kernel_tcp": "kernelTCP",
    "disable_oom_killer": "disableOOMKiller",
    "block_io": "blockIO",
    "throttle_read_iops_device": "throttleReadIOPSDevice",
    "throttle_write_iops_device": "throttleWriteIOPSDevice",
    "exec_cpu_affinity": "execCPUAffinity",
    "io_priority": "ioPriority",
    "class_": "class",
}


def json_name(field: str) -> str:
    """A field's name in JSON."""
    known = _WORDS.get(field)
    if known is not None:
        return known
    head, *rest = field.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _wrong(path: str, wanted: str, value: object) -> SpecError:
    return SpecError(f"{path or 'document'}: expected {wanted}, got {_kind(value)}")


def _string(value: object, path: str) -> object:
    if type(value) is not str:
        raise _wrong(path, "string", value)
    if "\0" in value:
        raise SpecError(f"{path}: a string must not contain a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise SpecError(f"{path}: not a valid Unicode string")
    return value


def _boolean(value: object, path: str) -> object:
    if type(value) is not bool:
        raise _wrong(path, "boolean", value)
    return value


def _integer(low: int, high: int) -> Decoder:
    def decode_integer(value: object, path: str) -> object:
        if type(value) is float and value.is_integer() and abs(value) < 2**63:
            value = int(value)
        if type(value) is not int:
            raise _wrong(path, "integer", value)
        if not low <= value <= high:
            raise SpecError(f"{path}: {value} is out of range ({low} to {high})")
        return value

    return decode_integer


def _sequence(inner: Decoder) -> Decoder:
    def decode_sequence(value: object, path: str) -> object:
        if value is None:
            return ()
        if type(value) is not list:
            raise _wrong(path, "array", value)
        return tuple([inner(item, f"{path}[{index}]") for index, item in enumerate(value)])

    return decode_sequence


def _strings(value: object, path: str) -> object:
    if value is None:
        return ()
    if type(value) is not list:
        raise _wrong(path, "array", value)
    for index, item in enumerate(value):
        if type(item) is not str or "\0" in item or not item.isascii():
            _string(item, f"{path}[{index}]")
    return tuple(value)


def _mapping(inner: Decoder) -> Decoder:
    def decode_mapping(value: object, path: str) -> object:
        if value is None:
            return {}
        if type(value) is not dict:
            raise _wrong(path, "object", value)
        return {
            str(_string(key, path)): inner(item, f"{path}.{key}") for key, item in value.items()
        }

    return decode_mapping


def _build(note: str, module: str) -> Decoder:
    """The decoder for one annotation, as written in the source."""
    note = note.strip()
    if note == "tuple[str, ...]":
        return _strings
    if note.startswith("tuple["):
        return _sequence(_build(note[6:-1].removesuffix(", ..."), module))
    if note.startswith("Mapping[str,"):
        return _mapping(_build(note[12:-1], module))
    if note == "str":
        return _string
    if note == "bool":
        return _boolean
    if note in _RANGES:
        return _integer(*_RANGES[note])
    found = getattr(sys.modules[module], note)
    return lambda value, path: decode(found, value, path)


_decoders: dict[type[Record], dict[str, tuple[str, Decoder, bool]]] = {}


def _fields(cls: type[Record]) -> dict[str, tuple[str, Decoder, bool]]:
    """JSON name → (field, decoder, may be null)."""
    made = _decoders.get(cls)
    if made is None:
        made = {}
        for field, note in cls._fields.items():
            optional = note.endswith("| None")
            decoder = _build(note.removesuffix("| None"), cls.__module__)
            made[json_name(field)] = (field, decoder, optional)
        _decoders[cls] = made
    return made


def _other_case(
    fields: Mapping[str, tuple[str, Decoder, bool]], key: object
) -> tuple[str, Decoder, bool] | None:
    lower = str(key).lower()
    return next((fields[name] for name in fields if name.lower() == lower), None)


def decode(cls: type[R], value: object, path: str = "") -> R:
    """A `cls` from parsed JSON.

    A null stands for the field's default, and a name in another case for the field, as in
    Go's decoder. Raises SpecError that names the field ("process.args[1]: expected string…").
    """
    if type(value) is not dict:
        raise _wrong(path, "object", value)
    fields = _fields(cls)
    prefix = f"{path}." if path else ""
    values: dict[str, object] = {}
    for key, item in value.items():
        known = fields.get(key)
        if known is None:
            known = _other_case(fields, key)
        if known is None or item is None:
            continue
        values[known[0]] = known[1](item, prefix + key)
    for name in cls._required:
        if name not in values:
            raise SpecError(f"{prefix}{json_name(name)}: is required")
    return cls.unchecked(values)


def encode(record: Record) -> dict[str, object]:
    """Parsed JSON of a record: required fields, and the others that were given and not empty."""
    out: dict[str, object] = {}
    for name, value in record.items():
        if name in record._required or (
            name in record.__dict__ and value is not None and value not in ((), False, "", {})
        ):
            out[json_name(name)] = _plain(value)
        elif value == 0 and type(value) is int and name in record.__dict__:
            out[json_name(name)] = 0
    return out


def _plain(value: object) -> object:
    if isinstance(value, Record):
        return encode(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict | MappingProxyType):
        return {key: _plain(item) for key, item in value.items()}
    return value
