"""`run`, `create`, `start`, `attach`: containers brought to life, perhaps in the foreground."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gantry.cli import terminal
from gantry.cli.command import App, Command, ExitStatus, UsageError
from gantry.cli.create_flags import CREATE_FLAGS, RUN_FLAGS
from gantry.cli.create_request import Json, build
from gantry.cli.flags import Flag, Options
from gantry.cli.session import Session, Wiring, forward_to, resize_of
from gantry.client.connection import Response
from gantry.client.engine import segment
from gantry.client.errors import ApiError
from gantry.model.errors import GantryError

_NOT_FOUND = (
    "executable file not found",
    "no such file or directory",
    "system cannot find the file specified",
)
_NOT_EXECUTABLE = ("permission denied", "is a directory")


def _run(app: App, options: Options, arguments: list[str]) -> int:
    body = _body(app, options, arguments, "run")
    host = body["HostConfig"]
    assert isinstance(host, dict)
    if options.on("detach"):
        if options.many("attach"):
            raise GantryError("conflicting options: cannot specify both --attach and --detach")
        body.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)
    else:
        terminal.check_input(bool(body["AttachStdin"]), bool(body["Tty"]))
    keys = terminal.detach_keys(options.text("detach-keys") or app.config.text("detachKeys"))
    try:
        identifier = _create(app, options, body)
    except GantryError as error:
        raise _start_error(error)
    attached = any(body[f"Attach{name}"] for name in ("Stdin", "Stdout", "Stderr"))
    if not attached:
        try:
            app.engine.post(f"/containers/{identifier}/start")
        except GantryError as error:
            raise _start_error(error, identifier, app)
        app.out(identifier)
        return 0
    wiring = Wiring(
        stdin=bool(body["AttachStdin"]),
        stdout=bool(body["AttachStdout"]),
        stderr=bool(body["AttachStderr"]),
        tty=bool(body["Tty"]),
        keys=keys,
    )
    try:
        return foreground(
            app,
            identifier,
            wiring,
            keys_text=options.text("detach-keys") or app.config.text("detachKeys"),
            removed=options.on("rm"),
            proxy=options.on("sig-proxy"),
        )
    except _StartError as error:
        raise _start_error(error.cause)


def _body(app: App, options: Options, arguments: list[str], _verb: str) -> Json:
    if options.text("pull") not in ("always", "missing", "never", ""):
        raise UsageError(
            f"invalid pull option: '{options.text('pull')}': must be one of \"always\", "
            '"missing" or "never"'
        )
    try:
        return build(options, arguments[0], arguments[1:], _proxied(app))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _proxied(app: App) -> dict[str, str]:
    return dict(app.environment)


def _start_error(error: GantryError, _identifier: str = "", _app: App | None = None) -> ExitStatus:
    """Docker's exit codes: 127 not found, 126 not executable, 125 anything else."""
    text = str(error)
    if any(part in text for part in _NOT_FOUND):
        status = 127
    elif any(part in text for part in _NOT_EXECUTABLE) and isinstance(error, ApiError):
        status = 126
    else:
        status = 125
    return ExitStatus(status, f"gantry: {text}\n\nRun 'gantry run --help' for more information")


# -- making a container ---------------------------------------------------------------


def _create(app: App, options: Options, body: Json) -> str:
    """Makes the container, pulling its image as --pull says; its id."""
    image = str(body["Image"])
    rows, columns = terminal.size()
    host = body["HostConfig"]
    assert isinstance(host, dict)
    host["ConsoleSize"] = [rows, columns]
    with _cidfile(options.text("cidfile")) as write_id:
        if options.text("pull") == "always":
            _pull(app, options, image)
        query = {"name": options.text("name"), "platform": options.text("platform")}
        try:
            answer = app.engine.post("/containers/create", query, body)
        except ApiError as error:
            missing = error.status == 404 and "image" in error.message.lower()
            if not missing or options.text("pull") not in ("missing", ""):
                raise
            if not options.on("quiet"):
                app.err(f"Unable to find image '{_tagged(image)}' locally")
            _pull(app, options, image)
            answer = app.engine.post("/containers/create", query, body)
        identifier = str(answer["Id"])
        for warning in answer.get("Warnings") or []:
            app.err(f"WARNING: {warning}")
        write_id(identifier)
    return identifier


def _tagged(image: str) -> str:
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"


def _pull(app: App, options: Options, image: str) -> None:
    from gantry.cli.commands.transfer import pull_image

    pull_image(app, image, platform=options.text("platform"), quiet=options.on("quiet"), to=2)


@contextmanager
def _cidfile(path: str) -> Iterator[Any]:
    """Made before the container, so that a wrong path makes none; removed if unused."""
    if not path:
        yield lambda _identifier: None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise GantryError(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise GantryError(
            f"failed to create the container ID file: open {path}: {reason}"
        ) from error
    written = False

    def write(identifier: str) -> None:
        nonlocal written
        os.write(descriptor, identifier.encode())
        written = True

    try:
        yield write
    finally:
        os.close(descriptor)
        if not written:
            os.unlink(path)


def _create_only(app: App, options: Options, arguments: list[str]) -> int:
    app.out(_create(app, options, _body(app, options, arguments, "create")))
    return 0


# -- foreground -----------------------------------------------------------------------


class _StartError(Exception):
    def __init__(self, cause: GantryError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def foreground(
    app: App,
    identifier: str,
    wiring: Wiring,
    *,
    keys_text: str,
    removed: bool,
    proxy: bool,
) -> int:
    """Attach, register the wait, start, join; the container's exit code.

    In this order nothing that the container writes, and no exit, can be missed.
    """
    engine = app.engine
    path = f"/containers/{segment(identifier)}"
    query = {
        "stream": True,
        "stdin": wiring.stdin,
        "stdout": wiring.stdout,
        "stderr": wiring.stderr,
        "detachKeys": keys_text,
    }
    with ExitStack() as stack:
        stream = engine.hijack(f"{path}/attach", query)
        stack.callback(stream.close)
        condition = "removed" if removed else "next-exit"
        wait = engine.background("POST", f"{path}/wait", {"condition": condition})
        stack.callback(wait.close)
        resize = resize_of(engine, path) if wiring.tty and terminal.is_terminal(1) else None
        session = Session(
            stream,
            wiring,
            on_signal=forward_to(engine, identifier) if proxy else None,
            on_resize=resize,
            done=wait.fileno(),
        )
        stack.enter_context(session.prepared())
        try:
            engine.post(f"{path}/start")
        except GantryError as error:
            if removed:
                wait.read()
            raise _StartError(error) from error
        if not session.run():
            return 0
        return _status(wait)


def _status(wait: Response) -> int:
    try:
        result = json.loads(wait.read() or b"{}")
    except (GantryError, OSError, ValueError) as error:
        # The engine went away: what became of the container is not known here.
        raise ExitStatus(125, f"error waiting for container: {error}") from error
    problem = (result.get("Error") or {}).get("Message")
    if problem:
        raise ExitStatus(125, f"Error waiting for container: {problem}")
    return int(result.get("StatusCode", 125))


def _start(app: App, options: Options, arguments: list[str]) -> int:
    keys_text = options.text("detach-keys") or app.config.text("detachKeys")
    keys = terminal.detach_keys(keys_text)
    if not (options.on("attach") or options.on("interactive")):
        return _start_many(app, options, arguments)
    if len(arguments) > 1:
        raise GantryError("you cannot start and attach multiple containers at once")
    details = app.engine.get(f"/containers/{segment(arguments[0])}/json")
    config = details["Config"]
    wiring = Wiring(
        stdin=options.on("interactive") and bool(config.get("OpenStdin")),
        tty=bool(config.get("Tty")),
        keys=keys,
    )
    try:
        return foreground(
            app,
            str(details["Id"]),
            wiring,
            keys_text=keys_text,
            removed=bool((details.get("HostConfig") or {}).get("AutoRemove")),
            proxy=not wiring.tty and options.on("sig-proxy"),
        )
    except _StartError as error:
        raise error.cause from error


def _start_many(app: App, options: Options, names: list[str]) -> int:
    query = {
        "checkpoint": options.text("checkpoint"),
        "checkpoint-dir": options.text("checkpoint-dir"),
    }
    failed = []
    for name in names:
        try:
            app.engine.post(f"/containers/{segment(name)}/start", query)
        except GantryError as error:
            app.err(str(error))
            failed.append(name)
        else:
            app.out(name)
    if failed:
        raise GantryError("failed to start containers: " + ", ".join(failed))
    return 0


def _attach(app: App, options: Options, arguments: list[str]) -> int:
    name = arguments[0]
    engine = app.engine
    keys_text = options.text("detach-keys") or app.config.text("detachKeys")
    keys = terminal.detach_keys(keys_text)
    details = _attachable(app, name)
    identifier, config = str(details["Id"]), details["Config"]
    tty = bool(config.get("Tty"))
    terminal.check_input(not options.on("no-stdin"), tty)
    stdin = not options.on("no-stdin") and bool(config.get("OpenStdin"))
    wiring = Wiring(stdin=stdin, tty=tty, keys=keys)
    path = f"/containers/{segment(identifier)}"
    query = {
        "stream": True,
        "stdin": stdin,
        "stdout": True,
        "stderr": True,
        "detachKeys": keys_text,
    }
    with ExitStack() as stack:
        wait = engine.background("POST", f"{path}/wait")
        stack.callback(wait.close)
        stream = engine.hijack(f"{path}/attach", query)
        stack.callback(stream.close)
        # It may have ended between the look and the attach, which would then wait for ever.
        _attachable(app, identifier)
        resize = resize_of(engine, path) if tty and terminal.is_terminal(1) else None
        if resize:
            # A shell draws its prompt again only when the size really changes.
            rows, columns = terminal.size()
            resize(rows + 1, columns + 1)
        session = Session(
            stream,
            wiring,
            on_signal=forward_to(engine, identifier)
            if options.on("sig-proxy") and not tty
            else None,
            on_resize=resize,
            done=wait.fileno(),
        )
        stack.enter_context(session.prepared())
        if not session.run():
            raise ExitStatus(1, "read escape sequence")
        return _status(wait)


def _attachable(app: App, name: str) -> Any:
    details = app.engine.get(f"/containers/{segment(name)}/json")
    state = details["State"]
    if not state.get("Running"):
        raise GantryError("You cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise GantryError("You cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise GantryError("You cannot attach to a restarting container, wait until it is running")
    return details


_KEYS = Flag("detach-keys", "Keys that leave it running: ctrl-p,ctrl-q", "string")
_PROXY = Flag("sig-proxy", "Pass signals on to its first process", default=True)

RUN = Command(
    "Create and run a new container from an image",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    _run,
    RUN_FLAGS,
    1,
    None,
    interspersed=False,
    details="Makes a container from an image and starts it. Without -d this command stays: it "
    "shows the container's output, passes signals on and ends with its exit code (125: the "
    "engine refused, 126: the command cannot be executed, 127: there is no such command).",
    examples=(
        ("gantry run --rm busybox echo hello", "Run one command, keep nothing"),
        ("gantry run -it --rm busybox sh", "A shell; ctrl-p ctrl-q leaves it running"),
        ("gantry run -d --name web -p 8080:80 nginx", "A service, reachable at port 8080"),
        ("gantry run --rm -v $PWD:/src -w /src gcc make", "Work on this folder"),
        ("gantry run -m 256m --cpus 0.5 job", "Give it a quarter GiB and half a CPU"),
    ),
)

CREATE = Command(
    "Create a new container",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    _create_only,
    CREATE_FLAGS,
    1,
    None,
    interspersed=False,
    details="As run, but the container is only made; start starts it.",
    examples=(("gantry create --name db postgres", "Make it now, start it later"),),
)

START = Command(
    "Start one or more stopped containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    _start,
    (
        Flag("attach", "Show its output and pass signals on", short="a"),
        Flag("checkpoint", "Continue from this checkpoint", "string"),
        Flag("checkpoint-dir", "Where checkpoints are kept", "string"),
        _KEYS,
        Flag("interactive", "Join standard input", short="i"),
        Flag("sig-proxy", "Pass signals on", default=True, hidden=True),
    ),
    1,
    None,
    examples=(("gantry start -ai mybox", "Go on with a stopped shell"),),
)

ATTACH = Command(
    "Attach local standard input, output, and error streams to a running container",
    "[OPTIONS] CONTAINER",
    _attach,
    (_KEYS, Flag("no-stdin", "Do not join standard input"), _PROXY),
    1,
    1,
    examples=(("gantry attach --sig-proxy=false web", "Watch; ctrl-c ends only the watching"),),
)
