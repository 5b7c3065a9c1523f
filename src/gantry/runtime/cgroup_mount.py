"""The container's view of its cgroups at /sys/fs/cgroup."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from gantry.cgroups import layout
from gantry.kernel import mountapi as api
from gantry.mounts import detached, resolve
from gantry.mounts.options import Options, parse
from gantry.runtime.plan import InitPlan, MountPlan


def is_view(kind: str) -> bool:
    """Whether a mount of this type is the container's view of its cgroups. On a machine with
    v1's hierarchies "cgroup2" is what it says: the unified one, as any file system."""
    return kind == "cgroup" or (kind == "cgroup2" and layout.detect().pure)


def mount(root: int, planned: MountPlan, plan: InitPlan) -> None:
    """Mount the one unified hierarchy, or under v1 a tmpfs with a folder a controller.

    Called when init is in its cgroup and, where the spec has one, in its cgroup namespace.
    """
    machine = layout.detect()
    target = resolve.ensure_directory(root, planned.mount.destination)
    try:
        if machine.pure:
            _unified(target, planned.options, plan)
        else:
            _each(target, planned.options, plan, machine.controllers)
    finally:
        os.close(target)


def _unified(target: int, options: Options, plan: InitPlan) -> None:
    with ExitStack() as scope:
        try:
            fd = detached.new("cgroup2", "cgroup", options)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EBUSY):
                raise
            # A user namespace without a cgroup namespace: its own part, bound.
            fd = _bind("", plan.cgroup_folders[""], layout.detect().unified, options)
        scope.callback(os.close, fd)
        detached.attach(fd, target)
        detached.set_propagation(fd, options)


def _bind(controller: str, planned: str, where: str, options: Options) -> int:
    """The cgroup that init is in, bound: a plain user may have got none of its own (`planned`)."""
    try:
        return detached.bind(planned, options)
    except FileNotFoundError:
        return detached.bind(where + layout.own_paths().get(controller, "/"), options)


def _each(target: int, options: Options, plan: InitPlan, controllers: dict[str, str]) -> None:
    private = plan.namespaces.has("cgroup")
    with ExitStack() as scope:
        top = detached.new("tmpfs", "tmpfs", parse(("nosuid", "nodev", "noexec", "mode=755")))
        scope.callback(os.close, top)
        inside: dict[str, int] = {}
        bare = Options(recursive=options.recursive)
        for controller, folder in plan.cgroup_folders.items():
            if not controller:
                continue  # a hybrid machine's unified part: runc shows none either
            where = controllers[controller]
            name = os.path.basename(where)
            if name not in inside:
                os.mkdir(name, 0o755, dir_fd=top)
                if private:
                    words = (*options.data, controller)
                    fd = detached.new("cgroup", "cgroup", options.replace(data=words))
                else:
                    fd = _bind(controller, folder, where, bare)
                scope.callback(os.close, fd)
                inside[name] = fd
            plain = controller.removeprefix("name=")
            if plain != name:
                os.symlink(name, plain, dir_fd=top)
        # Mounts can go only onto mounts of this namespace: the tmpfs first, then its inside.
        detached.attach(top, target)
        for name, fd in inside.items():
            api.move_mount(fd, top, name)
        if not private:
            # All the binds and the tmpfs at once.
            detached.set_attributes(top, options.of_all())
        elif options.readonly:
            api.mount_setattr(top, set_=api.MOUNT_ATTR_RDONLY)
        detached.set_propagation(top, options)
