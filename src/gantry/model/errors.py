"""The error taxonomy: what went wrong, in the terms of the Engine API.

Every error that a service lets out is one of these. `api` alone turns them into
status codes (one table), `cli` into exit codes. Message texts are the ones that
Docker's clients and scripts read: lower-case first letter unless Docker's differs,
no full stop. Standard library only: the launcher and the shim raise these too.
"""

from __future__ import annotations


class GantryError(Exception):
    """Base of the taxonomy. `str(error)` is the message a user sees."""


class NotFound(GantryError):
    """The named thing does not exist (404)."""


class InvalidParameter(GantryError):
    """The request is malformed or its values make no sense (400)."""


class Conflict(GantryError):
    """The request contradicts the present state (409)."""


class NotModified(GantryError):
    """The state asked for is already there (304, no body)."""


class Unauthorized(GantryError):
    """Credentials are missing or wrong (401)."""


class Forbidden(GantryError):
    """Understood and refused (403)."""


class Unavailable(GantryError):
    """A part that is needed is not there now; trying again may help (503)."""


class TooManyRequests(GantryError):
    """Somebody who was asked, a registry, wants to be asked less often (429)."""


class NotImplementedHere(GantryError):
    """Docker knows this, this engine (yet) does not (501)."""


class System(GantryError):
    """The kernel, a disk or another program failed (500)."""


class StartFailed(GantryError):
    """A container's first process could not be started.

    `exit_code` is what `docker run` shall exit with: 127 the command was not found,
    126 it is not executable (both 400 on the wire), 128 anything else (500).
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
