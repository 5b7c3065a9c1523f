"""What can go wrong between a client and an engine."""

from __future__ import annotations

from gantry.model.errors import GantryError, Unavailable


class ApiError(GantryError):
    """The engine answered with an error.

    `status` is the HTTP status, `message` the engine's own text; `str()` is the line
    that Docker's client prints for it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Error response from daemon: {message.strip()}")
        self.status = status
        self.message = message


class Unreachable(Unavailable):
    """No engine answers at this address (`address` as the user wrote it)."""

    def __init__(self, address: str, reason: str = "") -> None:
        super().__init__(reason or cannot_connect(address))
        self.address = address


class StreamError(GantryError):
    """A stream of JSON messages ended with an error message of the engine."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class ProtocolError(GantryError):
    """The peer does not speak HTTP/1.1 or broke off in the middle of an answer."""


def cannot_connect(address: str) -> str:
    """Docker's text, which scripts look for."""
    return f"Cannot connect to the Docker daemon at {address}. Is the docker daemon running?"
