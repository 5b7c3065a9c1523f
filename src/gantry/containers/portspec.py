"""Ports as the API writes them: "80", "80/udp", "8000-8010/tcp" (moby api/types/network Port)."""

from __future__ import annotations

from typing import Final

from gantry.model.numbers import clamped

PROTOCOLS: Final = ("tcp", "udp", "sctp")


def number(text: str, what: str = "port") -> int:
    """One port. ValueError in moby's words."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"invalid {what} '{text}': invalid syntax")
    if clamped(text) > 65535:
        raise ValueError(f"invalid {what} '{text}': value out of range")
    return int(text)


def span(text: str) -> tuple[int, int, str]:
    """First, last and protocol ("tcp" when none is named). ValueError in moby's words."""
    ports, _, protocol = text.partition("/")
    start, dash, end = ports.partition("-")
    first = number(start, "start port")
    last = number(end, "end port") if dash else first
    if last < first:
        raise ValueError(f"invalid port range: {ports}")
    return first, last, protocol.lower() or "tcp"
