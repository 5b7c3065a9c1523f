"""One HTTP request, as its handler sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar, overload

from gantry.http.body import Body

if TYPE_CHECKING:
    from gantry.http.server import Connection

T = TypeVar("T")


class Headers(Mapping[str, str]):
    """Header fields by name, whatever its case. Of several of one name the first counts, but
    for Transfer-Encoding, where all do."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, str] = {}
        for name, value in fields:
            self.add(name, value)

    def add(self, name: str, value: str) -> None:
        key = name.lower()
        if key == "transfer-encoding" and key in self._fields:
            value = f"{self._fields.pop(key)}, {value}"
        self._fields.setdefault(key, value)

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    @overload
    def get(self, name: str, /) -> str | None: ...

    @overload
    def get(self, name: str, /, default: str) -> str: ...

    @overload
    def get(self, name: str, /, default: T) -> str | T: ...

    def get(self, name: str, /, default: object = None) -> object:
        return self._fields.get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class Request:
    """raw_path: the target as it was sent, ASCII. version: (1, 0) or (1, 1). content: the body, to
    be read once."""

    __slots__ = ("_keep_alive", "connection", "content", "headers", "method", "raw_path", "version")

    def __init__(
        self,
        connection: Connection,
        method: str,
        raw_path: str,
        version: tuple[int, int],
        headers: Headers,
        content: Body,
        *,
        keep_alive: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.raw_path = raw_path
        self.version = version
        self.headers = headers
        self.content = content
        self._keep_alive = keep_alive

    @property
    def keep_alive(self) -> bool:
        """The connection can serve another request behind this one.

        Not when a body is malformed, or was announced and never asked for: whether it comes is
        open then.
        """
        return self._keep_alive and self.content.ends

    @property
    def content_length(self) -> int | None:
        """What was announced; None for chunks and for no body at all."""
        length = self.headers.get("Content-Length")
        return int(length) if length is not None else None
