"""Streams of JSON messages (pull, push, load, events, stats), read one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from gantry.client.errors import ProtocolError

Json = dict[str, Any]
"""A decoded JSON object of the Engine API: its values are whatever the API says."""

_SPACE = " \t\r\n\x1e"


def messages(pieces: Iterable[bytes]) -> Iterator[Json]:
    """Yields each object as soon as its last byte came.

    Objects may stand in a line each (as the engine writes them), be preceded by the
    record separator of RFC 7464, or follow one another without anything between.
    """
    decoder = json.JSONDecoder()
    pending = b""
    for piece in pieces:
        pending += piece
        if b"\n" in piece:
            whole, _, pending = pending.rpartition(b"\n")
            yield from _objects(whole.decode("utf-8", "replace"), decoder, final=True)
        elif pending.rstrip().endswith(b"}"):
            text = pending.decode("utf-8", "replace")
            found = list(_objects(text, decoder, final=False))
            if found:
                pending = b""
                yield from found
    if pending.strip():
        yield from _objects(pending.decode("utf-8", "replace"), decoder, final=True)


def _objects(text: str, decoder: json.JSONDecoder, *, final: bool) -> Iterator[Json]:
    found: list[Json] = []
    position = 0
    while True:
        while position < len(text) and text[position] in _SPACE:
            position += 1
        if position == len(text):
            break
        try:
            value, position = decoder.raw_decode(text, position)
        except ValueError:
            if not final:
                return
            raise ProtocolError(f"invalid JSON in the engine's answer: {text[position:][:80]!r}")
        if isinstance(value, dict):
            found.append(value)
    yield from found
