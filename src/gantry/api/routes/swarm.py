"""Swarm: what an engine answers that is in no cluster."""

from __future__ import annotations

from typing import Final

from gantry.api.call import Call
from gantry.api.router import Route
from gantry.http.reply import Sendable
from gantry.model.errors import NotImplementedHere, Unavailable


def no_manager() -> Unavailable:
    """The error of everything that needs a cluster."""
    return Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
        "connect this node to swarm and try again."
    )


async def managers_only(call: Call) -> Sendable:
    """Any endpoint that a manager answers."""
    raise no_manager()


async def leave(call: Call) -> Sendable:
    """POST /swarm/leave."""
    raise Unavailable("This node is not part of a swarm")


async def join(call: Call) -> Sendable:
    """POST /swarm/init, /swarm/join."""
    raise NotImplementedHere("swarm mode is not supported by this engine yet")


ROUTES: Final = [
    Route("POST", "/swarm/init", join),
    Route("POST", "/swarm/join", join),
    Route("POST", "/swarm/leave", leave),
    *(
        Route(method, pattern, managers_only, since)
        for method, pattern, since in (
            ("GET", "/swarm", 0),
            ("GET", "/swarm/unlockkey", 0),
            ("POST", "/swarm/update", 0),
            ("POST", "/swarm/unlock", 0),
            ("GET", "/services", 0),
            ("GET", "/services/{name}", 0),
            ("POST", "/services/create", 0),
            ("POST", "/services/{name}/update", 0),
            ("DELETE", "/services/{name}", 0),
            ("GET", "/services/{name}/logs", 0),
            ("GET", "/nodes", 0),
            ("GET", "/nodes/{name}", 0),
            ("DELETE", "/nodes/{name}", 0),
            ("POST", "/nodes/{name}/update", 0),
            ("GET", "/tasks", 0),
            ("GET", "/tasks/{name}", 0),
            ("GET", "/tasks/{name}/logs", 0),
            ("GET", "/secrets", 25),
            ("POST", "/secrets/create", 25),
            ("DELETE", "/secrets/{name}", 25),
            ("GET", "/secrets/{name}", 25),
            ("POST", "/secrets/{name}/update", 25),
            ("GET", "/configs", 30),
            ("POST", "/configs/create", 30),
            ("DELETE", "/configs/{name}", 30),
            ("GET", "/configs/{name}", 30),
            ("POST", "/configs/{name}/update", 30),
        )
    ),
]
