"""The container's /dev: nodes and links."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Final

from gantry.kernel import mountapi as api
from gantry.mounts import resolve
from gantry.runtime.errors import RuntimeFailure, describe
from gantry.runtime.plan import DevicePlan

_LINKS: Final = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
)


def make_devices(root: int, devices: Sequence[DevicePlan], *, bind: bool) -> None:
    """Make the nodes. bind: from a user namespace nodes cannot be made, only bound."""
    parents: dict[str, int] = {}
    try:
        for device in devices:
            folder, name = os.path.split(device.path)
            if folder == "/dev" and name == "ptmx":
                continue  # the terminal multiplexer is devpts' own, by a link
            parent = parents.get(folder)
            if parent is None:
                parent = parents[folder] = resolve.ensure_directory(root, folder)
            try:
                if bind:
                    _bind(root, device)
                else:
                    _node(parent, name, device)
            except OSError as error:
                if error.errno != errno.EPERM or bind:
                    raise RuntimeFailure(
                        f'error creating device "{device.path}": {describe(error)}'
                    )
                _bind(root, device)
    finally:
        for fd in parents.values():
            os.close(fd)


def _node(parent: int, name: str, device: DevicePlan) -> None:
    try:
        os.mknod(name, device.mode, device.device, dir_fd=parent)
    except FileExistsError:
        # The image brought one: good when it is the same node, otherwise the bind's case.
        # Held: where another container writes (a volume), it could become a symlink to anything.
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            status = os.fstat(held)
            same = stat.S_IFMT(status.st_mode) == stat.S_IFMT(device.mode)
            if not same or status.st_rdev != device.device:
                raise RuntimeFailure(
                    f'device "{device.path}" exists in the rootfs and is another file'
                )
            os.chmod(f"/proc/self/fd/{held}", stat.S_IMODE(device.mode))
        finally:
            os.close(held)
    # The umask is 0 here, so the mode is exact; ids need a call only when not root's.
    if device.uid or device.gid:
        os.chown(name, device.uid, device.gid, dir_fd=parent, follow_symlinks=False)


def _bind(root: int, device: DevicePlan) -> None:
    """The host's node of the same path over an empty file."""
    tree = api.open_tree(device.path)
    try:
        status = os.fstat(tree)
        if stat.S_IFMT(status.st_mode) != stat.S_IFMT(device.mode) or (
            status.st_rdev != device.device
        ):
            raise OSError(errno.ENODEV, "the host's node is another device", device.path)
        target = resolve.ensure_file(root, device.path)
        try:
            api.move_mount(tree, target)
        finally:
            os.close(target)
    finally:
        os.close(tree)


def make_links(root: int) -> None:
    """/dev/fd, stdin, stdout, stderr, core, ptmx: as runc makes them."""
    folder = resolve.ensure_directory(root, "/dev")
    try:
        for target, name in _LINKS:
            _link(folder, target, name)
        if os.path.exists("/proc/kcore"):
            _link(folder, "/proc/kcore", "core")
        _link(folder, "pts/ptmx", "ptmx", replace=True)
    finally:
        os.close(folder)


def _link(folder: int, target: str, name: str, *, replace: bool = False) -> None:
    try:
        os.symlink(target, name, dir_fd=folder)
    except FileExistsError:
        if not replace:
            return
        os.unlink(name, dir_fd=folder)
        os.symlink(target, name, dir_fd=folder)


def bind_console(root: int, slave: int) -> None:
    """Bind the terminal over /dev/console; the target is opened by fd and must be a plain
    file or a device of this root (CVE-2025-52565)."""
    folder = resolve.ensure_directory(root, "/dev")
    try:
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open("console", flags, 0o666, dir_fd=folder))
        except FileExistsError:
            pass
        target = os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        kind = stat.S_IFMT(os.fstat(target).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFCHR):
            raise RuntimeFailure("/dev/console in the container is not a plain file")
        tree = api.open_tree("", dirfd=slave)
        try:
            api.move_mount(tree, target)
        finally:
            os.close(tree)
    finally:
        os.close(target)
