"""/build, /session and /grpc."""

from __future__ import annotations

from typing import Final

from gantry.api import params
from gantry.api.call import Call
from gantry.api.router import Route
from gantry.http.reply import Sendable
from gantry.model.errors import InvalidParameter, NotImplementedHere


async def build(call: Call) -> Sendable:
    """POST /build."""
    raise NotImplementedHere("building images is not supported by this engine yet")


async def prune(call: Call) -> Sendable:
    """POST /build/prune: the cache is empty."""
    params.filters(call.query)
    return call.json({"CachesDeleted": None, "SpaceReclaimed": 0})


async def cancel(call: Call) -> Sendable:
    """POST /build/cancel."""
    if not call.text("id"):
        raise InvalidParameter("build ID not provided")
    return call.empty(200)


async def session(call: Call) -> Sendable:
    """POST /session, /grpc: BuildKit's ways in."""
    raise NotImplementedHere("BuildKit sessions are not supported by this engine yet")


ROUTES: Final = [
    Route("POST", "/build", build),
    Route("POST", "/build/prune", prune, since=31),
    Route("POST", "/build/cancel", cancel),
    Route("POST", "/session", session),
    Route("POST", "/grpc", session),
]
