"""Detach keys: the sequence that ends an attachment and leaves the container running.

Bytes in, bytes out: no I/O. The rules are those of github.com/moby/term (ascii.go, proxy.go),
which docker uses on both sides.
"""

from __future__ import annotations

from typing import Final

DEFAULT: Final = b"\x10\x11"
"""ctrl-p, ctrl-q."""

CONTROLS: Final = "@abcdefghijklmnopqrstuvwxyz[\\]^_"


def parse(keys: str) -> bytes:
    """ "ctrl-p,ctrl-q" → its bytes. "" is the default; ValueError for an unknown key."""
    if not keys:
        return DEFAULT
    codes = bytearray()
    for key in keys.split(","):
        raw = key.encode()
        if len(raw) == 1:
            codes += raw
        elif key.startswith("ctrl-") and len(key) == 6 and key[5] in CONTROLS:
            codes.append(CONTROLS.index(key[5]))
        elif key == "DEL":
            codes.append(127)
        else:
            raise ValueError(f"Unknown character: '{key}'")
    return bytes(codes)


class DetachKeys:
    """Watches input for the sequence, across reads.

    Bytes that may begin the sequence are held back until it is clear that they do not.
    """

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0
        self.detached = False

    def feed(self, data: bytes) -> bytes:
        """What goes to the container; `detached` is set when the sequence was completed."""
        keys = self._keys
        if not keys or self.detached:
            return data
        if not self._matched and keys[0] not in data:
            return data
        out = bytearray()
        for byte in data:
            if byte == keys[self._matched]:
                self._matched += 1
                if self._matched == len(keys):
                    self.detached = True
                    break
                continue
            if self._matched:
                out += keys[: self._matched]
                self._matched = 0
                if byte == keys[0]:
                    self._matched = 1
                    continue
            out.append(byte)
        return bytes(out)
