"""`checkpoint`: what runs, written to disk by CRIU, to be started from there again."""

from __future__ import annotations

from urllib.parse import quote

from gantry.cli.command import App, Command
from gantry.cli.flags import Flag, Options

_DIR = Flag("checkpoint-dir", "Use a custom checkpoint storage directory", "string")


def _place(container: str, checkpoint: str = "") -> str:
    below = f"/{quote(checkpoint, safe='')}" if checkpoint else ""
    return f"/containers/{quote(container, safe='')}/checkpoints{below}"


def _create(app: App, options: Options, arguments: list[str]) -> int:
    container, checkpoint = arguments
    body = {
        "CheckpointID": checkpoint,
        "CheckpointDir": options.text("checkpoint-dir"),
        "Exit": not options.on("leave-running"),
    }
    app.engine.post(_place(container), body=body)
    app.out(checkpoint)
    return 0


def _ls(app: App, options: Options, arguments: list[str]) -> int:
    found = app.engine.get(_place(arguments[0]), {"dir": options.text("checkpoint-dir") or None})
    for line in ("CHECKPOINT NAME", *(one["Name"] for one in found or ())):
        app.out(line)
    return 0


def _rm(app: App, options: Options, arguments: list[str]) -> int:
    app.engine.delete(_place(*arguments), {"dir": options.text("checkpoint-dir") or None})
    return 0


CREATE = Command(
    "Create a checkpoint from a running container",
    "[OPTIONS] CONTAINER CHECKPOINT",
    _create,
    (_DIR, Flag("leave-running", "Leave the container running after checkpoint")),
    least=2,
    most=2,
    details="CRIU has to be installed, and the engine to run with --experimental.",
    examples=(
        ("gantry checkpoint create web before", "Write its state to disk, and end it"),
        ("gantry start --checkpoint before web", "Let it go on from there"),
    ),
)
LS = Command(
    "List checkpoints for a container", "[OPTIONS] CONTAINER", _ls, (_DIR,), least=1, most=1
)
RM = Command("Remove a checkpoint", "[OPTIONS] CONTAINER CHECKPOINT", _rm, (_DIR,), least=2, most=2)
