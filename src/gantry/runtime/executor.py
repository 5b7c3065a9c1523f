"""Another process in a running container: join everything that init is in, then execve."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import NamedTuple

from gantry.cgroups import files
from gantry.cgroups.group import Cgroup
from gantry.kernel import syscalls, vfork
from gantry.kernel.vfork import Program
from gantry.oci import runtime_spec as oci
from gantry.runtime import (
    console,
    handshake,
    identity,
    notify,
    plan,
    schedule,
    seccomp,
    security,
    spawn,
    state,
    userns,
)
from gantry.runtime.errors import FAILED, RuntimeFailure, describe
from gantry.runtime.finalize import enter_process, exec_failed, last_steps, place_stdio
from gantry.runtime.handshake import Channel, Logger
from gantry.runtime.init import no_imports
from gantry.runtime.plan import ProcessPlan
from gantry.runtime.reap import failure_of, kill_and_reap
from gantry.runtime.state import State


class ExecProcess(NamedTuple):
    """An exec'ed process: a child of the caller. console: the terminal's master, if any."""

    pid: int
    console: int | None = None


def run(
    kept: State,
    cgroup: Cgroup,
    process: oci.Process,
    stdio: tuple[int, int, int] | None,
    *,
    cgroups: Mapping[str, str],
    preserve_fds: int = 0,
    logger: Logger | None = None,
    verbose: bool = False,
    plain_lines: bool = False,
) -> ExecProcess:
    """Container.exec; see there."""
    program = seccomp.by_path(kept.seccomp) if kept.seccomp else None
    thought = plan.plan_process(
        process,
        oci.Linux(personality=kept.personality, memory_policy=kept.memory_policy),
        stdio=stdio,
        preserve_fds=preserve_fds,
        seccomp=program,
        set_groups=not kept.user_namespace or userns.may_set_groups(kept.init_pid),
        keyring="" if kept.no_new_keyring else f"_ses.{kept.id}",
        plain_lines=plain_lines,
    )
    spawn.fill_stdio()
    mapped = kept.user_namespace or kept.rootless
    every = () if mapped else cgroup.entrances(cgroups)
    alone = tuple(path for path in every if path.endswith("/tasks"))

    def start(*, share_memory: bool) -> ExecProcess:
        ours, theirs = handshake.pair(logger, verbose=verbose)
        with ExitStack() as always, ExitStack() as undo:
            always.callback(ours.close)
            pidfd = syscalls.pidfd_open(kept.init_pid)
            always.callback(os.close, pidfd)
            if state.start_time_of(kept.init_pid) != kept.init_start_time:
                theirs.close()
                raise RuntimeFailure("cannot exec in a stopped container")
            entrant = _Entrant(thought, kept, pidfd, theirs, alone, unwanted=ours.fd)
            try:
                if share_memory:
                    ours.send(handshake.GO)
                pid = entrant.fork(share_memory=share_memory)
            finally:
                theirs.close()
            if pid:
                undo.callback(kill_and_reap, pid)
            if not alone:
                cgroup.attach(pid, cgroups)
            files.admit(every if alone else (), pid)
            if not share_memory:
                ours.send(handshake.GO)
            terminal = _converse(ours, undo, kept, pid)
            undo.pop_all()
            return ExecProcess(pid, terminal)

    # It never waits for the caller when it enters the cgroup by itself.
    waits = len(every) > len(alone) or (program is not None and program.listener)
    waits |= bool(kept.namespaces & syscalls.CLONE_NEWTIME)  # who enters one is alone
    if vfork.available and alone and not waits:
        try:
            return start(share_memory=True)
        except BlockingIOError:
            pass  # its seccomp filter lets it not fork: then it must not have to
    return start(share_memory=False)


def _converse(channel: Channel, undo: ExitStack, kept: State, pid: int) -> int | None:
    """Until it is ready. How long execve then takes is the container's affair, which can make
    it take for ever (a lease on the program's file, a slow file system)."""
    terminal: int | None = None
    while True:
        kind, body, fd = channel.receive()
        if kind == handshake.CONSOLE and fd is not None:
            terminal = fd
            undo.callback(os.close, fd)
        elif kind == handshake.NOTIFY and fd is not None:
            try:
                notify.forward(kept, fd, pid, "running")
            finally:
                os.close(fd)
        elif kind == handshake.READY:
            return terminal
        elif kind == handshake.FAILED:
            raise failure_of(body)
        elif kind == b"":
            raise RuntimeFailure("the process was killed before it was ready")


class _Entrant:
    """The child: as init, but everything is there already. A `spawn.Child`."""

    def __init__(
        self,
        process: ProcessPlan,
        kept: State,
        pidfd: int,
        channel: Channel,
        entrances: tuple[str, ...],
        *,
        unwanted: int,
    ) -> None:
        self._process = process
        self._kept = kept
        self._pidfd = pidfd
        self._channel = channel
        self._entrances = entrances
        self._unwanted = unwanted
        self._path = b""
        # CLONE_NEW* of what it is in already, when `prepare` runs.
        self._joined = syscalls.CLONE_NEWPID

    def fork(self, *, share_memory: bool) -> int:
        """The pid of the process; 0 when it was known before there was one that it fails.

        share_memory: what prepares is out of the container's sight, and what the container
        sees has nothing of ours (kernel/vfork.py). BlockingIOError: it was not let fork.
        """
        if share_memory:
            self._joined = 0
            terminal = self._process.terminal
            return vfork.prepared_fork(self.prepare, self.failed, terminal=terminal)
        own_pids = bool(self._kept.namespaces & syscalls.CLONE_NEWPID)
        if self._kept.user_namespace and os.geteuid() != 0:
            self._joined |= syscalls.CLONE_NEWUSER
            score = self._process.oom_score_adj
            return userns.fork_inside(self, self._pidfd, pid_namespace=own_pids, oom_score=score)
        return spawn.fork_into_pid_namespace(
            lambda: spawn.run(self), new=False, fd=self._pidfd if own_pids else None
        )

    def prepare(self) -> Program | int:
        channel = self._channel
        try:
            with no_imports():
                os.close(self._unwanted)
                self._path = self._enter()
                program = last_steps(self._process, self._path)
                channel.log("debug", "setns_init: about to exec")
                channel.send(handshake.READY)
                return program
        except RuntimeFailure as error:
            channel.fail(str(error), error.exit_code)
            return error.exit_code
        except BaseException as error:
            channel.fail(describe(error), FAILED)
            return 1

    def failed(self, number: int) -> int:
        return exec_failed(self._path, number)

    def _enter(self) -> bytes:
        process, kept, channel = self._process, self._kept, self._channel
        identity.reset_signals()
        # Before anything is joined: a process of the container must not be able to look
        # into this one, which still holds the host's rights (CVE-2016-9962).
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        channel.log("debug", "nsexec container setup")
        os.umask(0)
        os.setsid()
        place_stdio(process)
        if not self._joined & syscalls.CLONE_NEWUSER:
            security.set_oom_score(process.oom_score_adj)
        if process.affinity[0]:
            schedule.set_affinity(process.affinity[0])
            channel.log("debug", f"nsexec: affinity: {schedule.affinity_mask():#x}")
        if channel.receive()[0] != handshake.GO:
            os._exit(1)
        files.enter(self._entrances)
        if process.affinity[1]:
            schedule.set_affinity(process.affinity[1])
        elif not process.affinity[0]:
            schedule.reset_affinity()
        identity.set_limits(process.identity)
        security.check_labels(process)
        flags = kept.namespaces & ~self._joined
        if flags:
            # One call: the kernel takes all of them or none.
            syscalls.setns(self._pidfd, flags)
        if kept.user_namespace:
            # Still the host's ids, which mean nobody here: be root until the user's turn.
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        channel.log("debug", "child process in init()")
        security.join_keyring(process)
        if process.terminal:
            # Its leader is who executes: another process than this one without CLONE_NEWPID.
            _open_terminal(process, channel, control=bool(self._joined))
        security.prepare_labels(process, -1)
        schedule.apply(process)
        return enter_process(process, channel)


def _open_terminal(process: ProcessPlan, channel: Channel, *, control: bool) -> None:
    """A terminal of the container's devpts, found at its usual place and proven to be one."""
    folder = os.open("/dev/pts", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if syscalls.fstatfs_type(folder) != syscalls.DEVPTS_MAGIC:
            raise RuntimeFailure("/dev/pts in the container is not a devpts")
        master, slave = console.open_pair(folder)
    finally:
        os.close(folder)
    if process.console_size is not None:
        console.set_size(master, *process.console_size)
    if process.plain_lines:
        console.plain_lines(master)
    channel.send(handshake.CONSOLE, b"", master)
    os.close(master)
    console.take(slave, control=control)
    if slave > 2:
        os.close(slave)
