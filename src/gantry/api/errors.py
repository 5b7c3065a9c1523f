"""The one table from the error taxonomy to status codes and bodies."""

from __future__ import annotations

from typing import Final

from gantry.model.errors import (
    Conflict,
    Forbidden,
    GantryError,
    InvalidParameter,
    NotFound,
    NotImplementedHere,
    NotModified,
    StartFailed,
    System,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)

STATUS: Final[tuple[tuple[type[GantryError], int], ...]] = (
    (NotFound, 404),
    (InvalidParameter, 400),
    (Conflict, 409),
    (Unauthorized, 401),
    (Unavailable, 503),
    (Forbidden, 403),
    (NotModified, 304),
    (TooManyRequests, 429),
    (NotImplementedHere, 501),
    (System, 500),
)

REASONS: Final = {
    101: "UPGRADED",
    200: "OK",
    201: "Created",
    204: "No Content",
    301: "Moved Permanently",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    413: "Request Entity Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


class TooLarge(InvalidParameter):
    """A body beyond what is read into memory."""


class PageNotFound(NotFound):
    """No route; answered without the engine's headers, as Docker's does."""

    def __init__(self) -> None:
        super().__init__("page not found")


def status_of(error: GantryError) -> int:
    """The status code of an error."""
    if isinstance(error, StartFailed):
        # The command's fault (not found, not executable) is the client's, else ours.
        return 400 if error.exit_code in (126, 127) else 500
    if isinstance(error, TooLarge):
        return 413
    for kind, status in STATUS:
        if isinstance(error, kind):
            return status
    return 500
