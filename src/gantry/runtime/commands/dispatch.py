"""From a command line to a command."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Final

from gantry.model.errors import GantryError
from gantry.runtime.commands.context import Context, default_root, rooted
from gantry.runtime.commands.flags import BOOL, STRING, Arguments, UsageError, WrongCount, parse
from gantry.runtime.commands.log import Log
from gantry.runtime.commands.options import CHECKPOINT, CREATE, EXEC, RESTORE, RUN, UPDATE
from gantry.runtime.errors import RuntimeFailure, describe

_GLOBAL: Final[Mapping[str, str]] = {
    "root": STRING,
    "log": STRING,
    "log-format": STRING,
    "debug": BOOL,
    "systemd-cgroup": BOOL,
    "rootless": STRING,
    "help": BOOL,
    "version": BOOL,
    "criu": STRING,
}
_SHORT: Final[Mapping[str, str]] = {"h": "help", "v": "version"}

_MANY: Final = 1 << 30
_UNKNOWN: Final = 3
"""The exit status of a command that there is not."""

# command → (module, function, flags, short flags, positional words before all is positional)
_COMMANDS: Final[Mapping[str, tuple[str, str, Mapping[str, str], Mapping[str, str], int]]] = {
    "create": ("start", "create", CREATE, {"b": "bundle"}, _MANY),
    "run": ("start", "run", RUN, {"b": "bundle", "d": "detach"}, _MANY),
    "start": ("start", "start", {}, {}, _MANY),
    "exec": (
        "execute",
        "execute",
        EXEC,
        {"e": "env", "t": "tty", "u": "user", "g": "additional-gids", "p": "process",
         "d": "detach", "c": "cap"},
        1,
    ),
    "kill": ("control", "kill", {"all": BOOL}, {"a": "all"}, _MANY),
    "delete": ("control", "delete", {"force": BOOL}, {"f": "force"}, _MANY),
    "pause": ("control", "pause", {}, {}, _MANY),
    "resume": ("control", "resume", {}, {}, _MANY),
    "update": ("control", "update", UPDATE, {"r": "resources"}, _MANY),
    "state": ("inspect", "state", {}, {}, _MANY),
    "list": (
        "inspect", "list_", {"format": STRING, "quiet": BOOL}, {"f": "format", "q": "quiet"}, _MANY,
    ),
    "ps": ("inspect", "ps", {"format": STRING}, {"f": "format"}, 1),
    "events": ("inspect", "events", {"stats": BOOL, "interval": STRING}, {}, _MANY),
    "spec": ("info", "spec", {"bundle": STRING, "rootless": BOOL}, {"b": "bundle"}, _MANY),
    "features": ("info", "features", {}, {}, _MANY),
    "checkpoint": ("criu", "checkpoint", CHECKPOINT, {}, _MANY),
    "restore": ("criu", "restore", RESTORE, {"b": "bundle", "d": "detach"}, _MANY),
}  # fmt: skip


def usage() -> str:
    """What --help prints."""
    names = "\n".join(f"   {name}" for name in _COMMANDS)
    flags = "\n".join(
        f"   --{name}{'' if kind == BOOL else ' value'}" for name, kind in _GLOBAL.items()
    )
    return (
        "NAME:\n   gantry-runc - Open Container Initiative runtime\n\n"
        "USAGE:\n   gantry-runc [global options] command [command options] [arguments...]\n\n"
        f"COMMANDS:\n{names}\n\nGLOBAL OPTIONS:\n{flags}\n"
    )


def help_of(command: str) -> str:
    """What `command --help` prints."""
    flags = _COMMANDS[command][2]
    lines = "\n".join(
        f"   --{name}{'' if kind == BOOL else ' value'}" for name, kind in flags.items()
    )
    return (
        f"NAME:\n   gantry-runc {command}\n\n"
        f"USAGE:\n   gantry-runc {command} [command options] [arguments...]\n\nOPTIONS:\n{lines}\n"
    )


def dispatch(argv: Sequence[str]) -> int:
    """Run one command line; the exit status."""
    log = Log()
    command = ""
    try:
        top = parse(argv, _rootless_flag(argv), short=_SHORT, stop_after=1)
        command = top.rest[0] if top.rest else ""
        if top.flag("version") or command == "version":
            print(_module("info").version())
            return 0
        if top.flag("help") or command in ("", "help", "h"):
            print(usage(), end="")
            return 0
        log = _log(top)
        if command not in _COMMANDS:
            log.error(f"No help topic for '{command}'")
            return _UNKNOWN
        return _run(command, top, log)
    except UsageError as error:
        why = "." if isinstance(error, WrongCount) else f": {error}"
        print(f"Incorrect Usage{why}\n\n{help_of(command) if command else usage()}", end="")
        log.error(str(error))
        return 1
    except RuntimeFailure as error:
        log.error(str(error))
        return 255 if command == "exec" else 1
    except GantryError as error:
        log.error(str(error))
        return 1
    except OSError as error:
        log.error(describe(error))
        return 1


def _rootless_flag(words: Sequence[str]) -> Mapping[str, str]:
    """--rootless alone means true here, and takes a value only with "=" or a known word."""
    for index, word in enumerate(words):
        if word in ("--rootless", "-rootless"):
            following = words[index + 1] if index + 1 < len(words) else ""
            if following not in ("true", "false", "auto"):
                return {**_GLOBAL, "rootless": BOOL}
    return _GLOBAL


def _log(top: Arguments) -> Log:
    form = top.string("log-format", "text")
    if form not in ("text", "json"):
        raise RuntimeFailure(f"invalid log-format: {form}")
    path = top.string("log")
    try:
        return Log(path, form, debug=top.flag("debug"))
    except OSError as error:
        raise RuntimeFailure(f"open {path}: {os.strerror(error.errno or 0).lower()}")


def _run(command: str, top: Arguments, log: Log) -> int:
    module, function, flags, short, stop_after = _COMMANDS[command]
    arguments = parse(
        top.rest[1:], {**flags, "help": BOOL}, short={**short, "h": "help"}, stop_after=stop_after
    )
    if arguments.flag("help"):
        print(help_of(command), end="")
        return 0
    rootless = "true" if top.flag("rootless") else top.string("rootless", "auto")
    context = Context(
        root=rooted(top.string("root")) if top.given("root") else default_root(),
        root_given=top.given("root"),
        systemd_cgroup=top.flag("systemd-cgroup"),
        rootless=rootless,
        log=log,
    )
    action: Callable[[Context, Arguments], int] = getattr(_module(module), function)
    return action(context, arguments)


def _module(name: str) -> ModuleType:
    # Not by importlib: the package takes a millisecond to load.
    return __import__(f"gantry.runtime.commands.{name}", fromlist=[name])
