"""The values of `gantry.model.task` and the error taxonomy as message heads and back.

What the daemon and a shim say to each other, each request a message with "id" and "op",
each reply one with the same "id" (and "error" when it failed), events without "id"::

    daemon                                    shim
      start (task; netns fd) ───────────────▶   runs the container
      ◀─────────────── reply: pid, started_at; one socket per attachment
      attach, exec, kill, resize, pause … ──▶
      ◀─────────────────────────────── reply
      ◀── event oom:                                 the kernel kills for memory in it
      ◀── event exit: exec, code, at, oom_killed     after the output is in the log
      delete ───────────────────────────────▶   removes all that is left
      ◀─────────────────────────────── reply, then end of file

Enough of it is fixed by "v": a shim of an older gantry goes on serving its container
under a newer daemon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gantry.ipc.frames import Message, ProtocolError
from gantry.model import errors
from gantry.model.mount import Mount
from gantry.model.task import ExecSpec, ExitStatus, LogSpec, StdioSpec, TaskSpec, TaskState

VERSION = 1

Attachments = Sequence[tuple[bool, bool, bool]]
Head = dict[str, object]

_ERRORS: dict[str, type[errors.GantryError]] = {
    kind.__name__: kind
    for kind in (
        errors.NotFound,
        errors.InvalidParameter,
        errors.Conflict,
        errors.Unavailable,
        errors.NotImplementedHere,
        errors.System,
    )
}


def stdio_to_wire(stdio: StdioSpec) -> list[object]:
    return [stdio.terminal, stdio.open_stdin, stdio.stdin_once, stdio.rows, stdio.columns]


def stdio_from_wire(value: object) -> StdioSpec:
    match value:
        case [bool(terminal), bool(stdin), bool(once), int(rows), int(columns)]:
            return StdioSpec(terminal, stdin, once, rows, columns)
    raise ProtocolError("bad stdio")


def log_to_wire(log: LogSpec) -> list[object]:
    return [log.driver, log.path, log.max_size, log.max_file, log.compress, dict(log.attrs)]


def log_from_wire(entry: object) -> LogSpec:
    match entry:
        case [str(driver), str(path), int(size), int(files), compress, dict(attrs)]:
            named = {str(key): str(value) for key, value in attrs.items()}
            return LogSpec(driver, path, size, files, bool(compress), named)
    raise ProtocolError("bad log")


def task_to_wire(spec: TaskSpec, bundle: str) -> Head:
    """Everything but the OCI configuration, which goes as the body."""
    return {
        "v": VERSION,
        "container": spec.container_id,
        "bundle": bundle,
        "rootfs": [[m.type, m.source, list(m.options), m.target] for m in spec.rootfs],
        "stdio": stdio_to_wire(spec.stdio),
        "log": log_to_wire(spec.log),
        "runtime": spec.runtime,
        "runtime_args": list(spec.runtime_args),
        "systemd_cgroup": spec.systemd_cgroup,
        "restore": spec.restore,
    }


def task_from_wire(message: Message) -> TaskSpec:
    return TaskSpec(
        container_id=message.text("container"),
        spec=message.body,
        rootfs=tuple(_mount(entry) for entry in _sequence(message.head.get("rootfs"))),
        stdio=stdio_from_wire(message.head.get("stdio")),
        log=log_from_wire(message.head.get("log")),
        runtime=message.text("runtime"),
        runtime_args=tuple(str(word) for word in _sequence(message.head.get("runtime_args"))),
        systemd_cgroup=message.flag("systemd_cgroup"),
        restore=message.text("restore", ""),
    )


def exec_to_wire(spec: ExecSpec) -> Head:
    """Everything but the OCI process object, which goes as the body."""
    return {
        "exec": spec.exec_id,
        "stdio": stdio_to_wire(spec.stdio),
        "privileged": spec.privileged,
    }


def exec_from_wire(message: Message) -> ExecSpec:
    return ExecSpec(
        exec_id=message.text("exec"),
        process=message.body,
        stdio=stdio_from_wire(message.head.get("stdio")),
        privileged=message.flag("privileged"),
    )


def attachments_from_wire(value: object) -> list[tuple[bool, bool, bool]]:
    found: list[tuple[bool, bool, bool]] = []
    for entry in _sequence(value):
        match entry:
            case [stdin, stdout, stderr]:
                found.append((bool(stdin), bool(stdout), bool(stderr)))
            case _:
                raise ProtocolError("bad attachment")
    return found


def exit_to_wire(status: ExitStatus | None) -> list[object] | None:
    return None if status is None else [status.code, status.at, status.oom_killed]


def exit_from_wire(value: object) -> ExitStatus | None:
    match value:
        case None:
            return None
        case [int(code), int(at) | float(at), oom]:
            return ExitStatus(code, float(at), bool(oom))
    raise ProtocolError("bad exit status")


def state_to_wire(state: TaskState) -> Head:
    return {
        "container": state.container_id,
        "status": state.status,
        "pid": state.pid,
        "started_at": state.started_at,
        "exit": exit_to_wire(state.exit),
        "execs": {name: exit_to_wire(status) for name, status in state.execs.items()},
        "shim": state.shim,
    }


def state_from_wire(message: Message) -> TaskState:
    execs = message.head.get("execs")
    if not isinstance(execs, dict):
        raise ProtocolError("bad execs")
    return TaskState(
        container_id=message.text("container"),
        status=message.text("status"),
        pid=message.number("pid"),
        started_at=message.seconds("started_at"),
        exit=exit_from_wire(message.head.get("exit")),
        execs={str(name): exit_from_wire(status) for name, status in execs.items()},
        shim=message.number("shim", 0),
    )


def error_to_wire(error: BaseException) -> Head:
    """The reply's "error": kind, text and (StartFailed) exit code. Anything else is System."""
    if isinstance(error, errors.StartFailed):
        return {"kind": "StartFailed", "message": str(error), "exit_code": error.exit_code}
    kind = type(error).__name__
    if kind not in _ERRORS:
        text = str(error) or kind
        return {"kind": "System", "message": text}
    return {"kind": kind, "message": str(error)}


def raise_error(message: Message) -> Message:
    """Give the reply back, or raise what it says went wrong."""
    error = message.head.get("error")
    if error is None:
        return message
    message.close()
    if not isinstance(error, Mapping):
        raise ProtocolError("bad error")
    text = str(error.get("message", ""))
    if error.get("kind") == "StartFailed":
        raise errors.StartFailed(text, int(error.get("exit_code", 128)))
    raise _ERRORS.get(str(error.get("kind")), errors.System)(text)


def _sequence(value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise ProtocolError("message field is not a list")
    return value


def _mount(entry: object) -> Mount:
    match entry:
        case [str(kind), str(source), list(options), str(target)]:
            return Mount(kind, source, tuple(str(option) for option in options), target)
    raise ProtocolError("bad mount")
