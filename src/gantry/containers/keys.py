"""Detach keys: what a client types to leave a terminal without ending it."""

from __future__ import annotations

from typing import Final

from gantry.containers.tasks import Stream
from gantry.model.errors import InvalidParameter

DEFAULT: Final = b"\x10\x11"
"""ctrl-p ctrl-q."""

_SPECIAL: Final = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse(text: str | None) -> bytes:
    """ "ctrl-a,b": the bytes. InvalidParameter. Empty is the default."""
    if not text:
        return DEFAULT
    found = bytearray()
    for word in text.split(","):
        if len(word) == 1:
            found += word.encode()
            continue
        if word == "DEL":
            found.append(127)
            continue
        head, _, key = word.partition("-")
        code = _SPECIAL.get(key)
        if code is None and len(key) == 1 and "a" <= key <= "z":
            code = ord(key) - ord("a") + 1
        if head != "ctrl" or code is None:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided")
        found.append(code)
    return bytes(found)


class KeyStream:
    """A stream that watches its input for the keys, and is closed by them.

    What may be the beginning of the keys is held back until it is known not to be.
    """

    def __init__(self, inner: Stream, keys: bytes) -> None:
        self._inner = inner
        self._keys = keys
        self._seen = 0
        self.detached = False

    async def read(self) -> bytes:
        data = await self._inner.read()
        return b"" if self.detached else data

    async def write(self, data: bytes) -> None:
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._seen]:
                self._seen += 1
                if self._seen == len(self._keys):
                    if out:
                        await self._inner.write(bytes(out))
                    self.detached = True
                    await self._inner.close()
                    return
                continue
            out += self._keys[: self._seen]
            self._seen = 0
            if byte == self._keys[0]:
                self._seen = 1
            else:
                out.append(byte)
        if out:
            await self._inner.write(bytes(out))

    async def close_stdin(self) -> None:
        await self._inner.close_stdin()

    async def close(self) -> None:
        await self._inner.close()
