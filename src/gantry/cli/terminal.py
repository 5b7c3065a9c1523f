"""The user's terminal: is it one, how large, raw mode, detach keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from gantry.model.errors import GantryError

DEFAULT_DETACH_KEYS = b"\x10\x11"
"""ctrl-p ctrl-q."""

_SPECIAL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def size(descriptor: int = 1) -> tuple[int, int]:
    """Rows and columns; zeros where it is no terminal."""
    try:
        found = os.get_terminal_size(descriptor)
    except OSError:
        return 0, 0
    return found.lines, found.columns


def check_input(attach_stdin: bool, tty: bool) -> None:
    """A terminal session needs a terminal to type at."""
    if attach_stdin and tty and not is_terminal(0):
        raise GantryError("the input device is not a TTY")


@contextmanager
def raw(descriptor: int = 0) -> Iterator[None]:
    """Keys come as they are typed, without echo; restored in any case."""
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` or `ctrl-a,x` as the bytes a terminal sends for it."""
    if not text:
        return DEFAULT_DETACH_KEYS
    keys = bytearray()
    for part in text.split(","):
        if part.startswith("ctrl-") and len(part) == 6:
            letter = part[5]
            if letter.isascii() and letter.isalpha():
                keys.append(ord(letter.lower()) - ord("a") + 1)
                continue
            if letter in _SPECIAL:
                keys.append(_SPECIAL[letter])
                continue
        elif len(part) == 1 and part.isascii():
            keys.append(ord(part))
            continue
        raise GantryError(f"invalid detach keys ({text}): Unknown character: '{part}'")
    return bytes(keys)


class EscapeFilter:
    """Watches typed bytes for the detach keys.

    A beginning of the sequence is held back until it is clear that it is none.
    """

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the sequence is complete (the rest is dropped)."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(out), True
                continue
            if self._matched:
                out += self._keys[: self._matched]
                self._matched = 0
            if byte == self._keys[0] and len(self._keys) > 1:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out), False
