"""The container's file system, made inside its own mount namespace.

Everything below works from one fd, the root's: a path of the container is found with
openat2(RESOLVE_IN_ROOT) and held, a mount is made detached and moved onto what is held.
An image's symlinks can change what is covered, never where outside a mount lands.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from gantry.kernel import mountapi as api
from gantry.kernel import procfs, syscalls
from gantry.mounts import apply, detached, resolve
from gantry.mounts.options import parse
from gantry.runtime import cgroup_mount, dev
from gantry.runtime.copyup import copy_tree
from gantry.runtime.errors import RuntimeFailure, describe
from gantry.runtime.plan import InitPlan, MountPlan

_EMPTY: Final = parse(("ro", "nr_blocks=1", "nr_inodes=1"))
# File systems whose mount point must be a plain folder: through a symlink an image could
# put /proc where nothing is masked (CVE-2019-19921, CVE-2023-27561).
_PLAIN: Final = frozenset(("proc", "sysfs"))
# What may be found below /proc: itself, or a cover that a mount of the spec put there.
_PROC_LIKE: Final = frozenset((syscalls.PROC_SUPER_MAGIC, syscalls.TMPFS_MAGIC))


class Rootfs:
    """The root under construction: its fd, and the detached mounts that others are read from."""

    def __init__(
        self,
        plan: InitPlan,
        wait_for_cgroup: Callable[[], None],
        ask_for_tree: Callable[[int], int],
    ) -> None:
        self._plan = plan
        self._ask_for_tree = ask_for_tree
        self._wait_for_cgroup = wait_for_cgroup
        self.root = -1
        self.proc = -1  # our own procfs, whatever the container sees
        self.devpts = -1
        self._late_readonly: list[int] = []

    # --- in order --------------------------------------------------------------------

    def take_root(self) -> None:
        """Cut the namespace off from the host's, and mount the root."""
        plan = self._plan
        if plan.namespaces.has("mount"):
            propagation = plan.propagation or api.MS_SLAVE | api.MS_REC
            syscalls.mount("", "/", None, propagation)
            if propagation & (api.MS_SHARED | api.MS_UNBINDABLE):
                _make_parent_private(plan.rootfs)
            if plan.rootfs_mounts:
                here = os.open(plan.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                for mount in plan.rootfs_mounts:
                    apply.onto(here, mount)
                    os.close(here)
                    here = os.open(plan.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                self.root = here
                return
        # pivot_root(2) wants a mount point: the folder bound onto itself. Without a mount
        # namespace it is what whoever cleans up after the container unmounts as a whole.
        tree = detached.bind(plan.rootfs, parse(("rbind",)))
        here = os.open(plan.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        detached.attach(tree, here)
        os.close(here)
        self.root = tree

    def mount_all(self) -> None:
        """The spec's mounts, then /dev where it is ours."""
        for planned in self._plan.mounts:
            try:
                self._mount(planned)
            except (OSError, RuntimeFailure) as error:
                mount = planned.mount
                kind = mount.type or ("bind" if planned.is_bind else "")
                raise RuntimeFailure(
                    f'error mounting "{mount.source or kind}" to rootfs at '
                    f'"{mount.destination}": {describe(error)}'
                )
        if self._plan.setup_dev:
            dev.make_devices(self.root, self._plan.devices, bind=self._plan.namespaces.has("user"))
            dev.make_links(self.root)

    def ensure_cwd(self) -> None:
        """Make the working directory where it is missing (before the root is read-only)."""
        cwd = self._plan.process.cwd
        if cwd != "/":
            try:
                os.close(resolve.ensure_directory(self.root, cwd))
            except OSError as error:
                raise RuntimeFailure(f"mkdir {cwd}: {os.strerror(error.errno or 0).lower()}")

    def pivot(self) -> None:
        """Make the root the root, and let go of the host's."""
        os.fchdir(self.root)
        if not self._plan.namespaces.has("mount"):
            os.chroot(".")
        elif self._plan.no_pivot:
            _hide_bare_mounts(self._plan.rootfs)
            syscalls.mount(".", "/", None, api.MS_MOVE)
            os.chroot(".")
        else:
            # Both arguments ".": the old root lands on top of the new one, and is taken
            # off again; no folder for it is needed (pivot_root(2), NOTES).
            old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            syscalls.pivot_root(".", ".")
            # Slave first: the umount must not travel to the host. The old root by its fd:
            # "." would still be the new one, whose mounts may have to stay shared.
            os.fchdir(old)
            syscalls.mount("", ".", None, api.MS_SLAVE | api.MS_REC)
            syscalls.umount2(".", api.MNT_DETACH)
            os.close(old)
        os.chdir("/")

    def cover(self) -> None:
        """Read-only and masked paths. After this the file system is what the spec says."""
        for path in self._plan.readonly_paths:
            try:
                self._read_only(path)
            except OSError as error:
                raise RuntimeFailure(f'can\'t make "{path}" read-only: {describe(error)}')
        if self._plan.masked:
            self._mask(self._plan.masked)

    def finish(self) -> None:
        """The root's own propagation and read-only flag: last, nothing can be made after."""
        plan = self._plan
        if not plan.namespaces.has("mount"):
            return
        if plan.propagation:
            syscalls.mount("", "/", None, plan.propagation)
        for fd in self._late_readonly:
            api.mount_setattr(fd, set_=api.MOUNT_ATTR_RDONLY)
        if plan.readonly:
            api.mount_setattr(self.root, set_=api.MOUNT_ATTR_RDONLY)

    def close(self) -> None:
        """Let go of the fds (exec would, but a hook or a waiting init must not hold them)."""
        for fd in (self.root, self.proc, self.devpts, *self._late_readonly):
            if fd >= 0:
                os.close(fd)
        self._late_readonly.clear()
        self.root = self.proc = self.devpts = -1

    # --- mounts ------------------------------------------------------------------------

    def _mount(self, planned: MountPlan) -> None:
        kind = planned.mount.type
        if planned.is_bind:
            self._bind(planned)
        elif planned.options.remount:
            target = resolve.open_in_root(self.root, planned.mount.destination)
            try:
                detached.set_attributes(target, planned.options)
            finally:
                os.close(target)
        elif cgroup_mount.is_view(kind):
            self._wait_for_cgroup()
            cgroup_mount.mount(self.root, planned, self._plan)
        else:
            self._new(planned)

    def _target(self, planned: MountPlan, *, file: bool = False) -> int:
        destination = planned.mount.destination
        ensure = resolve.ensure_file if file else resolve.ensure_directory
        fd = ensure(self.root, destination)
        if planned.mount.type in _PLAIN and not planned.is_bind:
            os.close(fd)
            try:
                fd = resolve.open_plain(self.root, destination, os.O_PATH | os.O_DIRECTORY)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                raise RuntimeFailure(
                    f'filesystem "{planned.mount.type}" must be mounted on ordinary directory'
                )
        return fd

    def _new(self, planned: MountPlan) -> None:
        mount, options = planned.mount, planned.options
        with ExitStack() as scope:
            existed = mount.type != "tmpfs" or self._exists(mount.destination)
            target = self._target(planned)
            scope.callback(os.close, target)
            _refuse_in_proc(mount.destination, target, procfs=mount.type == "proc")
            if mount.type == "overlay" or not detached.fits_fsconfig(options):
                detached.mount_onto(target, mount.type, mount.source, options)
                return
            fd = self._make(planned, target, existed=existed)
            if mount.type == "proc" and self.proc < 0:
                self.proc = fd
            elif mount.type == "devpts" and self.devpts < 0:
                self.devpts = fd
            elif mount.type == "tmpfs" and options.readonly:
                # Other mounts may have their targets in it: read-only when all is made.
                self._late_readonly.append(fd)
            else:
                scope.callback(os.close, fd)
            if options.tmpcopyup:
                self._copy_up(mount.destination, fd)
            if options.rec_set or options.rec_clear:
                detached.set_attributes(fd, options)
            detached.attach(fd, target)
            detached.set_propagation(fd, options)

    def _exists(self, destination: str) -> bool:
        try:
            os.close(resolve.open_in_root(self.root, destination))
        except OSError:
            return False
        return True

    def _make(self, planned: MountPlan, target: int, *, existed: bool) -> int:
        mount, options = planned.mount, planned.options
        if mount.type == "tmpfs":
            options = options.replace(set=options.set & ~api.MOUNT_ATTR_RDONLY)
            if existed and not any(word.startswith("mode=") for word in options.data):
                # A tmpfs over a folder of the image takes that folder's permissions.
                mode = stat.S_IMODE(os.fstat(target).st_mode)
                options = options.replace(data=(*options.data, f"mode={mode:o}"))
        try:
            return detached.new(mount.type, mount.source, options)
        except OSError as error:
            if mount.type == "sysfs" and error.errno == errno.EPERM:
                # A user namespace that does not own the network one: the host's /sys, as
                # it is, is what may be seen there.
                return detached.bind("/sys", options.replace(recursive=True))
            raise

    def _copy_up(self, destination: str, tmpfs: int) -> None:
        """tmpcopyup: the image's folder copied into the new tmpfs before it covers it."""
        source = resolve.open_in_root(self.root, destination, os.O_RDONLY | os.O_DIRECTORY)
        # A detached mount's fd is O_PATH: opened again for writing, by itself.
        target = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tmpfs)
        try:
            copy_tree(source, target)
        finally:
            os.close(source)
            os.close(target)

    def _bind(self, planned: MountPlan) -> None:
        with ExitStack() as scope:
            if planned.tree is not None:
                fd = planned.tree
            elif planned.late:
                fd = self._ask_for_tree(self._plan.mounts.index(planned))
                scope.callback(os.close, fd)
            else:
                fd = detached.bind(planned.source, planned.options)
                scope.callback(os.close, fd)
            target = self._target(planned, file=not resolve.is_directory(fd))
            scope.callback(os.close, target)
            where = planned.mount.destination
            is_procfs = where == "/proc" and syscalls.fstatfs_type(fd) == syscalls.PROC_SUPER_MAGIC
            _refuse_in_proc(where, target, procfs=is_procfs)
            detached.attach(fd, target)
            detached.set_propagation(fd, planned.options)

    # --- covers ------------------------------------------------------------------------

    def _open_cover(self, path: str) -> int | None:
        """The path to cover, None when the container has none such (nothing to protect)."""
        try:
            fd = resolve.open_in_root(self.root, path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        in_proc = path == "/proc" or path.startswith("/proc/")
        if in_proc and self.proc >= 0 and syscalls.fstatfs_type(fd) not in _PROC_LIKE:
            # Covering something that only looks like /proc would leave the real one bare.
            os.close(fd)
            raise OSError(errno.EINVAL, f"{path} is not in a procfs")
        return fd

    def _read_only(self, path: str) -> None:
        fd = self._open_cover(path)
        if fd is None:
            return
        with ExitStack() as scope:
            scope.callback(os.close, fd)
            tree = api.open_tree("", dirfd=fd, recursive=True)
            scope.callback(os.close, tree)
            api.mount_setattr(tree, set_=api.MOUNT_ATTR_RDONLY, recursive=True)
            detached.attach(tree, fd)

    def _mask(self, paths: Sequence[str]) -> None:
        """/dev/null over files, one empty read-only tmpfs over every folder."""
        with ExitStack() as scope:
            null = open_null(self.root)
            scope.callback(os.close, null)
            empty = -1
            for path in dict.fromkeys(paths):
                fd = self._open_cover(path)
                if fd is None:
                    continue
                scope.callback(os.close, fd)
                if resolve.is_directory(fd):
                    if empty < 0:
                        cover = empty = detached.new("tmpfs", "tmpfs", _EMPTY)
                    else:
                        # Attached by now, so it can be cloned: one superblock for all.
                        cover = api.open_tree("", dirfd=empty)
                    scope.callback(os.close, cover)
                else:
                    cover = api.open_tree("", dirfd=null)
                    scope.callback(os.close, cover)
                detached.attach(cover, fd)


# The few files that virtual views (lxcfs) replace.
_PROC_FILES: Final = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo",
        "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
    )
)  # fmt: skip


def _refuse_in_proc(path: str, target: int, *, procfs: bool) -> None:
    """Nothing goes onto /proc itself but a procfs, and below it only onto `_PROC_FILES`:
    labels and sysctls are written there (CVE-2019-16884, CVE-2025-52881)."""
    if syscalls.fstatfs_type(target) != syscalls.PROC_SUPER_MAGIC or path in _PROC_FILES:
        return
    if path == "/proc" and procfs:
        return
    why = "it is not of type proc" if path == "/proc" else "it is inside /proc"
    raise RuntimeFailure(f'"{path}" cannot be mounted because {why}')


def own_null(root: int) -> None:
    """Of stdio, what is the host's /dev/null becomes the container's own.

    Nothing then leads to the host's file systems, and a checkpoint can name it.
    """
    for number in range(3):
        status = os.fstat(number)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3):
            held = open_null(root)
            try:
                fd = os.open(f"/proc/self/fd/{held}", os.O_RDWR | os.O_CLOEXEC)
            finally:
                os.close(held)
            os.dup2(fd, number)
            os.close(fd)


def open_null(root: int) -> int:
    """The container's /dev/null, proven to be the null device and nothing that poses as it
    (CVE-2025-31133)."""
    fd = resolve.open_in_root(root, "/dev/null", follow=False)
    status = os.fstat(fd)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
        os.close(fd)
        raise RuntimeFailure("/dev/null in the container is not the null device")
    return fd


def _hide_bare_mounts(rootfs: str) -> None:
    """Take away every whole procfs and sysfs outside the root.

    With chroot instead of pivot_root the host's stay in the mount namespace, and as long
    as one without covers is there the kernel lets the container mount another such.
    """
    for mount in procfs.mountinfo():
        point = mount.mount_point
        whole = mount.root == "/" and mount.fstype in ("proc", "sysfs")
        if not whole or point == rootfs or point.startswith(rootfs + "/"):
            continue
        try:
            syscalls.mount("", point, None, api.MS_SLAVE | api.MS_REC)
            syscalls.umount2(point, api.MNT_DETACH)
        except FileNotFoundError:
            continue  # below one that is gone already
        except OSError:
            # Locked together with its parent (a user namespace): covered instead.
            syscalls.mount("tmpfs", point, "tmpfs", api.MS_RDONLY, "nr_inodes=1,nr_blocks=1")


def _make_parent_private(rootfs: str) -> None:
    """pivot_root(2) refuses a new root whose parent mount is shared, and what is on an
    unbindable mount cannot be bound onto itself."""
    best = None
    for mount in procfs.mountinfo():
        point = mount.mount_point
        if (rootfs == point or rootfs.startswith(point.rstrip("/") + "/")) and (
            best is None or len(point) >= len(best.mount_point)
        ):
            best = mount
    if best is not None and any(
        word.startswith("shared:") or word == "unbindable" for word in best.optional
    ):
        syscalls.mount("", best.mount_point, None, api.MS_PRIVATE)
