"""What is done to containers by name: stop, kill, rm, rename, wait and their like."""

from __future__ import annotations

import re

from gantry.cli.command import App, Command
from gantry.cli.flags import Flag, Options
from gantry.cli.table import align
from gantry.client.engine import segment
from gantry.client.errors import ApiError
from gantry.model.errors import GantryError

_NAMES = "CONTAINER [CONTAINER...]"


def _stop_query(options: Options) -> dict[str, object]:
    return {
        "signal": options.text("signal"),
        "t": options.number("timeout") if options.changed("timeout") else None,
    }


def _stop(app: App, options: Options, names: list[str]) -> int:
    query = _stop_query(options)
    return app.each(names, lambda name: app.engine.post(f"/containers/{segment(name)}/stop", query))


def _restart(app: App, options: Options, names: list[str]) -> int:
    query = _stop_query(options)
    return app.each(
        names, lambda name: app.engine.post(f"/containers/{segment(name)}/restart", query)
    )


def _kill(app: App, options: Options, names: list[str]) -> int:
    query = {"signal": options.text("signal")}
    return app.each(names, lambda name: app.engine.post(f"/containers/{segment(name)}/kill", query))


def _pause(app: App, _options: Options, names: list[str]) -> int:
    return app.each(names, lambda name: app.engine.post(f"/containers/{segment(name)}/pause"))


def _unpause(app: App, _options: Options, names: list[str]) -> int:
    return app.each(names, lambda name: app.engine.post(f"/containers/{segment(name)}/unpause"))


def _rm(app: App, options: Options, names: list[str]) -> int:
    query = {
        "v": options.on("volumes"),
        "link": options.on("link"),
        "force": options.on("force"),
    }

    def remove(name: str) -> None:
        """Prints the name itself: what -f did not find is no failure, but not removed."""
        stripped = name.strip("/")
        if not stripped:
            raise GantryError("Container name cannot be empty")
        try:
            app.engine.delete(f"/containers/{segment(stripped)}", query)
        except ApiError as error:
            if not (options.on("force") and error.status == 404):
                raise
            app.err(str(error))
        else:
            app.out(name)

    return app.each(names, remove, echo=False)


def _rename(app: App, _options: Options, names: list[str]) -> int:
    old, new = (name.strip() for name in names)
    if not old or not new:
        raise GantryError("Error: Neither old nor new names may be empty")
    app.engine.post(f"/containers/{segment(old)}/rename", {"name": new})
    return 0


def _wait(app: App, _options: Options, names: list[str]) -> int:
    def wait(name: str) -> None:
        answer = app.engine.post(f"/containers/{segment(name)}/wait")
        app.out(str(answer["StatusCode"]))

    return app.each(names, wait, echo=False)


def _top(app: App, _options: Options, arguments: list[str]) -> int:
    query = {"ps_args": " ".join(arguments[1:])}
    answer = app.engine.get(f"/containers/{segment(arguments[0])}/top", query)
    lines = ["\t".join(answer["Titles"])]
    lines += ["\t".join(process) for process in answer.get("Processes") or []]
    app.write(align(lines, least=20))
    return 0


def _port(app: App, _options: Options, arguments: list[str]) -> int:
    name = arguments[0]
    details = app.engine.get(f"/containers/{segment(name)}/json")
    published = (details.get("NetworkSettings") or {}).get("Ports") or {}

    def joined(binding: dict[str, str]) -> str:
        address = binding.get("HostIp", "")
        return f"{f'[{address}]' if ':' in address else address}:{binding.get('HostPort', '')}"

    if len(arguments) > 1:
        port = arguments[1] if "/" in arguments[1] else f"{arguments[1]}/tcp"
        if not re.fullmatch(r"\d+/[a-z]+", port):
            raise GantryError(f"invalid port '{arguments[1]}'")
        lines = [joined(binding) for binding in published.get(port) or []]
        if not lines:
            raise GantryError(f"no public port '{arguments[1]}' published for {name}")
    else:
        lines = [
            f"{port} -> {joined(binding)}"
            for port, bindings in published.items()
            for binding in bindings or []
        ]
    for line in sorted(lines, key=_natural):
        app.out(line)
    return 0


def _natural(text: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def _diff(app: App, _options: Options, names: list[str]) -> int:
    for change in app.engine.get(f"/containers/{segment(names[0])}/changes") or []:
        app.out(f"{'CAD'[change['Kind']]} {change['Path']}")
    return 0


_SIGNAL = Flag("signal", "Signal to send: TERM, SIGHUP, 9", "string", "s")
_TIMEOUT = Flag("timeout", "Seconds before it is killed (-1: never)", "int", "t", aliases=("time",))

STOP = Command(
    "Stop one or more running containers",
    f"[OPTIONS] {_NAMES}",
    _stop,
    (_SIGNAL, _TIMEOUT),
    1,
    None,
    details="Sends the stop signal (SIGTERM if the image says nothing else), and SIGKILL to what "
    "has not ended after the timeout (10 seconds).",
    examples=(("gantry stop -t 2 web db", "Give them two seconds"),),
)
RESTART = Command(
    "Restart one or more containers", f"[OPTIONS] {_NAMES}", _restart, (_SIGNAL, _TIMEOUT), 1, None
)
KILL = Command(
    "Kill one or more running containers",
    f"[OPTIONS] {_NAMES}",
    _kill,
    (_SIGNAL,),
    1,
    None,
    examples=(("gantry kill -s HUP web", "Make a server read its configuration again"),),
)
PAUSE = Command(
    "Pause all processes within one or more containers", _NAMES, _pause, least=1, most=None
)
UNPAUSE = Command(
    "Unpause all processes within one or more containers", _NAMES, _unpause, least=1, most=None
)
RM = Command(
    "Remove one or more containers",
    f"[OPTIONS] {_NAMES}",
    _rm,
    (
        Flag("force", "Kill it first if it runs", short="f"),
        Flag("link", "Remove a link, not the container", short="l"),
        Flag("volumes", "Its anonymous volumes too", short="v"),
    ),
    1,
    None,
    examples=(("gantry rm -fv $(gantry ps -aq)", "Remove every container"),),
)
RENAME = Command("Rename a container", "CONTAINER NEW_NAME", _rename, least=2, most=2)
WAIT = Command(
    "Block until one or more containers stop, then print their exit codes",
    _NAMES,
    _wait,
    least=1,
    most=None,
)
TOP = Command(
    "Display the running processes of a container",
    "CONTAINER [ps OPTIONS]",
    _top,
    least=1,
    most=None,
    interspersed=False,
    examples=(("gantry top web -o pid,user,args", "Choose the columns"),),
)
PORT = Command(
    "List port mappings or a specific mapping for the container",
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    _port,
    least=1,
    most=2,
)
DIFF = Command(
    "Inspect changes to files or directories on a container's filesystem",
    "CONTAINER",
    _diff,
    least=1,
    most=1,
    details="A: added, C: changed, D: deleted, since the container was made.",
)
