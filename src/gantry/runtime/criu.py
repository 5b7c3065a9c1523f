"""Talking to criu(8): `criu swrk`, one request and its notifications (CRIU's rpc.proto).

Messages are protocol buffers; the few fields that count are named here.
"""

from __future__ import annotations

import array
import os
import shutil
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, NoReturn

from gantry.ipc.protobuf import Fields, Value, encode
from gantry.kernel import syscalls
from gantry.runtime import spawn
from gantry.runtime.errors import RuntimeFailure

DUMP: Final = 1
RESTORE: Final = 2
PRE_DUMP: Final = 4
_FEATURE_CHECK: Final = 9
MEM_TRACK: Final = 1
LAZY_PAGES: Final = 2
_NOTIFY: Final = 6
_WORKER: Final = 3  # the fd that `criu swrk` finds its socket at
_ROOM: Final = 1 << 17

# criu_opts: name → field number.
OPTIONS: Final[Mapping[str, int]] = {
    "images_dir_fd": 1, "pid": 2, "leave_running": 3, "ext_unix_sk": 4, "tcp_established": 5,
    "evasive_devices": 6, "shell_job": 7, "file_locks": 8, "log_level": 9, "log_file": 10,
    "ps": 11, "notify_scripts": 12, "root": 13, "parent_img": 14, "track_mem": 15,
    "auto_dedup": 16, "work_dir_fd": 17, "link_remap": 18, "ext_mnt": 23, "manage_cgroups": 24,
    "cg_root": 25, "rst_sibling": 26, "inherit_fd": 27, "manage_cgroups_mode": 34,
    "external": 37, "empty_ns": 38, "join_ns": 39, "freeze_cgroup": 44, "tcp_skip_in_flight": 46,
    "lazy_pages": 48, "status_fd": 49, "orphan_pts_master": 50, "config_file": 51,
    "lsm_profile": 53, "lsm_mount_context": 63,
}  # fmt: skip


class Notice(NamedTuple):
    """A notification: CRIU's name of the moment, a pid, an fd that came along (or -1)."""

    script: str
    pid: int
    fd: int


def run(
    kind: int,
    options: Mapping[str, Value],
    *,
    stdio: tuple[int, int, int] | None = None,
    passed: Sequence[int] = (),
    before: Callable[[int], Mapping[str, Value]] | None = None,
    notified: Callable[[Notice], None] = lambda notice: None,
) -> None:
    """One request, to its end. passed: fds that CRIU finds at 4 and up.

    before: called with CRIU's pid before it is asked; what it returns is added to the
    options. RuntimeFailure: it says no; its log says why.
    """
    program = _program()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            pid = spawn.fork(lambda: _become(program, [theirs.fileno(), *passed], stdio))
        ended = False
        try:
            more = before(pid) if before is not None else {}
            wanted = [(OPTIONS[name], value) for name, value in {**options, **more}.items()]
            ours.send(encode([(1, kind), (2, encode(wanted))]))
            _converse(ours, notified)
            ours.shutdown(socket.SHUT_WR)
            _, status = os.waitpid(pid, 0)
            ended = True
        finally:
            if not ended:
                ours.close()  # it ends with its socket
                os.waitpid(pid, 0)
    # A pre-dump ends by the end of its socket, which CRIU counts as a failure.
    if status and kind != PRE_DUMP:
        raise RuntimeFailure(f"criu failed: exit status {os.waitstatus_to_exitcode(status)}")


def _program() -> str:
    program = shutil.which("criu", path=os.environ.get("PATH") or os.defpath)
    program = program or shutil.which("criu", path="/usr/local/sbin:/usr/sbin:/sbin")
    if program is None:
        raise RuntimeFailure('exec: "criu": executable file not found in $PATH')
    return program


def require(feature: int) -> None:
    """RuntimeFailure: this CRIU on this kernel has not got a feature (MEM_TRACK, LAZY_PAGES)."""
    program = _program()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            pid = spawn.fork(lambda: _become(program, [theirs.fileno()], None))
        try:
            asked = encode([(feature, True)])
            ours.send(encode([(1, _FEATURE_CHECK), (5, asked)]))
            answer = _converse(ours, lambda notice: None)
        finally:
            ours.close()
            os.waitpid(pid, 0)
    if not answer.message(8).number(feature):
        raise RuntimeFailure("CRIU is missing features")


def _become(program: str, fds: list[int], stdio: tuple[int, int, int] | None) -> NoReturn:
    """The child: the fds go to their places, by way of numbers above all of those."""
    high = [_move_up(fd, 100) for fd in fds]
    for number, fd in enumerate(stdio or ()):
        os.dup2(fd, number)
    for offset, fd in enumerate(high):
        os.dup2(fd, _WORKER + offset, inheritable=True)
    syscalls.close_range(_WORKER + len(high))
    os.execve(program, ["criu", "swrk", str(_WORKER)], dict(os.environ))


def _move_up(fd: int, least: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)


def _converse(ours: socket.socket, notified: Callable[[Notice], None]) -> Fields:
    while True:
        data, ancillary, _, _ = ours.recvmsg(_ROOM, socket.CMSG_SPACE(16), socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise RuntimeFailure("criu failed: it ended without an answer")
        try:
            answer = Fields(data)
        except ValueError as error:
            raise RuntimeFailure(f"criu failed: {error}")
        kind = answer.number(1)
        if not answer.number(2):
            names = {DUMP: "DUMP", RESTORE: "RESTORE", PRE_DUMP: "PRE_DUMP", _NOTIFY: "NOTIFY"}
            name = names.get(kind, str(kind))
            raise RuntimeFailure(f"criu failed: type {name} errno {answer.number(7)}")
        if kind != _NOTIFY:
            return answer
        notice = answer.message(5)
        fd = _received(ancillary)
        try:
            notified(Notice(notice.text(1), notice.number(2), fd))
        finally:
            if fd >= 0:
                os.close(fd)
        ours.send(encode([(1, _NOTIFY), (3, True)]))


def _received(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    for level, what, content in ancillary:
        if (level, what) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds = array.array("i")
            fds.frombytes(content[: len(content) - len(content) % struct.calcsize("i")])
            for extra in fds[1:]:
                os.close(extra)
            return fds[0]
    return -1
