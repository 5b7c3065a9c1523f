"""Query parameters by Go's and Docker's rules (daemon/server/httputils/form.go)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote_plus

import msgspec

from gantry.api.backend import Json
from gantry.model import numbers
from gantry.model.errors import InvalidParameter
from gantry.model.numbers import clamped

Query = Mapping[str, Sequence[str]]

EMPTY: Final[Query] = {}
FALSE: Final = frozenset({"", "0", "no", "false", "none"})
UINT32_MAX: Final = (1 << 32) - 1
MAX_FRACTION: Final = 20

_escape: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_int: Final = re.compile(r"[+-]?[0-9]+\Z", re.ASCII)
_filters: Final = msgspec.json.Decoder(dict[str, dict[str, bool] | list[str] | None] | None)


def parse_query(text: str) -> Query:
    """A query string as net/url parses it. InvalidParameter for bad escapes and semicolons."""
    if not text:
        return EMPTY
    found: dict[str, list[str]] = {}
    for pair in text.split("&"):
        if not pair:
            continue
        if ";" in pair:
            raise InvalidParameter("invalid semicolon separator in query")
        key, _, value = pair.partition("=")
        found.setdefault(_unescape(key), []).append(_unescape(value))
    return found


def _unescape(text: str) -> str:
    if "%" not in text:
        return text.replace("+", " ")
    bad = _escape.search(text)
    if bad:
        piece = text[bad.start() : bad.start() + 3]
        raise InvalidParameter(f'invalid URL escape "{piece}"')
    return unquote_plus(text)


def text(query: Query, name: str) -> str:
    """The first value of a parameter, "" without one."""
    values = query.get(name)
    return values[0] if values else ""


def flag(query: Query, name: str, default: bool = False) -> bool:
    """False for "", 0, no, false and none, true for all else; `default` when absent."""
    values = query.get(name)
    if not values:
        return default
    return values[0].strip().lower() not in FALSE


_token: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]*")
_parameter: Final = re.compile(
    r"""\s*;\s*[!#$%&'*+\-.^_`|~0-9A-Za-z]+\s*=\s*("(\\.|[^"\\])*"|[!#$%&'*+\-.^_`|~0-9A-Za-z]+)"""
)


def media_type(header: str) -> str:
    """The type of a Content-Type header, in lower case. ValueError in the words of Go's mime."""
    media, _, _ = header.partition(";")
    media = media.strip().lower()
    kind, slash, subtype = media.partition("/")
    if not media:
        raise ValueError("mime: no media type")
    if _token.fullmatch(kind) is None or not kind:
        raise ValueError("mime: unexpected content after media type")
    if slash and not subtype:
        raise ValueError("mime: expected token after slash")
    if _token.fullmatch(subtype) is None:
        raise ValueError("mime: unexpected content after media subtype")
    rest = header[header.find(";") :] if ";" in header else ""
    while found := _parameter.match(rest):
        rest = rest[found.end() :]
    if rest.strip() not in ("", ";"):
        raise ValueError("mime: invalid media parameter")
    return media


def integer(query: Query, name: str) -> int | None:
    """A number as strconv.Atoi reads it, None when absent or empty."""
    value = text(query, name)
    return atoi(value) if value else None


def atoi(value: str) -> int:
    """strconv.Atoi with its error texts."""
    if not _int.match(value):
        raise InvalidParameter(f'strconv.Atoi: parsing "{value}": invalid syntax')
    number = clamped(value)
    if not -(1 << 63) <= number < 1 << 63:
        raise InvalidParameter(f'strconv.Atoi: parsing "{value}": value out of range')
    return number


def dimension(query: Query, name: str, what: str) -> int:
    """A terminal's height or width: an unsigned 32 bit number that has to be there."""
    value = text(query, name)
    digits = value.removeprefix("-")
    if not digits.isascii() or not digits.isdigit():
        raise InvalidParameter(f'invalid resize {what} "{value}": invalid syntax')
    if clamped(digits) > UINT32_MAX or value != digits:
        raise InvalidParameter(f'invalid resize {what} "{value}": value out of range')
    return int(digits)


def filters(query: Query, name: str = "filters") -> dict[str, list[str]]:
    """Both forms: {"label": {"a=b": true}} and {"label": ["a=b"]}."""
    value = text(query, name)
    if not value:
        return {}
    try:
        decoded = _filters.decode(value)
    except msgspec.MsgspecError:
        raise InvalidParameter("invalid filter")
    found: dict[str, list[str]] = {}
    for key, wanted in (decoded or {}).items():
        if isinstance(wanted, dict):
            # false values are kept: a key is what counts, as in Docker's Args
            found[key] = list(wanted)
        elif wanted is not None:
            found[key] = wanted
    return found


def timestamp(query: Query, name: str, quote: str) -> str:
    """A unix time "seconds[.nanoseconds]", checked and returned as given ("" without one)."""
    value = text(query, name)
    if value:
        where = f'invalid value for {quote}{name}{quote}: invalid timestamp "{value}": '
        seconds, dot, fraction = value.partition(".")
        if not _int.match(seconds):
            raise InvalidParameter(f'{where}invalid seconds "{seconds}": invalid syntax')
        if len(fraction) > MAX_FRACTION:
            raise InvalidParameter(
                f"{where}invalid nanoseconds: length {len(fraction)} exceeds maximum {MAX_FRACTION}"
            )
        for index, char in enumerate(fraction if dot else ""):
            if not "0" <= char <= "9":
                raise InvalidParameter(
                    f"{where}invalid nanoseconds: invalid character '{char}' at position {index}"
                )
    return value


def nanoseconds(value: str) -> int:
    """A timestamp that was checked, in nanoseconds since the epoch."""
    seconds, _, fraction = value.partition(".")
    return numbers.nanoseconds(seconds or "0", fraction)


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")


def json_platform(value: str) -> str:
    """An OCI platform in JSON as "os/arch[/variant]" ("" stays "")."""
    if not value:
        return ""
    try:
        parsed = msgspec.json.decode(value, type=_Platform)
    except msgspec.MsgspecError as error:
        raise InvalidParameter(f"failed to parse platform: {error}")
    optional = parsed.variant or parsed.os_version or parsed.os_features
    if not parsed.os and not parsed.architecture and optional:
        raise InvalidParameter(
            "optional platform fields provided, but OS and Architecture are missing"
        )
    if not parsed.os or not parsed.architecture:
        raise InvalidParameter("both OS and Architecture must be provided")
    parts = [parsed.os, parsed.architecture]
    return "/".join([*parts, parsed.variant] if parsed.variant else parts)


def registry_auth(header: str) -> Json:
    """X-Registry-Auth (base64url JSON). Bad ones count as none, as with Docker."""
    if not header:
        return {}
    try:
        raw = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
        decoded = msgspec.json.decode(raw)
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}


def with_agent(auth: Json, headers: Mapping[str, str]) -> Json:
    """Credentials, with the name of the program that asks: registries are told of both."""
    agent = headers.get("User-Agent", "")
    return {**auth, "useragent": agent} if agent else auth
