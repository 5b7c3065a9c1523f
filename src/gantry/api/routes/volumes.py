"""/volumes."""

from __future__ import annotations

from typing import Any, Final

from gantry.api import gojson, params
from gantry.api.call import Call
from gantry.api.router import Route
from gantry.api.routes.swarm import no_manager
from gantry.http.reply import Sendable
from gantry.model.container import Wire
from gantry.model.errors import Unavailable


class _Create(Wire, frozen=True):
    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: Any = None


async def list_all(call: Call) -> Sendable:
    """GET /volumes."""
    return call.json(await call.backends.volumes.list(params.filters(call.query)))


async def inspect(call: Call) -> Sendable:
    """GET /volumes/{name}."""
    return call.json(await call.backends.volumes.inspect(call.name))


async def create(call: Call) -> Sendable:
    """POST /volumes/create."""
    body = gojson.canonical(await call.document(), _Create)
    if body.pop("ClusterVolumeSpec", None) is not None and call.version >= 42:
        raise no_manager()
    return call.json(await call.finish(call.backends.volumes.create(body)), 201)


async def update(call: Call) -> Sendable:
    """PUT /volumes/{name}: cluster volumes only."""
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def remove(call: Call) -> Sendable:
    """DELETE /volumes/{name}."""
    await call.finish(call.backends.volumes.remove(call.name, force=call.flag("force")))
    return call.empty()


async def prune(call: Call) -> Sendable:
    """POST /volumes/prune. Up to 1.41 named volumes are pruned too."""
    filters = params.filters(call.query)
    if call.version < 42:
        filters["all"] = ["true"]
    return call.json(await call.finish(call.backends.volumes.prune(filters)))


ROUTES: Final = [
    Route("GET", "/volumes", list_all),
    Route("GET", "/volumes/{name}", inspect),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune, since=25),
    Route("PUT", "/volumes/{name}", update, since=42),
    Route("DELETE", "/volumes/{name}", remove),
]
