"""/containers/{name}/checkpoints: experimental, with Docker too."""

from __future__ import annotations

from typing import Final

import msgspec

from gantry.api.call import Call
from gantry.api.router import Route
from gantry.http.reply import Sendable
from gantry.model.container import Wire
from gantry.model.errors import NotImplementedHere


class _Create(Wire, frozen=True):
    """moby api/types/checkpoint/create_request.go."""

    checkpoint_id: str = msgspec.field(default="", name="CheckpointID")
    checkpoint_dir: str = ""
    exit: bool = False


def _check(call: Call) -> None:
    if not call.app.experimental:
        raise NotImplementedHere(
            "This experimental feature is disabled by default. Start the Docker daemon in "
            "experimental mode in order to enable it."
        )


async def list_all(call: Call) -> Sendable:
    """GET /containers/{name}/checkpoints."""
    _check(call)
    names = call.backends.checkpoints.list(call.name, folder=call.text("dir"))
    return call.json([{"Name": name} for name in names])


async def create(call: Call) -> Sendable:
    """POST /containers/{name}/checkpoints."""
    _check(call)
    wish = await call.read(_Create)
    await call.finish(
        call.backends.checkpoints.create(
            call.name, wish.checkpoint_id, folder=wish.checkpoint_dir, exit=wish.exit
        )
    )
    return call.empty(201)


async def remove(call: Call) -> Sendable:
    """DELETE /containers/{name}/checkpoints/{checkpoint}."""
    _check(call)
    await call.finish(
        call.backends.checkpoints.delete(call.name, call.rest, folder=call.text("dir"))
    )
    return call.empty()


ROUTES: Final = [
    Route("GET", "/containers/{name}/checkpoints", list_all),
    Route("POST", "/containers/{name}/checkpoints", create),
    Route("DELETE", "/containers/{name}/checkpoints/{rest}", remove),
]
