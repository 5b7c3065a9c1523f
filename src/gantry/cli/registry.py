"""Which command is where: paths to `module:NAME` under `gantry.cli.commands`.

Only text, so that a command line imports nothing but its own command.
"""

from __future__ import annotations

_CONTAINER = {
    "attach": "run:ATTACH",
    "commit": "images:COMMIT",
    "cp": "files:CP",
    "create": "run:CREATE",
    "diff": "lifecycle:DIFF",
    "exec": "execute:EXEC",
    "export": "files:EXPORT",
    "kill": "lifecycle:KILL",
    "logs": "execute:LOGS",
    "pause": "lifecycle:PAUSE",
    "port": "lifecycle:PORT",
    "rename": "lifecycle:RENAME",
    "restart": "lifecycle:RESTART",
    "rm": "lifecycle:RM",
    "run": "run:RUN",
    "start": "run:START",
    "stats": "stats:STATS",
    "stop": "lifecycle:STOP",
    "top": "lifecycle:TOP",
    "unpause": "lifecycle:UNPAUSE",
    "update": "update:UPDATE",
    "wait": "lifecycle:WAIT",
}

_IMAGE = {
    "history": "images:HISTORY",
    "import": "transfer:IMPORT",
    "load": "transfer:LOAD",
    "pull": "transfer:PULL",
    "push": "transfer:PUSH",
    "save": "transfer:SAVE",
    "tag": "images:TAG",
}

_SYSTEM = {"events": "system:EVENTS", "info": "system:INFO"}

COMMANDS: dict[str, str] = {
    **_CONTAINER,
    **_IMAGE,
    **_SYSTEM,
    "images": "images:IMAGES",
    "inspect": "inspect:INSPECT",
    "login": "transfer:LOGIN",
    "logout": "transfer:LOGOUT",
    "ps": "listing:PS",
    "rmi": "images:RMI",
    "search": "transfer:SEARCH",
    "version": "system:VERSION",
    "checkpoint create": "checkpoints:CREATE",
    "checkpoint ls": "checkpoints:LS",
    "checkpoint rm": "checkpoints:RM",
    **{f"container {name}": place for name, place in _CONTAINER.items()},
    "context create": "contexts:CREATE",
    "context inspect": "contexts:INSPECT",
    "context ls": "contexts:LS",
    "context rm": "contexts:RM",
    "context show": "contexts:SHOW",
    "context update": "contexts:UPDATE",
    "context use": "contexts:USE",
    "container inspect": "inspect:CONTAINER",
    "container ls": "listing:PS",
    "container prune": "prune:CONTAINER_PRUNE",
    **{f"image {name}": place for name, place in _IMAGE.items()},
    "image inspect": "inspect:IMAGE",
    "image ls": "images:IMAGES",
    "image prune": "prune:IMAGE_PRUNE",
    "image rm": "images:RMI",
    "network connect": "networks:CONNECT",
    "network create": "networks:NETWORK_CREATE",
    "network disconnect": "networks:DISCONNECT",
    "network egress": "networks:EGRESS",
    "network inspect": "inspect:NETWORK",
    "network ls": "networks:NETWORK_LS",
    "network prune": "prune:NETWORK_PRUNE",
    "network rm": "networks:NETWORK_RM",
    "registry serve": "registry:SERVE",
    **{f"system {name}": place for name, place in _SYSTEM.items()},
    "system df": "prune:DF",
    "system prune": "prune:SYSTEM_PRUNE",
    "volume create": "networks:VOLUME_CREATE",
    "volume inspect": "inspect:VOLUME",
    "volume ls": "networks:VOLUME_LS",
    "volume prune": "prune:VOLUME_PRUNE",
    "volume rm": "networks:VOLUME_RM",
}

ALIASES: dict[str, str] = {
    "checkpoint list": "checkpoint ls",
    "checkpoint remove": "checkpoint rm",
    "container list": "container ls",
    "container ps": "container ls",
    "container remove": "container rm",
    "context list": "context ls",
    "context remove": "context rm",
    "image list": "image ls",
    "image remove": "image rm",
    "network list": "network ls",
    "network remove": "network rm",
    "volume list": "volume ls",
    "volume remove": "volume rm",
}

GROUPS: dict[str, str] = {
    "checkpoint": "Manage checkpoints",
    "container": "Manage containers",
    "context": "Manage contexts",
    "image": "Manage images",
    "network": "Manage networks",
    "registry": "Serve images to others",
    "system": "Manage the engine",
    "volume": "Manage volumes",
}

COMMON: tuple[str, ...] = (
    "run", "exec", "ps", "pull", "push", "images", "login", "logout", "search", "version", "info",
)  # fmt: skip
"""Shown first in help, in this order."""
