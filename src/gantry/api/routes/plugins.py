"""/plugins: what an engine answers that has none."""

from __future__ import annotations

from typing import Final

from gantry.api import params
from gantry.api.call import Call
from gantry.api.router import Route
from gantry.http.reply import Sendable
from gantry.model.errors import NotFound, NotImplementedHere


async def list_all(call: Call) -> Sendable:
    """GET /plugins."""
    params.filters(call.query)
    return call.json([])


async def unknown(call: Call) -> Sendable:
    """Any endpoint that names a plugin."""
    raise NotFound(f'plugin "{call.name}" not found')


async def unsupported(call: Call) -> Sendable:
    """Getting a plugin."""
    raise NotImplementedHere("managed plugins are not supported by this engine yet")


ROUTES: Final = [
    Route("GET", "/plugins", list_all),
    Route("GET", "/plugins/{name}/json", unknown),
    Route("GET", "/plugins/privileges", unsupported),
    Route("DELETE", "/plugins/{name}", unknown),
    Route("POST", "/plugins/{name}/enable", unknown),
    Route("POST", "/plugins/{name}/disable", unknown),
    Route("POST", "/plugins/{name}/push", unknown),
    Route("POST", "/plugins/{name}/upgrade", unknown, since=26),
    Route("POST", "/plugins/{name}/set", unknown),
    Route("POST", "/plugins/pull", unsupported),
    Route("POST", "/plugins/create", unsupported),
]
