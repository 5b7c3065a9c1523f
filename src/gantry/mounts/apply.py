"""Applying a list of neutral mounts to a folder of the host, and undoing it.

For whoever needs a container's file system in the host's own view (copying files,
building, committing). A container's start does not come here: its mounts are made
inside its own mount namespace.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from gantry.kernel import mountapi as api
from gantry.kernel import syscalls
from gantry.model.mount import Mount
from gantry.mounts import detached, resolve
from gantry.mounts.options import parse


def apply(mounts: Sequence[Mount], rootfs: str) -> None:
    """Apply `mounts` in order onto `rootfs`; a failure undoes those already made.

    Raises OSError with the call and the path.
    """
    with ExitStack() as undo:
        for mount in mounts:
            # Opened anew each time: the mount before this one may have covered it.
            root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                onto(root, mount)
            finally:
                os.close(root)
            undo.callback(
                unmount, rootfs + "/" + mount.target.lstrip("/") if mount.target else rootfs
            )
        undo.pop_all()


def onto(root: int, mount: Mount) -> None:
    """Apply one mount at its target below the folder `root` (found without leaving it)."""
    options = parse(mount.options)
    is_bind = options.bind or mount.type == "bind"
    with ExitStack() as scope:
        if mount.target:
            wants_file = is_bind and not os.path.isdir(mount.source)
            ensure = resolve.ensure_file if wants_file else resolve.ensure_directory
            target = ensure(root, mount.target)
            scope.callback(os.close, target)
        else:
            target = root
        if is_bind:
            fd = detached.bind(mount.source, options)
        elif mount.type == "overlay" or not detached.fits_fsconfig(options):
            detached.mount_onto(target, mount.type, mount.source, options)
            return
        else:
            fd = detached.new(mount.type, mount.source, options)
        scope.callback(os.close, fd)
        detached.attach(fd, target)
        detached.set_propagation(fd, options)


def unmount(path: str) -> None:
    """Detach what is mounted at `path`; nothing mounted there is no error."""
    try:
        syscalls.umount2(path, api.MNT_DETACH | api.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (22, 2):  # EINVAL: no mount point; ENOENT: no such path
            raise


@contextmanager
def mounted(mounts: Sequence[Mount], rootfs: str) -> Iterator[str]:
    """`rootfs` with `mounts` applied for as long as the context lasts."""
    apply(mounts, rootfs)
    try:
        yield rootfs
    finally:
        for mount in reversed(mounts):
            unmount(rootfs + "/" + mount.target.lstrip("/") if mount.target else rootfs)
