"""A container, as its parent sees it: create, start, exec, kill, delete.

All of it blocks and must be called from a process with one thread: the calls point the
caller's own namespaces elsewhere for a moment. The caller is the parent of init and of
every exec'ed process, and waits for them itself; with a user namespace it has to be a
child subreaper (prctl(2)) for that, because a process stands between.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

from gantry.cgroups import manager
from gantry.kernel import procfs, syscalls
from gantry.oci import runtime_spec as oci
from gantry.runtime import executor, hooks, launch, reap, state
from gantry.runtime.errors import RuntimeFailure, describe
from gantry.runtime.state import State

if TYPE_CHECKING:
    from gantry.cgroups.group import Cgroup
    from gantry.cgroups.stats import Stats
    from gantry.model import mount as neutral
    from gantry.model.resources import Resources
    from gantry.runtime.executor import ExecProcess
    from gantry.runtime.handshake import Logger


class Stdio(NamedTuple):
    """Three fds that the caller owns; they become the process's 0, 1 and 2."""

    stdin: int
    stdout: int
    stderr: int


class Container:
    """A created container.

    pid: init, in the caller's pid namespace. console: the terminal's master (the
    caller's to close), None without a terminal. pidfd: init's (the caller's to close), when
    it was created as a sibling.
    """

    def __init__(
        self,
        kept: State,
        root: str,
        cgroup: Cgroup,
        *,
        console: int | None = None,
        pending: launch.Pending | None = None,
        pidfd: int | None = None,
    ) -> None:
        self._state = kept
        self._root = root
        self._cgroup = cgroup
        self._pending = pending
        self.id = kept.id
        self.pid = kept.init_pid
        self.console = console
        self.pidfd = pidfd

    @classmethod
    def create(
        cls,
        spec: oci.Spec,
        *,
        container_id: str,
        bundle: str,
        root: str,
        rootfs_mounts: Sequence[neutral.Mount] = (),
        namespace_fds: Mapping[str, int] | None = None,
        stdio: Stdio | None = None,
        preserve_fds: int = 0,
        systemd_cgroup: bool = False,
        hybrid_cgroup: bool = False,
        rootless: bool | None = None,
        start_now: bool = False,
        no_pivot: bool = False,
        keyring: bool = True,
        seccomp_cache: str | None = None,
        logger: Logger | None = None,
        verbose: bool = False,
        plain_lines: bool = False,
        sibling: bool = False,
    ) -> Self:
        """Make a container of `spec`.

        root: folder of state (one folder a container in it). rootfs_mounts: applied onto
        the spec's root.path inside the container's own mount namespace. namespace_fds:
        by the spec's type words, beat its paths. stdio: None passes the caller's 0 to 2.
        start_now: return when execve has happened; otherwise the process waits for
        `start` right before it. seccomp_cache: a folder for compiled filters, best one
        for all containers. logger: told of warnings, and with `verbose` of each stage
        ("debug"). plain_lines: the terminal leaves the ends of lines alone. hybrid_cgroup:
        join every hierarchy of cgroups, also those that no limit needs, and v2's beside v1's.
        sibling: init becomes a child of the caller's parent, who reaps it; NoSibling where
        that cannot be, with nothing made.

        Raises RuntimeFailure, everything undone: no process, cgroup, state or mount stays.
        """
        fds = None if stdio is None else (stdio.stdin, stdio.stdout, stdio.stderr)
        try:
            launched = launch.launch(
                spec,
                container_id=container_id,
                bundle=bundle,
                root=root,
                rootfs_mounts=tuple(rootfs_mounts),
                namespace_fds=namespace_fds or {},
                stdio=fds,
                preserve_fds=preserve_fds,
                systemd_cgroup=systemd_cgroup,
                hybrid_cgroup=hybrid_cgroup,
                rootless=rootless,
                start_now=start_now,
                no_pivot=no_pivot,
                keyring=keyring,
                seccomp_cache=seccomp_cache or f"{root}/.seccomp",
                logger=logger,
                verbose=verbose,
                plain_lines=plain_lines,
                sibling=sibling,
            )
        except OSError as error:
            raise RuntimeFailure(describe(error))
        made = cls(
            launched.state,
            root,
            launched.cgroup,
            console=launched.console,
            pending=launched.pending,
            pidfd=launched.pidfd,
        )
        if start_now and launched.state.poststart:
            made._first_poststart()
        return made

    def _first_poststart(self) -> None:
        """The poststart hooks of a start in one step; create is not done before them."""
        try:
            self.run_poststart()
        except RuntimeFailure:
            if self.console is not None:
                os.close(self.console)
            reap.kill_and_reap(self.pid)
            self.delete(force=True)
            raise

    @classmethod
    def load(cls, container_id: str, root: str) -> Self:
        """A container that another process made. RuntimeFailure: there is none."""
        kept = state.load(root, container_id)
        return cls(kept, root, manager.reopen(kept.cgroup_paths, kept.systemd_unit))

    # --- what it is --------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What state.json holds."""
        return self._state

    @property
    def folder(self) -> str:
        """Where its state is kept."""
        return state.folder_of(self._root, self.id)

    def alive(self) -> bool:
        """Whether init still runs (a zombie has ended)."""
        try:
            found = procfs.stat(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return found.start_time == self._state.init_start_time and found.state not in "ZX"

    def status(self) -> str:
        """created, running, paused or stopped."""
        if not self.alive():
            return "stopped"
        if self._cgroup_frozen():
            return "paused"
        return "created" if os.path.exists(f"{self.folder}/{state.FIFO}") else "running"

    def _cgroup_frozen(self) -> bool:
        try:
            return self._cgroup.frozen()
        except OSError:
            return False

    def oci_state(self) -> dict[str, object]:
        """The runtime-spec's state, as `state` prints it and hooks read it."""
        status = self.status()
        return state.oci_state(self._state, status, 0 if status == "stopped" else self.pid)

    # --- what it does -------------------------------------------------------------------

    def start(self) -> None:
        """Let a created container execute its process. Raises RuntimeFailure if it cannot."""
        with state.locked(self.folder):
            status = self.status()
            if status == "stopped":
                raise RuntimeFailure("cannot start a container that has stopped")
            if status == "paused":
                raise RuntimeFailure("cannot start a container in the paused state")
            if status != "created":
                raise RuntimeFailure("cannot start an already running container")
            fifo = f"{self.folder}/{state.FIFO}"
            try:
                fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                raise RuntimeFailure("cannot start a container that has stopped")
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
            os.unlink(fifo)
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.wait_exec(self.pid)
        self.run_poststart()

    def run_poststart(self) -> None:
        """The poststart hooks; a failure kills the container (runc's behaviour)."""
        if self._state.poststart:
            document = json.dumps(state.oci_state(self._state, "running", self.pid)).encode()
            try:
                hooks.run("poststart", self._state.poststart, document)
            except RuntimeFailure:
                self._signal(signal.SIGKILL)
                raise

    def exec(
        self,
        process: oci.Process,
        stdio: Stdio | None = None,
        *,
        cgroups: Mapping[str, str] | None = None,
        preserve_fds: int = 0,
        ignore_paused: bool = False,
        logger: Logger | None = None,
        verbose: bool = False,
        plain_lines: bool = False,
    ) -> ExecProcess:
        """Run another process in the container; it is the caller's child.

        cgroups: controller ("" for the unified one) → an existing cgroup below the
        container's, to run in there. Raises RuntimeFailure.
        """
        status = self.status()
        if status == "stopped":
            raise RuntimeFailure("cannot exec in a stopped container")
        if status == "paused" and not ignore_paused:
            raise RuntimeFailure(
                "cannot exec in a paused container (use --ignore-paused to override)"
            )
        fds = None if stdio is None else (stdio.stdin, stdio.stdout, stdio.stderr)
        try:
            return executor.run(
                self._state,
                self._cgroup,
                process,
                fds,
                cgroups=cgroups or {},
                preserve_fds=preserve_fds,
                logger=logger,
                verbose=verbose,
                plain_lines=plain_lines,
            )
        except OSError as error:
            raise RuntimeFailure(describe(error))

    def kill(self, number: int, *, all: bool = False) -> None:
        """Send a signal to init, or to every process of the container.

        Without a pid namespace of its own the others would outlive init: then a SIGKILL
        goes to all of them.
        """
        own_pids = bool(self._state.namespaces & syscalls.CLONE_NEWPID)
        if all or (number == signal.SIGKILL and not own_pids):
            self._signal_all(number)
            return
        if not self.alive():
            raise RuntimeFailure("container not running")
        self._signal(number)
        if number == signal.SIGKILL:
            self._thaw_if_frozen()

    def _signal(self, number: int) -> None:
        try:
            pidfd = syscalls.pidfd_open(self.pid)
        except OSError:
            raise RuntimeFailure("container not running")
        try:
            # The pidfd is this pid's present owner: init only if it has init's start time.
            if state.start_time_of(self.pid) != self._state.init_start_time:
                raise RuntimeFailure("container not running")
            syscalls.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            raise RuntimeFailure("container not running")
        except OSError as error:
            text = os.strerror(error.errno or 0).lower()
            raise RuntimeFailure(f"unable to signal init: {text}")
        finally:
            os.close(pidfd)

    def _signal_all(self, number: int) -> None:
        fatal = number == signal.SIGKILL
        if fatal and self._cgroup.kill():
            self._thaw_if_frozen()
            return
        # Frozen, a process cannot fork away from the list that is being gone through.
        if fatal and not self._state.namespaces & syscalls.CLONE_NEWPID:
            try:
                self._cgroup.freeze()
            except OSError:
                pass
        # Without a cgroup of its own there is only init to be known of.
        for pid in self.pids() or [self.pid] * self.alive():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        if fatal:
            self._thaw_if_frozen()

    def _thaw_if_frozen(self) -> None:
        """A frozen process cannot die (cgroup v1)."""
        if self._cgroup_frozen():
            try:
                self._cgroup.thaw()
            except FileNotFoundError:
                return  # all dead, and removed by whoever waited for that

    def pause(self) -> None:
        """Freeze every process."""
        if self.status() not in ("running", "created"):
            raise RuntimeFailure("container not running")
        self._do(self._cgroup.freeze)

    def resume(self) -> None:
        """Let the frozen go on."""
        if self.status() != "paused":
            raise RuntimeFailure("container not paused")
        self._do(self._cgroup.thaw)

    def update(self, resources: Resources) -> None:
        """Change limits; what is not given stays."""
        if not self.alive():
            raise RuntimeFailure("container not running")
        self._do(lambda: self._cgroup.set(resources))

    @staticmethod
    def _do(action: object) -> None:
        assert callable(action)
        try:
            action()
        except OSError as error:
            raise RuntimeFailure(describe(error))

    def pids(self) -> list[int]:
        """Every process of the container, in the caller's pid namespace."""
        try:
            return self._cgroup.pids()
        except FileNotFoundError:
            return []

    def stats(self) -> Stats:
        """What it has used so far."""
        try:
            return self._cgroup.stats()
        except OSError as error:
            raise RuntimeFailure(describe(error))

    def oom_kills(self) -> int:
        """How often the kernel has killed for memory in it."""
        try:
            return self._cgroup.oom_kills()
        except OSError:
            return 0

    def delete(self, *, force: bool = False, logger: Logger | None = None) -> None:
        """Remove cgroup and state; poststop hooks run. force: kill what still runs first.

        Init must have been waited for by its parent before, or be dead: an unreaped
        zombie counts as dead.
        """
        with state.locked(self.folder):
            status = self.status()
            if status != "stopped" and not force:
                if status != "created":
                    raise RuntimeFailure(
                        f"cannot delete container {self.id} that is not stopped: {status}"
                    )
                self._signal(signal.SIGKILL)
                self._wait_gone()
            elif status != "stopped" or (force and self.pids()):
                self._kill_rest()
            self._destroy_cgroup()
            if self._pending is not None:
                self._pending.close()
                self._pending = None
            state.remove(self.folder)
        if self._state.poststop:
            document = json.dumps(state.oci_state(self._state, "stopped", 0)).encode()
            # runtime-spec: what fails is logged, and the rest goes on.
            for failure in hooks.run_all("poststop", self._state.poststop, document):
                if logger is not None:
                    logger("warning", failure)

    def _kill_rest(self) -> None:
        try:
            self._signal_all(signal.SIGKILL)
            self._signal(signal.SIGKILL)
        except (OSError, RuntimeFailure):
            pass
        self._wait_gone()

    def _wait_gone(self) -> None:
        """Until init has ended: its pidfd tells, without being its parent."""
        deadline = time.monotonic() + 10
        while self.alive() and time.monotonic() < deadline:
            reap.wait_exit(self.pid, 1.0)

    def _destroy_cgroup(self) -> None:
        """Remove the cgroup; processes that are just dying still hold it for a moment."""
        pause = 0.0005
        deadline = time.monotonic() + 5
        while True:
            try:
                self._cgroup.destroy()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise RuntimeFailure(f"unable to remove cgroup: {describe(error)}")
                # Without a pid namespace of its own, others may live on: they go now.
                if not self._cgroup.kill():
                    for pid in self.pids():
                        try:
                            os.kill(pid, signal.SIGKILL)
                        except ProcessLookupError:
                            continue
                time.sleep(pause)
                pause = min(pause * 2, 0.05)
