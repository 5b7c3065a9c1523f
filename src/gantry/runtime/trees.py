"""Bind mounts that the caller has to make, because init will not have the right to.

With a user namespace, init can neither reach what only the host's root may reach, nor
map a mount's ids. So the caller clones those mounts, sets all their attributes, and init
only puts them in place: a detached mount moves between mount namespaces by its fd.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NoReturn

from gantry.kernel import mountapi as api
from gantry.kernel import syscalls
from gantry.mounts import detached
from gantry.oci import runtime_spec as oci
from gantry.runtime import spawn, userns
from gantry.runtime.errors import RuntimeFailure, describe
from gantry.runtime.plan import MountPlan
from gantry.runtime.reap import UNABLE


def prepare(
    mounts: Sequence[MountPlan],
    linux: oci.Linux,
    scope: ExitStack,
    *,
    all_binds: bool,
    joined: int | None = None,
    rootfs: str = "",
) -> tuple[MountPlan, ...]:
    """The same mounts, with `tree` filled where the caller made it; `scope` closes them.

    joined: the user namespace that the container joins, whose mappings an idmapped mount
    without its own takes. rootfs: a source in there is left for `on_demand`.
    """
    found = []
    spaces: dict[tuple[object, object], int] = {}
    for planned in mounts:
        mapped = bool(planned.mount.uid_mappings or planned.options.idmap)
        if planned.is_bind and (mapped or all_binds):
            if rootfs and planned.source.startswith(rootfs + "/"):
                found.append(planned.replace(late=True))
                continue
            try:
                tree = _clone(planned, linux, locked=all_binds)
                scope.callback(os.close, tree)
                if mapped:
                    _map(tree, planned, linux, spaces, scope, joined)
            except OSError as error:
                raise RuntimeFailure(
                    f'{UNABLE}error during container init: error mounting "{planned.source}" to '
                    f'rootfs at "{planned.mount.destination}": {describe(error)}'
                )
            planned = planned.replace(tree=tree)
        found.append(planned)
    return tuple(found)


def on_demand(planned: MountPlan, linux: oci.Linux, joined: int | None, pid: int) -> int:
    """The tree of a `late` mount, from the mount namespace that init (`pid`) builds up."""
    locked = any(namespace.type == "user" for namespace in linux.namespaces)
    with ExitStack() as scope:
        try:
            own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            scope.callback(os.close, own)
            here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            scope.callback(os.close, here)
            pidfd = syscalls.pidfd_open(pid)
            scope.callback(os.close, pidfd)
            syscalls.setns(pidfd, syscalls.CLONE_NEWNS)
            try:
                tree = detached.bind(planned.source, planned.options, locked=locked)
            finally:
                syscalls.setns(own, syscalls.CLONE_NEWNS)
                os.fchdir(here)
            keep = scope.enter_context(ExitStack())
            keep.callback(os.close, tree)
            if planned.mount.uid_mappings or planned.options.idmap:
                _map(tree, planned, linux, {}, scope, joined)
            keep.pop_all()
            return tree
        except OSError as error:
            raise RuntimeFailure(
                f'{UNABLE}error during container init: error mounting "{planned.source}" to '
                f'rootfs at "{planned.mount.destination}": {describe(error)}'
            )


def _clone(planned: MountPlan, linux: oci.Linux, *, locked: bool) -> int:
    tree = detached.bind(planned.source, planned.options, locked=locked)
    try:
        # What init's own namespace would have made of it before binding.
        shared = linux.rootfs_propagation in ("shared", "rshared")
        if not shared:
            kind = api.MS_PRIVATE if "private" in linux.rootfs_propagation else api.MS_SLAVE
            api.mount_setattr(tree, propagation=kind, recursive=True)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _map(
    tree: int,
    planned: MountPlan,
    linux: oci.Linux,
    spaces: dict[tuple[object, object], int],
    scope: ExitStack,
    joined: int | None,
) -> None:
    recursive = planned.options.idmap == "ridmap"
    if joined is not None and not planned.mount.uid_mappings:
        api.mount_setattr(tree, set_=api.MOUNT_ATTR_IDMAP, userns_fd=joined, recursive=recursive)
        return
    uids = planned.mount.uid_mappings or linux.uid_mappings
    gids = planned.mount.gid_mappings or linux.gid_mappings
    if not uids or not gids:
        raise RuntimeFailure(
            f'mount "{planned.mount.destination}": idmap without mappings needs a user namespace'
        )
    space = spaces.get((uids, gids))
    if space is None:
        space = spaces[uids, gids] = user_namespace(
            linux.replace(uid_mappings=uids, gid_mappings=gids)
        )
        scope.callback(os.close, space)
    api.mount_setattr(tree, set_=api.MOUNT_ATTR_IDMAP, userns_fd=space, recursive=recursive)


def user_namespace(linux: oci.Linux) -> int:
    """An fd of a new user namespace with a spec's mappings; nobody lives in it."""
    ready_r, ready_w = os.pipe2(os.O_CLOEXEC)

    def child() -> NoReturn:
        os.close(ready_r)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(ready_w, b"1")
        os.close(ready_w)
        while True:
            signal.pause()

    pid = spawn.fork(child)
    os.close(ready_w)
    try:
        if os.read(ready_r, 1) != b"1":
            raise RuntimeFailure("unable to make a user namespace for an idmapped mount")
        userns.write_maps(pid, linux)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_r)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
