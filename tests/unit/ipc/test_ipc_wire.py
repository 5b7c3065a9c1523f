"""Values across the socket come out as they went in."""

from __future__ import annotations

import json

import pytest

from gantry.ipc import wire
from gantry.ipc.frames import Message, ProtocolError
from gantry.model.errors import Conflict, GantryError, NotFound, StartFailed, System
from gantry.model.mount import Mount
from gantry.model.task import ExecSpec, ExitStatus, LogSpec, StdioSpec, TaskSpec, TaskState

TASK = TaskSpec(
    container_id="c1",
    spec=b'{"ociVersion":"1.2.0"}',
    rootfs=(Mount("overlay", "overlay", ("lowerdir=/a:/b",)), Mount("bind", "/x", (), "etc/x")),
    stdio=StdioSpec(True, True, True, 24, 80),
    log=LogSpec("json-file", "/log", 100, 3, True, {"a": "ü"}),
    runtime="/usr/bin/runc",
    runtime_args=("--debug",),
    systemd_cgroup=True,
)


def through_json(head: wire.Head, body: bytes = b"") -> Message:
    return Message(json.loads(json.dumps(head)), body)


def test_task() -> None:
    assert wire.task_from_wire(through_json(wire.task_to_wire(TASK, "/b"), TASK.spec)) == TASK


def test_exec() -> None:
    spec = ExecSpec("e1", b"{}", StdioSpec(open_stdin=True), privileged=True)
    assert wire.exec_from_wire(through_json(wire.exec_to_wire(spec), spec.process)) == spec


@pytest.mark.parametrize("ended", [None, ExitStatus(137, 12.5, True)])
def test_state(ended: ExitStatus | None) -> None:
    state = TaskState("c1", "running", 12, 1.5, ended, {"e1": None, "e2": ExitStatus(0, 3.0)})
    assert wire.state_from_wire(through_json(wire.state_to_wire(state))) == state


@pytest.mark.parametrize("error", [NotFound("x"), Conflict("y"), System("z")])
def test_errors_keep_their_kind(error: GantryError) -> None:
    with pytest.raises(type(error), match=str(error)):
        wire.raise_error(through_json({"error": wire.error_to_wire(error)}))


def test_start_failed_keeps_its_code_and_strangers_become_system() -> None:
    with pytest.raises(StartFailed) as failed:
        error = wire.error_to_wire(StartFailed("no", 127))
        wire.raise_error(through_json({"error": error}))
    assert failed.value.exit_code == 127
    with pytest.raises(System, match="odd"):
        wire.raise_error(through_json({"error": wire.error_to_wire(ValueError("odd"))}))


@pytest.mark.parametrize("key", ["container", "rootfs", "stdio", "log", "runtime"])
def test_what_is_missing_is_refused(key: str) -> None:
    head = wire.task_to_wire(TASK, "/b")
    del head[key]
    with pytest.raises(ProtocolError):
        wire.task_from_wire(through_json(head))
