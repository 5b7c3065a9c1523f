"""`exec` and `logs`: into a running container, and what one has said."""

from __future__ import annotations

from gantry.cli import terminal
from gantry.cli.command import App, Command
from gantry.cli.create_request import variables
from gantry.cli.flags import Flag, Options
from gantry.cli.session import Session, Wiring, resize_of, write_all
from gantry.cli.times import when
from gantry.client.engine import segment
from gantry.client.errors import ApiError
from gantry.client.frames import STDERR, SYSTEM_ERROR, Demultiplexer
from gantry.model.errors import GantryError


def _exec(app: App, options: Options, arguments: list[str]) -> int:
    name, command = arguments[0], arguments[1:]
    keys_text = options.text("detach-keys") or app.config.text("detachKeys")
    keys = terminal.detach_keys(keys_text)
    detach, tty = options.on("detach"), options.on("tty")
    stdin = options.on("interactive") and not detach
    try:
        env = variables(options, app.environment)
    except ValueError as error:
        raise GantryError(str(error)) from error
    engine = app.engine
    if not detach and stdin and tty:
        # First, as an exec that is created cannot be taken back; but what does not
        # exist is the better message.
        engine.get(f"/containers/{segment(name)}/json")
        terminal.check_input(stdin, tty)
    rows, columns = terminal.size()
    body: dict[str, object] = {
        "User": options.text("user"),
        "Privileged": options.on("privileged"),
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "DetachKeys": keys_text,
        "Env": env,
        "WorkingDir": options.text("workdir"),
        "Cmd": command,
    }
    sized = tty and bool(rows or columns)
    if sized:
        body["ConsoleSize"] = [rows, columns]
    identifier = str(engine.post(f"/containers/{segment(name)}/exec", body=body)["Id"])
    start: dict[str, object] = {"Detach": detach, "Tty": tty}
    if sized:
        start["ConsoleSize"] = [rows, columns]
    if detach:
        engine.post(f"/exec/{identifier}/start", body=start)
        return 0
    stream = engine.hijack(f"/exec/{identifier}/start", body=start)
    try:
        resize = tty and terminal.is_terminal(0)
        session = Session(
            stream,
            Wiring(stdin=stdin, tty=tty, keys=keys),
            on_resize=resize_of(engine, f"/exec/{identifier}") if resize else None,
        )
        with session.prepared():
            ended = session.run()
    finally:
        stream.close()
    if not ended:
        raise GantryError("read escape sequence")
    return int(engine.get(f"/exec/{identifier}/json").get("ExitCode") or 0)


def _logs(app: App, options: Options, arguments: list[str]) -> int:
    details = app.engine.get(f"/containers/{segment(arguments[0])}/json")
    query = {
        "stdout": True,
        "stderr": True,
        "since": when(options.text("since")),
        "until": when(options.text("until")),
        "timestamps": options.on("timestamps"),
        "follow": options.on("follow"),
        "tail": options.text("tail"),
        "details": options.on("details"),
    }
    path = f"/containers/{segment(str(details['Id']))}/logs"
    with app.engine.request("GET", path, query) as response:
        if (details.get("Config") or {}).get("Tty"):
            for piece in response:
                write_all(1, piece)
            return 0
        demultiplexer = Demultiplexer()
        for piece in response:
            for stream, payload in demultiplexer.feed(piece):
                if stream == SYSTEM_ERROR:
                    text = payload.decode("utf-8", "replace")
                    raise ApiError(500, f"error from daemon in stream: {text}")
                write_all(2 if stream == STDERR else 1, payload)
    return 0


EXEC = Command(
    "Execute a command in a running container",
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    _exec,
    (
        Flag("detach", "Leave it running in the background", short="d"),
        Flag("detach-keys", "Keys that leave it running: ctrl-p,ctrl-q", "string"),
        Flag("env", "Set a variable: NAME=VALUE", "list", "e"),
        Flag("env-file", "File of variables, one NAME=VALUE a line", "list"),
        Flag("interactive", "Join standard input", short="i"),
        Flag("privileged", "With all capabilities"),
        Flag("tty", "Give it a terminal", short="t"),
        Flag("user", "Run as USER[:GROUP]", "string", "u"),
        Flag("workdir", "Working directory inside", "string", "w"),
    ),
    2,
    None,
    interspersed=False,
    examples=(
        ("gantry exec -it web sh", "A shell in a running container"),
        ("gantry exec -u 0 -e DEBUG=1 web apk info", "As root, with a variable"),
    ),
)

LOGS = Command(
    "Fetch the logs of a container",
    "[OPTIONS] CONTAINER",
    _logs,
    (
        Flag("details", "Attributes of the log driver before each line"),
        Flag("follow", "Go on as more comes", short="f"),
        Flag("since", "From then on: 10m, 2026-01-02T15:04:05Z", "string"),
        Flag("tail", "Only the last N lines", "string", "n", "all"),
        Flag("timestamps", "When each line was written", short="t"),
        Flag("until", "Up to then", "string"),
    ),
    1,
    1,
    examples=(
        ("gantry logs -f --tail 20 web", "The last twenty lines and what follows"),
        ("gantry logs --since 10m web", "The last ten minutes"),
    ),
)
