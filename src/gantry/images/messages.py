"""Docker's JSON messages for progress (moby `api/types/jsonstream`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
Say = Callable[[Message], None]


def status(text: str, identity: str = "") -> Message:
    """One line; with an id it replaces that id's line."""
    return {"status": text, "id": identity} if identity else {"status": text}


def progress(text: str, identity: str, current: int = 0, total: int = 0) -> Message:
    """A bar: current of total bytes."""
    detail: dict[str, int] = {}
    if current:
        detail["current"] = current
    if total > 0:
        detail["total"] = total
    return {"status": text, "progressDetail": detail, "id": identity}


def stream(text: str) -> Message:
    """Text as it is."""
    return {"stream": text}


def aux(value: Message) -> Message:
    return {"aux": value}


def failure(text: str, code: int = 0) -> Message:
    """The last message of a stream that failed after its headers went out."""
    detail: dict[str, Any] = {"message": text}
    if code:
        detail["code"] = code
    return {"errorDetail": detail, "error": text}


def short(digest: str) -> str:
    """An id as messages show it: 12 hex digits."""
    return digest.rpartition(":")[2][:12]
