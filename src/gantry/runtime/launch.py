"""The caller's side of a start; handshake.py has the picture."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from gantry.cgroups import files, manager
from gantry.cgroups.group import Cgroup
from gantry.kernel import syscalls, vfork
from gantry.model.record import Record
from gantry.model.resources import Resources
from gantry.oci import runtime_spec as oci
from gantry.runtime import (
    handshake,
    hooks,
    namespaces,
    notify,
    plan,
    seccomp,
    spawn,
    state,
    trees,
    userns,
    validate,
)
from gantry.runtime.errors import NoSibling, RuntimeFailure, describe
from gantry.runtime.handshake import Channel, Logger
from gantry.runtime.init import Init
from gantry.runtime.plan import InitPlan
from gantry.runtime.reap import UNABLE, failure_of, kill_and_reap, kill_sibling
from gantry.runtime.rootless import can_set_groups
from gantry.runtime.state import State

if TYPE_CHECKING:
    from gantry.model import mount as neutral
    from gantry.runtime.seccomp import Program


class Pending:
    """A created process that waits for `start`: the channel on which it will fail or run."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def wait_exec(self, pid: int) -> None:
        """Until execve has happened. RuntimeFailure: it has not."""
        kind, body, _ = self._channel.receive()
        self.close()
        if kind == handshake.FAILED:
            raise failure_of(body)

    def close(self) -> None:
        """Forget it."""
        self._channel.close()


class Launched(Record):
    """The result of `launch`."""

    state: State
    cgroup: Cgroup
    console: int | None
    pending: Pending | None
    pidfd: int | None


def launch(
    spec: oci.Spec,
    *,
    container_id: str,
    bundle: str,
    root: str,
    rootfs_mounts: tuple[neutral.Mount, ...],
    namespace_fds: Mapping[str, int],
    stdio: tuple[int, int, int] | None,
    preserve_fds: int,
    systemd_cgroup: bool,
    start_now: bool,
    no_pivot: bool,
    keyring: bool,
    seccomp_cache: str,
    logger: Logger | None = None,
    verbose: bool = False,
    plain_lines: bool = False,
    hybrid_cgroup: bool = False,
    rootless: bool | None = None,
    sibling: bool = False,
) -> Launched:
    """Container.create, step by step; see there."""
    with ExitStack() as always, ExitStack() as undo:
        folder = state.reserve(root, container_id)
        undo.callback(state.remove, folder)
        fifo = None
        if not start_now:
            fifo = _make_fifo(f"{folder}/{state.FIFO}")
            always.callback(os.close, fifo)
        thought = think(
            spec, always,
            container_id=container_id, bundle=bundle, rootfs_mounts=rootfs_mounts,
            namespace_fds=namespace_fds, stdio=stdio, preserve_fds=preserve_fds,
            systemd_cgroup=systemd_cgroup, fifo=fifo, no_pivot=no_pivot, keyring=keyring,
            seccomp_cache=seccomp_cache, logger=logger if verbose else None,
            plain_lines=plain_lines, hybrid_cgroup=hybrid_cgroup, rootless=rootless,
        )  # fmt: skip
        linux, kept = thought.linux, thought.kept
        _refuse_used(thought.cgroup)
        share = _can_share_memory(thought.plan, thought.cgroup, thought.resources)
        if sibling:
            _refuse_sibling(thought, share=share)
        ours, theirs = handshake.pair(logger, verbose=verbose)
        undo.callback(ours.close)
        pidfd = None
        try:
            if share:
                _make_cgroup(thought, ours, undo)
            if sibling:
                pid, pidfd = _vfork_sibling(thought.plan, ours, theirs, undo)
            else:
                pid = _fork_init(thought.plan, linux, ours, theirs, undo, share_memory=share)
        finally:
            theirs.close()
        if not share:
            _make_cgroup(thought, ours, undo, pid)
        console = _converse(
            ours, spec, kept, pid, linux, thought.plan, start_now=start_now, undo=undo
        )
        kept = kept.replace(
            init_pid=pid,
            init_start_time=_start_time(pid, pidfd),
            cgroup_paths=thought.cgroup.paths(),  # a plain user may have got none
        )
        state.save(folder, kept)
        undo.pop_all()
        pending: Pending | None = Pending(ours)
        if start_now:
            ours.close()
            pending = None
        return Launched(
            state=kept, cgroup=thought.cgroup, console=console, pending=pending, pidfd=pidfd
        )


class Thought(Record):
    """A start, thought through: what init does, and what its caller keeps and makes."""

    plan: InitPlan
    linux: oci.Linux
    kept: State
    cgroup: Cgroup
    resources: Resources


def think(
    spec: oci.Spec,
    always: ExitStack,
    *,
    container_id: str,
    bundle: str,
    rootfs_mounts: tuple[neutral.Mount, ...] = (),
    namespace_fds: Mapping[str, int],
    stdio: tuple[int, int, int] | None,
    preserve_fds: int = 0,
    systemd_cgroup: bool = False,
    fifo: int | None = None,
    no_pivot: bool = False,
    keyring: bool = True,
    seccomp_cache: str | None = None,
    logger: Logger | None = None,
    plain_lines: bool = False,
    hybrid_cgroup: bool = False,
    rootless: bool | None = None,
) -> Thought:
    """Everything before the first thing that has to be undone. Opened fds are `always`'s.
    logger: hears what is of interest to somebody who debugs.

    Raises RuntimeFailure for a spec that makes no sense.
    """
    validate.spec(spec, namespace_fds.keys())
    spawn.fill_stdio()
    linux = spec.linux or oci.Linux()
    resources = plan.plan_resources(linux.resources)
    opened: list[int] = []
    always.callback(_close_all, opened)
    spaces = namespaces.gather(linux, namespace_fds, opened)
    cgroup = manager.plan(
        linux.cgroups_path, container_id, resources,
        systemd=systemd_cgroup, annotations=spec.annotations, hybrid=hybrid_cgroup,
        rootless=rootless,
    )  # fmt: skip
    program = None
    if linux.seccomp is not None:
        program = seccomp.program(linux.seccomp, seccomp_cache)
        if logger is not None:
            logger("debug", f"seccomp filter flags: {program.flags}")
    kept = _state_of(
        spec,
        linux,
        cgroup,
        container_id=container_id, bundle=bundle, flags=spaces.all,
        seccomp="" if program is None else f"{seccomp_cache}/{program.key}",
    )  # fmt: skip
    try:
        os.stat(kept.rootfs)
    except OSError as error:
        text = os.strerror(error.errno or 0).lower()
        raise RuntimeFailure(f"invalid rootfs: stat {kept.rootfs}: {text}")
    mounts = plan.plan_mounts(spec.mounts, kept.bundle, kept.rootfs)
    mounts = trees.prepare(
        mounts, linux, always,
        all_binds=spaces.has("user") and os.geteuid() == 0,
        joined=spaces.join_fd("user"),
        rootfs=kept.rootfs,
    )  # fmt: skip
    thought = _plan(
        spec, linux, kept, cgroup, spaces, mounts,
        program=program, rootfs_mounts=rootfs_mounts, stdio=stdio, preserve_fds=preserve_fds,
        fifo=fifo, no_pivot=no_pivot, keyring=keyring, plain_lines=plain_lines,
    )  # fmt: skip
    return Thought(plan=thought, linux=linux, kept=kept, cgroup=cgroup, resources=resources)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _state_of(
    spec: oci.Spec,
    linux: oci.Linux,
    cgroup: Cgroup,
    *,
    container_id: str,
    bundle: str,
    flags: int,
    seccomp: str,
) -> State:
    assert spec.root is not None
    rootfs = os.path.realpath(os.path.join(bundle, spec.root.path))
    spec_hooks = spec.hooks or oci.Hooks()
    return State(
        id=container_id,
        bundle=bundle,
        rootfs=rootfs,
        init_pid=0,
        init_start_time=0,
        created=time.time_ns(),
        namespaces=flags,
        cgroup_paths=cgroup.paths(),
        cgroup_path=linux.cgroups_path or f"/{container_id}",
        systemd_unit=cgroup.unit,
        seccomp=seccomp,
        annotations=spec.annotations,
        poststart=spec_hooks.poststart,
        poststop=spec_hooks.poststop,
        rootless=os.geteuid() != 0,
        user_namespace=bool(flags & syscalls.CLONE_NEWUSER),
        oci_version=spec.oci_version,
        listener_path=linux.seccomp.listener_path if linux.seccomp else "",
        listener_metadata=linux.seccomp.listener_metadata if linux.seccomp else "",
        personality=linux.personality,
        memory_policy=linux.memory_policy,
        config={
            "hostname": spec.hostname,
            "readonlyfs": spec.root.readonly,
            "namespaces": [
                {"type": f"NEW{_GO_TYPES[n.type]}", "path": n.path} for n in linux.namespaces
            ],
        },
    )


_GO_TYPES = {
    "pid": "PID",
    "network": "NET",
    "mount": "NS",
    "ipc": "IPC",
    "uts": "UTS",
    "user": "USER",
    "cgroup": "CGROUP",
    "time": "TIME",
}


def _make_fifo(path: str) -> int:
    """The exec fifo, open for both ways: its reader waits, and never sees an end of file."""
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _plan(
    spec: oci.Spec,
    linux: oci.Linux,
    kept: State,
    cgroup: Cgroup,
    spaces: namespaces.Namespaces,
    mounts: tuple[plan.MountPlan, ...],
    *,
    program: Program | None,
    rootfs_mounts: tuple[neutral.Mount, ...],
    stdio: tuple[int, int, int] | None,
    preserve_fds: int,
    fifo: int | None,
    no_pivot: bool,
    keyring: bool,
    plain_lines: bool,
) -> InitPlan:
    assert spec.root is not None and spec.process is not None
    return InitPlan(
        container_id=kept.id,
        rootfs=kept.rootfs,
        readonly=spec.root.readonly,
        propagation=plan.propagation_of(linux.rootfs_propagation),
        rootfs_mounts=rootfs_mounts,
        namespaces=spaces,
        mounts=mounts,
        devices=plan.plan_devices(linux.devices),
        setup_dev=plan.needs_dev(mounts),
        masked=linux.masked_paths,
        readonly_paths=linux.readonly_paths,
        sysctl=linux.sysctl,
        hostname=spec.hostname,
        domainname=spec.domainname,
        time_offsets=linux.time_offsets,
        cgroup_folders=cgroup.paths(),
        # A process of a user namespace has no right to join by itself, and in a mount
        # namespace that is joined /sys may be anything.
        cgroup_entrances=()
        if spaces.has("user") or kept.rootless or spaces.join_fd("mount") is not None
        else tuple(path for path in cgroup.entrances() if path.endswith("/tasks")),
        loopback=spaces.makes("network"),
        process=plan.plan_process(
            spec.process,
            linux,
            stdio=stdio,
            preserve_fds=preserve_fds,
            seccomp=program,
            keyring=f"_ses.{kept.id}" if keyring else "",
            plain_lines=plain_lines,
            set_groups=not spaces.makes("user") or can_set_groups(linux.gid_mappings),
        ),
        hooks=spec.hooks or oci.Hooks(),
        state=json.dumps(state.oci_state(kept, "creating", 0)).encode(),
        fifo=fifo,
        no_pivot=no_pivot,
        mount_label=linux.mount_label,
        net_devices=bool(linux.net_devices),
    )


def _fork_init(
    thought: InitPlan,
    linux: oci.Linux,
    ours: Channel,
    theirs: Channel,
    undo: ExitStack,
    *,
    share_memory: bool,
) -> int:
    spaces = thought.namespaces
    if spaces.has("user"):
        return userns.fork_init(thought, linux, ours, theirs, undo)
    init = Init(thought, theirs, unwanted=ours.fd)
    if share_memory:
        pid = vfork.vfork(init.prepare, init.failed, flags=syscalls.CLONE_NEWPID)
    else:
        pid = spawn.fork_into_pid_namespace(
            lambda: spawn.run(init), new=spaces.makes("pid"), fd=spaces.join_fd("pid")
        )
    undo.callback(kill_and_reap, pid)
    return pid


def _vfork_sibling(
    thought: InitPlan, ours: Channel, theirs: Channel, undo: ExitStack
) -> tuple[int, int]:
    init = Init(thought, theirs, unwanted=ours.fd)
    flags = syscalls.CLONE_NEWPID if thought.namespaces.makes("pid") else 0
    pid, pidfd = vfork.vfork_sibling(init.prepare, init.failed, flags=flags)
    undo.callback(kill_sibling, pidfd)
    return pid, pidfd


def _refuse_sibling(thought: Thought, *, share: bool) -> None:
    """NoSibling, unless the caller has nothing to do for init after it has made it.

    Its memory is the caller's, who makes other containers too: nobody who is in a container
    already may see init, and kill the caller with it.
    """
    entrances = thought.cgroup.entrances()
    by_itself = bool(entrances) and all(path.endswith("/tasks") for path in entrances)
    if not vfork.available or not by_itself:
        raise NoSibling(always=True)
    joined = thought.plan.namespaces.join_fd("pid") is not None
    if not share or joined or thought.kept.poststart:
        raise NoSibling(always=False)


def _start_time(pid: int, pidfd: int | None) -> int:
    """init's; 0 when it has ended and its number may be somebody else's."""
    found = state.start_time_of(pid)
    if pidfd is not None:
        try:
            syscalls.pidfd_send_signal(pidfd, 0)
        except ProcessLookupError:
            return 0
    return found


_ROOM: Final = 192 << 10
"""With a lower memory limit init may well be killed for it, and its caller too, where they
share their memory."""


def _can_share_memory(thought: InitPlan, cgroup: Cgroup, resources: Resources) -> bool:
    """Whether init never waits for its caller, but for the cgroup that it enters itself, and
    no other container sees it (who joins a pid namespace is seen there)."""
    hooks_, program = thought.hooks, thought.process.seccomp
    limit = resources.memory.limit if resources.memory is not None else None
    return (
        vfork.available
        and not (limit and 0 < limit < _ROOM)
        and bool(thought.cgroup_entrances)
        and len(thought.cgroup_entrances) == len(cgroup.entrances())
        and thought.namespaces.makes("pid")
        and thought.fifo is None
        and not any(planned.late for planned in thought.mounts)
        and not thought.namespaces.has("user")
        and not (hooks_.prestart or hooks_.create_runtime or hooks_.create_container)
        and not thought.net_devices
        and not thought.namespaces.has("time")  # only a whole process may enter one
        and not hooks_.start_container
        and not (program is not None and program.listener)
    )


def _make_cgroup(thought: Thought, channel: Channel, undo: ExitStack, pid: int = 0) -> None:
    """Make the cgroup, where init is a process already (`pid`) while it does its mounts,
    and move init in unless it enters by itself.

    The undo order matters: the process first, then the cgroup it was in.
    """
    outer = undo.pop_all()
    undo.callback(_destroy, thought.cgroup)
    undo.push(outer)
    try:
        thought.cgroup.create(thought.resources)
        if pid and not thought.plan.cgroup_entrances:
            thought.cgroup.attach(pid)
        elif pid:
            files.admit(thought.cgroup.entrances(), pid)
    except OSError as error:
        raise RuntimeFailure(f"{UNABLE}unable to apply cgroup configuration: {describe(error)}")
    channel.send(handshake.GO)


def _refuse_used(cgroup: Cgroup) -> None:
    """A cgroup that is there already must neither be frozen nor have processes, but for
    those that are just dying."""
    deadline = time.monotonic() + 0.2
    while True:
        try:
            if cgroup.frozen():
                raise RuntimeFailure("container's cgroup unexpectedly frozen")
            pids = cgroup.pids()
        except FileNotFoundError:
            return
        if not pids:
            return
        if time.monotonic() > deadline:
            raise RuntimeFailure(f"container's cgroup is not empty: {len(pids)} process(es) found")
        time.sleep(0.005)


def _destroy(cgroup: Cgroup) -> None:
    for _ in range(20):
        try:
            cgroup.destroy()
            return
        except OSError:
            time.sleep(0.002)


def _converse(
    channel: Channel,
    spec: oci.Spec,
    kept: State,
    pid: int,
    linux: oci.Linux,
    thought: InitPlan,
    *,
    start_now: bool,
    undo: ExitStack,
) -> int | None:
    """Answer init until it is ready (with start_now: until it has become its program)."""
    console: int | None = None
    ready = False
    while True:
        kind, body, fd = channel.receive()
        if kind == handshake.CONSOLE and fd is not None:
            console = fd
            undo.callback(os.close, fd)
        elif kind == handshake.TREE:
            tree = trees.on_demand(
                thought.mounts[int(body)], linux, thought.namespaces.join_fd("user"), pid
            )
            try:
                channel.send(handshake.TREE, b"", tree)
            finally:
                os.close(tree)
        elif kind == handshake.HOOKS:
            _host_side(spec, kept, pid, linux)
            channel.send(handshake.HOOKS_DONE)
        elif kind == handshake.NOTIFY and fd is not None:
            try:
                notify.forward(kept, fd, pid, "creating")
            finally:
                os.close(fd)
        elif kind == handshake.READY:
            ready = True
            if not start_now:
                return console
        elif kind == handshake.FAILED:
            raise failure_of(body)
        elif ready:
            return console  # the end of the channel: execve has closed it
        else:
            raise RuntimeFailure(f"{UNABLE}container init was OOM-killed (memory limit too low?)")


def _host_side(spec: oci.Spec, kept: State, pid: int, linux: oci.Linux) -> None:
    """Network devices, and the hooks of the host's side."""
    if linux.net_devices:
        from gantry.runtime import netdevices

        netdevices.move(linux.net_devices, pid)
    if spec.hooks is None:
        return
    document = json.dumps(state.oci_state(kept, "creating", pid)).encode()
    try:
        hooks.run("prestart", spec.hooks.prestart, document)
        hooks.run("createRuntime", spec.hooks.create_runtime, document)
    except RuntimeFailure as error:
        raise RuntimeFailure(f"{UNABLE}error during container init: {error}")
