"""Starts with a user namespace: an intermediate process stands between caller and init.

The user namespace has to exist, and its maps be written from outside, before any other
namespace is made, so that it owns them all. The intermediate makes or joins it, becomes
root in it, makes the pid namespace and forks init; when it ends, init is the child of
the nearest subreaper above, which is the caller.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NoReturn

from gantry.kernel import mountapi as api
from gantry.kernel import procfs, syscalls
from gantry.mounts import apply
from gantry.oci import runtime_spec as oci
from gantry.runtime import handshake, namespaces, security, spawn
from gantry.runtime.errors import FAILED, RuntimeFailure, describe
from gantry.runtime.finalize import place_stdio
from gantry.runtime.handshake import Channel
from gantry.runtime.identity import raise_limits
from gantry.runtime.init import Init, no_imports
from gantry.runtime.plan import InitPlan
from gantry.runtime.reap import failure_of, kill_and_reap
from gantry.runtime.rootless import map_ids


def fork_init(
    thought: InitPlan, linux: oci.Linux, ours: Channel, theirs: Channel, undo: ExitStack
) -> int:
    """Fork init into its user namespace; its pid as the caller sees it.

    The caller is made a subreaper for good if it is not one yet: it is to be the parent.
    """
    if not syscalls.is_subreaper():
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)

    def child() -> NoReturn:
        ours.close()
        _intermediate(thought, theirs)

    middle = spawn.fork(child)
    theirs.close()  # or the end of the others would never be seen
    undo_middle = ExitStack()
    undo.push(undo_middle)
    undo_middle.callback(kill_and_reap, middle)
    while True:
        kind, body, _ = ours.receive()
        if kind == handshake.USERNS:
            write_maps(middle, linux)
            ours.send(handshake.MAPPED)
        elif kind == handshake.OFFSETS:
            namespaces.write_time_offsets(linux.time_offsets, f"/proc/{middle}/timens_offsets")
            ours.send(handshake.MAPPED)
        elif kind == handshake.PID:
            pid = int(body)
            undo.callback(kill_and_reap, pid)
            os.waitpid(middle, 0)
            undo_middle.pop_all()
            return pid
        elif kind == handshake.FAILED:
            raise failure_of(body)
        else:
            raise RuntimeFailure("container init was killed before its user namespace was ready")


def _intermediate(thought: InitPlan, channel: Channel) -> NoReturn:
    code = 1
    try:
        with no_imports():
            _make_init(thought, channel)
        code = 0
    except RuntimeFailure as error:
        channel.fail(str(error), error.exit_code)
    except BaseException as error:
        channel.fail(describe(error), FAILED)
    finally:
        os._exit(code)


def _make_init(thought: InitPlan, channel: Channel) -> None:
    # Rights over the host are needed for these, so they come before the namespace.
    place_stdio(thought.process)
    security.set_oom_score(thought.process.oom_score_adj)
    raise_limits(thought.process.identity)
    spaces = thought.namespaces
    if thought.rootfs_mounts:
        thought = _mount_root(thought)
    spaces = _join_early(spaces)
    fd = spaces.join_fd("user")
    if fd is not None:
        # Somebody is in there already, and may have all rights over who joins.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        syscalls.setns(fd, syscalls.CLONE_NEWUSER)
    else:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        _ask(channel, handshake.USERNS)
    # Root of the namespace, for everything until the process's own user.
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if spaces.makes("time"):
        # Its offsets are the caller's to write: a process that is not dumpable has no
        # right to its own files in /proc. Who is forked now is born in it.
        syscalls.unshare(syscalls.CLONE_NEWTIME)
        _ask(channel, handshake.OFFSETS)
        spaces = spaces.replace(new=spaces.new & ~syscalls.CLONE_NEWTIME)
    inner = Init(thought.replace(namespaces=spaces), channel)
    pid_fd = spaces.join_fd("pid")
    if pid_fd is not None:
        syscalls.setns(pid_fd, syscalls.CLONE_NEWPID)
    elif spaces.makes("pid"):
        syscalls.unshare(syscalls.CLONE_NEWPID)
    told, tell = os.pipe2(os.O_CLOEXEC)

    def wait_and_run() -> NoReturn:
        os.close(tell)
        os.read(told, 1)  # its end: whatever init has to say comes after its pid
        os.close(told)
        spawn.run(inner)

    pid = spawn.fork(wait_and_run)
    channel.send(handshake.PID, str(pid).encode())
    os.close(tell)


def _ask(channel: Channel, kind: bytes) -> None:
    """Have the caller do what it has the rights for."""
    channel.send(kind)
    if channel.receive()[0] != handshake.MAPPED:
        os._exit(1)


def _join_early(spaces: namespaces.Namespaces) -> namespaces.Namespaces:
    """Join what the host's rights are needed for; what is left is the user namespace's own.

    A namespace that another user namespace than the container's owns can be joined only
    before that one is entered, and one that the container's owns maybe only after it.
    """
    left = []
    for kind, fd in spaces.join:
        if kind == "user":
            left.append((kind, fd))
            continue
        try:
            syscalls.setns(fd, namespaces.FLAGS[kind])
        except PermissionError:
            left.append((kind, fd))
    return spaces.replace(join=tuple(left))


def _mount_root(thought: InitPlan) -> InitPlan:
    """Mount the root with the host's rights, in a mount namespace of the host's.

    Inside the user namespace an overlay could not read what marks its deleted files.
    Init's own mount namespace is a copy of this one.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", None, api.MS_SLAVE | api.MS_REC)
    for mount in thought.rootfs_mounts:
        here = os.open(thought.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        apply.onto(here, mount)
        os.close(here)
    return thought.replace(rootfs_mounts=())


def write_maps(pid: int, linux: oci.Linux) -> None:
    """uid_map and gid_map of a process in a new user namespace.

    As root of the host, both as the spec says. Without rights, one range is written
    directly (with setgroups denied) and more need newuidmap and newgidmap.
    """
    uid_map, gid_map = linux.uid_mappings, linux.gid_mappings
    if not uid_map or not gid_map:
        raise RuntimeFailure(
            "user namespaces enabled, but no uid or gid mappings found in the config"
        )
    if os.geteuid() == 0:
        _write(pid, "gid_map", gid_map)
        _write(pid, "uid_map", uid_map)
        return
    map_ids(pid, uid_map, gid_map)


def map_text(mappings: Sequence[oci.IDMapping]) -> str:
    """Mappings as the kernel takes them, one a line."""
    return "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)


def _write(pid: int, name: str, mappings: Sequence[oci.IDMapping]) -> None:
    path = f"/proc/{pid}/{name}"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, map_text(mappings).encode())
    except OSError as error:
        raise OSError(error.errno, f"write {name}: {os.strerror(error.errno or 0).lower()}", path)
    finally:
        os.close(fd)


def fork_inside(
    child: spawn.Child, pidfd: int, *, pid_namespace: bool, oom_score: int | None
) -> int:
    """Fork `child` into the user namespace of `pidfd` (and its pid namespace); its pid.

    For a plain user, who has no rights over the pid namespace before being in the user
    namespace, which one cannot leave again: an intermediate goes there. The caller becomes
    the child's parent, as above. oom_score: the child's, set while they have a right to it.
    """
    if not syscalls.is_subreaper():
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    told, tell = os.pipe2(os.O_CLOEXEC)

    def middle() -> NoReturn:
        code = 1
        try:
            with no_imports():
                security.set_oom_score(oom_score)
                syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
                syscalls.setns(pidfd, syscalls.CLONE_NEWUSER)
                if pid_namespace:
                    syscalls.setns(pidfd, syscalls.CLONE_NEWPID)
                os.write(tell, str(spawn.fork(lambda: spawn.run(child))).encode())
            code = 0
        except (OSError, RuntimeFailure) as error:
            os.write(tell, b"!" + describe(error).encode())
        finally:
            os._exit(code)

    between = spawn.fork(middle)
    os.close(tell)
    try:
        answer = os.read(told, 4096).decode()
    finally:
        os.close(told)
        os.waitpid(between, 0)
    if not answer.isdigit():
        raise RuntimeFailure(answer[1:] or "the process was killed before it was ready")
    return int(answer)


def may_set_groups(pid: int) -> bool:
    """Whether setgroups(2) is allowed in the user namespace of a process."""
    try:
        return procfs.read(f"/proc/{pid}/setgroups").strip() != "deny"
    except OSError:
        return True
