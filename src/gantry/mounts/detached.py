"""Making mounts that are nowhere yet, and putting them in place.

A function returns a mount's fd; closing it before `attach` undoes everything.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from gantry.kernel import mountapi as api
from gantry.kernel import syscalls
from gantry.mounts.options import Options

# Superblocks that the kernel shares or that carry no data: "ro" is the mount's alone.
_MOUNT_LEVEL_RO: Final = frozenset(
    ("proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "tmpfs", "securityfs", "bpf")
)
_DATA_MAX: Final = 4095
# Flags of a mount that who made it can lock, for those who get it with fewer rights; and all.
_LOCKABLE: Final = (
    api.MOUNT_ATTR_RDONLY | api.MOUNT_ATTR_NOSUID | api.MOUNT_ATTR_NODEV | api.MOUNT_ATTR_NOEXEC
)
_FLAGS: Final = _LOCKABLE | api.MOUNT_ATTR_NOSYMFOLLOW
_TIMES: Final = api.MOUNT_ATTR_ATIME | api.MOUNT_ATTR_NODIRATIME


def new(fstype: str, source: str, options: Options) -> int:
    """A detached mount of a new (or shared, where the kernel shares) superblock.

    Raises OSError; its text holds what the kernel logged about the options.
    """
    with ExitStack() as scope:
        context = api.fsopen(fstype)
        scope.callback(os.close, context)
        try:
            if source:
                api.fsconfig_set(context, "source", source)
            if options.readonly and fstype not in _MOUNT_LEVEL_RO:
                api.fsconfig_set(context, "ro")
            for word in options.super_words():
                api.fsconfig_set(context, word)
            for word in options.data:
                _set_data(context, fstype, word)
            api.fsconfig_create(context)
        except OSError as error:
            log = api.context_log(context)
            if log:
                raise OSError(error.errno, f"{error.strerror} ({log})", error.filename)
            raise
        # A tmpfs that is to be filled first is made read-only by the caller afterwards.
        attributes = options.set
        if options.tmpcopyup:
            attributes &= ~api.MOUNT_ATTR_RDONLY
        return api.fsmount(context, attributes)


def _set_data(context: int, fstype: str, word: str) -> None:
    key, equals, value = word.partition("=")
    if (
        fstype == "overlay"
        and key == "lowerdir"
        and len(os.fsencode(value)) > api.FSCONFIG_STRING_MAX
    ):
        # One by one (Linux 6.7): a string here is at most 255 bytes.
        for layer in value.replace("\\:", "\0").split(":"):
            api.fsconfig_set(context, "lowerdir+", layer.replace("\0", ":"))
        return
    api.fsconfig_set(context, key, value if equals else None)


def fits_fsconfig(options: Options) -> bool:
    """Whether every value is short enough for fsconfig(2)."""
    return all(len(word) <= api.FSCONFIG_STRING_MAX for word in options.data)


def mount_onto(target_fd: int, fstype: str, source: str, options: Options) -> None:
    """mount(2) onto a held fd: for options that fsconfig(2) cannot take (long overlays)."""
    place = f"/proc/self/fd/{target_fd}"
    data = ",".join(options.data)
    if len(os.fsencode(data)) <= _DATA_MAX:
        syscalls.mount(source, place, fstype, options.mount_flags(), data)
        return
    folder, shorter = _from_within(options.data)
    if folder and len(os.fsencode(shorter)) <= _DATA_MAX:
        # As Docker does it: before Linux 6.7 a page is all there is, so names are relative.
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.chdir(folder)
            syscalls.mount(source, place, fstype, options.mount_flags(), shorter)
        finally:
            os.fchdir(before)
            os.close(before)
        return
    fd = new(fstype, source, options)
    try:
        api.move_mount(fd, target_fd)
    finally:
        os.close(fd)


def _from_within(data: Sequence[str]) -> tuple[str, str]:
    """(the folder that all of an overlay's folders are in, its options as seen from there);
    ("", "") where there is none."""
    named = {key: value for key, _, value in (word.partition("=") for word in data)}
    folders = named.get("lowerdir", "").split(":")
    folders += [named[key] for key in ("upperdir", "workdir") if key in named]
    if "\\" in "".join(folders) or not all(os.path.isabs(folder) for folder in folders):
        return "", ""
    top = os.path.commonpath(folders)
    words = []
    for word in data:
        key, _, value = word.partition("=")
        if key in ("lowerdir", "upperdir", "workdir"):
            inside = [os.path.relpath(folder, top) for folder in value.split(":")]
            word = f"{key}={':'.join(inside)}"
        words.append(word)
    return top, ",".join(words)


def bind(source: str, options: Options, *, dirfd: int | None = None, locked: bool = False) -> int:
    """A detached bind of `source` (recursive for rbind) with its attributes already set.

    Without any flag it has its source's; with some it has those, and no others (runc's
    reading of mount(8)). locked: it is for a user namespace, where what the source has stays,
    and to ask in so many words for it to go is a PermissionError. So it is where the kernel
    says so.
    """
    if dirfd is None:
        fd = api.open_tree(source, recursive=options.recursive)
    else:
        fd = api.open_tree(source, dirfd=dirfd, recursive=options.recursive)
    try:
        if options.flagged:
            _set_flags(fd, options, locked=locked)
        if options.rec_set or options.rec_clear:
            api.mount_setattr(fd, set_=options.rec_set, clear=options.rec_clear, recursive=True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _set_flags(fd: int, options: Options, *, locked: bool) -> None:
    loose = options.clear | api.MOUNT_ATTR_NOSYMFOLLOW & ~options.set
    if locked:
        _refuse_locked(_attributes(fd), options)
    else:
        try:
            api.mount_setattr(fd, set_=options.set, clear=options.clear | _FLAGS & ~options.set)
            return
        except PermissionError:
            pass  # some are locked: only what was asked for, then
    api.mount_setattr(fd, set_=options.set, clear=loose)


def _attributes(fd: int) -> int:
    """MOUNT_ATTR_* of a mount."""
    flags = os.fstatvfs(fd).f_flag
    found = api.MOUNT_ATTR_STRICTATIME if not flags & (_ST_NOATIME | _ST_RELATIME) else 0
    for bit, attribute in _ST_FLAGS:
        if flags & bit:
            found |= attribute
    return found


_ST_NOATIME: Final = 1 << 10
_ST_RELATIME: Final = 1 << 12
_ST_FLAGS: Final = (
    (1 << 0, api.MOUNT_ATTR_RDONLY),
    (1 << 1, api.MOUNT_ATTR_NOSUID),
    (1 << 2, api.MOUNT_ATTR_NODEV),
    (1 << 3, api.MOUNT_ATTR_NOEXEC),
    (_ST_NOATIME, api.MOUNT_ATTR_NOATIME),
    (1 << 11, api.MOUNT_ATTR_NODIRATIME),
)


def _refuse_locked(have: int, options: Options) -> None:
    asked = options.clear & have & _LOCKABLE
    other_times = options.clear & api.MOUNT_ATTR_ATIME and (options.set ^ have) & _TIMES
    if asked or other_times:
        raise PermissionError(errno.EPERM, "cannot clear locked flags: operation not permitted")


def set_attributes(fd: int, options: Options) -> None:
    """Apply the option words that are about the mount and not about its superblock."""
    if options.set or options.clear:
        api.mount_setattr(fd, set_=options.set, clear=options.clear)
    if options.rec_set or options.rec_clear:
        api.mount_setattr(fd, set_=options.rec_set, clear=options.rec_clear, recursive=True)


def set_propagation(fd: int, options: Options) -> None:
    """Apply shared, slave, private, unbindable: after `attach`, they act on a place."""
    for kind, recursive in options.propagation:
        api.mount_setattr(fd, propagation=kind, recursive=recursive)


def attach(fd: int, target_fd: int) -> None:
    """Put a detached mount onto the place that `target_fd` holds."""
    api.move_mount(fd, target_fd)
