"""Which command is where: paths to `module:NAME` under `gantry.cli.commands`.

Only text, so that a command line imports nothing but its own command.
"""

from __future__ import annotations

_CONTAINER = {
    "attach": "run:ATTACH",
    "create": "run:CREATE",
    "run": "run:RUN",
    "start": "run:START",
    "exec": "execute:EXEC",
    "logs": "execute:LOGS",
    "diff": "lifecycle:DIFF",
    "kill": "lifecycle:KILL",
    "pause": "lifecycle:PAUSE",
    "port": "lifecycle:PORT",
    "rename": "lifecycle:RENAME",
    "restart": "lifecycle:RESTART",
    "rm": "lifecycle:RM",
    "stop": "lifecycle:STOP",
    "top": "lifecycle:TOP",
    "unpause": "lifecycle:UNPAUSE",
    "wait": "lifecycle:WAIT",
}

COMMANDS: dict[str, str] = {
    **_CONTAINER,
    "ps": "listing:PS",
    **{f"container {name}": place for name, place in _CONTAINER.items()},
    "container ls": "listing:PS",
}

ALIASES: dict[str, str] = {
    "container list": "container ls",
    "container ps": "container ls",
    "container remove": "container rm",
}

GROUPS: dict[str, str] = {
    "container": "Manage containers",
}

COMMON: tuple[str, ...] = ("run", "exec", "ps")
"""Shown first in help."""
