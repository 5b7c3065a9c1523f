"""Init: the forked process that becomes the container's first one.

In order, each step needing the ones before it:

 1. cut off what the caller had: signals, dumpable, imports
 2. join and make namespaces
 3. keyring, loopback, root, mounts, devices  (while the caller makes the cgroup)
 4. the cgroup, once the caller has made it, and its namespace
 5. hooks on the host's side, then createContainer, then pivot_root
 6. terminal, names, sysctl, covers, read-only root
 7. scheduling, limits, seccomp without no_new_privs (it needs the rights that go next)
 8. bounding set, user, capabilities, working directory
 9. READY; the byte on exec.fifo; startContainer hooks
10. seccomp with no_new_privs; execve
"""

from __future__ import annotations

import builtins
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from gantry.cgroups import files
from gantry.kernel import netlink, syscalls
from gantry.kernel.vfork import Program
from gantry.runtime import console, dev, handshake, hooks, namespaces, schedule, security
from gantry.runtime.errors import FAILED, RuntimeFailure, describe
from gantry.runtime.finalize import (
    enter_process,
    environment,
    exec_failed,
    last_steps,
    place_stdio,
)
from gantry.runtime.handshake import Channel
from gantry.runtime.identity import reset_signals, set_limits
from gantry.runtime.plan import InitPlan
from gantry.runtime.rootfs import Rootfs, own_null

_ENDING: Final = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM,
    signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


def _end(number: int, _frame: object) -> NoReturn:
    os._exit(128 + number)


@contextmanager
def no_imports() -> Iterator[None]:
    """Within, an import is a failure: a container's files must never be loaded into a
    process that still has rights (CVE-2019-14271)."""

    def refuse(name: str, *_: object, **__: object) -> object:
        raise RuntimeFailure(f"import of {name} on the way into a container")

    usual = builtins.__import__
    builtins.__import__ = refuse  # type: ignore[assignment]  # never called with success
    try:
        yield
    finally:
        builtins.__import__ = usual  # the memory may be the caller's too (kernel/vfork.py)


class Init:
    """The steps; see the module's list. A `spawn.Child`.

    unwanted: the caller's end of the channel; with it in this process, the caller's death
    would not be seen.
    """

    def __init__(self, plan: InitPlan, channel: Channel, unwanted: int = -1) -> None:
        self.plan = plan
        self.channel = channel
        self._unwanted = unwanted
        self._path = b""
        self.stage = "error during container init: "  # runc's words, before the process's own
        self._in_cgroup = False
        self._may_go = False
        self.rootfs = Rootfs(plan, self.wait_for_cgroup, self.ask_for_tree)

    def prepare(self) -> Program | int:
        channel = self.channel
        try:
            with no_imports():
                self._cut_off()
                self._path = path = self._enter()
                return last_steps(self.plan.process, path)
        except RuntimeFailure as error:
            channel.fail(self.stage + str(error), error.exit_code)
            return error.exit_code
        except BaseException as error:
            channel.fail(self.stage + describe(error), FAILED)
            return 1

    def failed(self, number: int) -> int:
        return exec_failed(self._path, number)

    def _cut_off(self) -> None:
        plan = self.plan
        process = plan.process
        if self._unwanted >= 0:
            os.close(self._unwanted)
        reset_signals()
        # Nobody who shares a pid or user namespace with us may look into this process.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        self.channel.log("debug", "nsexec container setup")
        os.umask(0)
        os.setsid()
        if not plan.namespaces.has("user"):
            place_stdio(process)
        if not plan.namespaces.has("user"):
            security.set_oom_score(process.oom_score_adj)

    def _enter(self) -> bytes:
        plan = self.plan
        process = plan.process
        self._enter_namespaces()
        self.channel.log("debug", "child process in init()")
        mapped = plan.namespaces.has("user")
        search = security.OTHER_SEARCH if mapped else security.UID_SEARCH
        security.join_keyring(process, search=search)
        if plan.loopback:
            netlink.link_up("lo")
        if plan.hostname:
            syscalls.sethostname(plan.hostname)
        if plan.domainname:
            syscalls.setdomainname(plan.domainname)
        self._build_rootfs()
        return self._settle_process()

    def _enter_namespaces(self) -> None:
        plan = self.plan
        if plan.namespaces.makes("time"):
            # While /proc is the host's: a mount namespace that is joined has its own.
            syscalls.unshare(syscalls.CLONE_NEWTIME)
            namespaces.set_time_offsets(plan.time_offsets)
        namespaces.enter(plan.namespaces, skip=("user", "pid", "cgroup", "time"))
        for kind in ("time", "cgroup"):
            fd = plan.namespaces.join_fd(kind)
            if fd is not None:
                syscalls.setns(fd, namespaces.FLAGS[kind])

    def ask_for_tree(self, index: int) -> int:
        """The caller's bind for the mount of this index."""
        self.channel.send(handshake.TREE, str(index).encode())
        while True:
            kind, _, fd = self.channel.receive()
            if kind == handshake.TREE and fd is not None:
                return fd
            if kind != handshake.GO:
                os._exit(1)
            self._may_go = True

    def wait_for_cgroup(self) -> None:
        """Until the cgroup is there and we are in it; then its namespace can be made."""
        if self._in_cgroup:
            return
        kind = handshake.GO if self._may_go else self.channel.receive()[0]
        if kind != handshake.GO:
            os._exit(1)  # the caller is gone, or has given up: it knows why
        self._in_cgroup = True
        # The host's /sys is still in sight: this comes before pivot_root.
        files.enter(self.plan.cgroup_entrances)
        schedule.reset_affinity()
        if self.plan.namespaces.makes("cgroup"):
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)

    def _build_rootfs(self) -> None:
        plan, rootfs = self.plan, self.rootfs
        rootfs.take_root()
        rootfs.mount_all()
        self.wait_for_cgroup()
        if plan.hooks.prestart or plan.hooks.create_runtime or plan.net_devices:
            self.channel.send(handshake.HOOKS)
            if self.channel.receive()[0] != handshake.HOOKS_DONE:
                os._exit(1)
        if plan.hooks.create_container:
            # In runc such a hook finds itself in the root; hooks rely on it.
            os.fchdir(rootfs.root)
            hooks.run("createContainer", plan.hooks.create_container, plan.state, ())
        rootfs.ensure_cwd()
        if plan.setup_dev:
            own_null(rootfs.root)
        if plan.process.terminal:
            self._open_terminal()
        # AppArmor and sysctls are written through a procfs of our own making.
        security.check_labels(plan.process)
        security.prepare_labels(plan.process, rootfs.proc)
        security.write_sysctls(plan.sysctl, rootfs.proc)
        rootfs.cover()
        rootfs.pivot()
        rootfs.finish()

    def _open_terminal(self) -> None:
        rootfs, process = self.rootfs, self.plan.process
        master, slave = console.open_pair(rootfs.devpts if rootfs.devpts >= 0 else None)
        if process.console_size is not None:
            console.set_size(master, *process.console_size)
        if process.plain_lines:
            console.plain_lines(master)
        dev.bind_console(rootfs.root, slave)
        self.channel.send(handshake.CONSOLE, b"", master)
        os.close(master)
        console.take(slave)
        if slave > 2:
            os.close(slave)

    def _settle_process(self) -> bytes:
        plan = self.plan
        process = plan.process
        self.rootfs.close()
        self.stage = ""
        schedule.apply(process)
        set_limits(process.identity)
        keep = () if plan.fifo is None else (plan.fifo,)
        path = enter_process(process, self.channel, keep)
        self._wait_for_start()
        if plan.hooks.start_container:
            env = [os.fsdecode(word) for word in environment(process)]
            hooks.run("startContainer", plan.hooks.start_container, plan.state, env)
        return path

    def _wait_for_start(self) -> None:
        """READY, and with a fifo the wait for `start`'s byte."""
        self.channel.log("debug", "init: closing the pipe to signal completion")
        self.channel.send(handshake.READY)
        fifo = self.plan.fifo
        if fifo is None:
            return
        # The fifo was opened for reading and writing: a read waits for a byte, and there
        # is no end of file before it.
        for number in _ENDING:
            # The first process of a pid namespace gets only signals that it handles, and
            # a container that waits can be ended as one that runs.
            signal.signal(number, _end)
        os.read(fifo, 1)
        os.close(fifo)
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)
