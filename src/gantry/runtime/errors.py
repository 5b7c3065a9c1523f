"""The one error a runtime raises, and how a failed call reads in it."""

from __future__ import annotations

import os

from gantry.model.errors import StartFailed

NOT_FOUND = 127
NOT_EXECUTABLE = 126
FAILED = 128


class RuntimeFailure(StartFailed):
    """The container, or a process in it, could not be made; everything is undone.

    `str()` is one line, worded as runc words it; `exit_code` is what `docker run` exits
    with: 127 not found, 126 not executable, 128 anything else.
    """

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(" ".join(message.split("\n")), exit_code)


class NoSibling(Exception):
    """Init has to be the caller's own child. always: on this machine it always has to be."""

    def __init__(self, *, always: bool) -> None:
        super().__init__("init has to be a child of its starter")
        self.always = always


def describe(error: BaseException) -> str:
    """One line for an error: "call path: text" for an OSError, lower case, no full stop."""
    if isinstance(error, OSError) and error.errno is not None:
        text = error.strerror or os.strerror(error.errno).lower()
        if ": " not in text and text[:1].isupper() and not text[1:2].isupper():
            text = text[0].lower() + text[1:]
        return f"{text}: {error.filename}" if error.filename is not None else text
    return str(error) or type(error).__name__
