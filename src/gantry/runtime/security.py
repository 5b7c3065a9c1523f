"""What is written to /proc on the way: labels, the OOM score, sysctls. And the keyring.

Each write goes through a descriptor that is proven to be on a procfs: a container that
can fake /proc must not be able to swallow, or redirect, what protects it
(CVE-2019-16884, CVE-2025-52881).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Final

from gantry.kernel import mountapi as api
from gantry.kernel import syscalls
from gantry.runtime.errors import RuntimeFailure, describe
from gantry.runtime.plan import ProcessPlan

# Who may find the container's keyring: its user, or in a user namespace everybody there.
UID_SEARCH = 0x80000
OTHER_SEARCH = 0x8


def set_oom_score(score: int | None) -> None:
    """oom_score_adj of this process. Called while /proc is still the host's."""
    if score is None:
        return
    if not -1000 <= score <= 1000:
        raise RuntimeFailure(f"process.oomScoreAdj: {score} is out of range (-1000 to 1000)")
    fd = _open_proc(-1, "self/oom_score_adj")
    try:
        os.write(fd, str(score).encode())
    except OSError as error:
        raise OSError(error.errno, "write oom_score_adj: " + os.strerror(error.errno or 0).lower())
    finally:
        os.close(fd)


_PROC_ROOT: Final = 1
"""The number of a procfs's root folder (PROC_ROOT_INO)."""


def _open_proc(proc: int, path: str) -> int:
    """Open a file of a procfs for writing: of `proc` (our own mount's fd), or what /proc is
    (for an exec the container's, who may have mounted there what it likes): the root of a
    procfs it has to be, and nothing may be mounted on the way."""
    own = proc < 0
    base = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if own else proc
    try:
        if os.fstat(base).st_ino != _PROC_ROOT:
            raise OSError(errno.EINVAL, "not a whole procfs", "/proc")
        fd = syscalls.openat2(
            base,
            path,
            os.O_WRONLY,
            resolve=syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV
            | syscalls.RESOLVE_NO_MAGICLINKS,
        )  # fmt: skip
    finally:
        if own:
            os.close(base)
    if syscalls.fstatfs_type(fd) != syscalls.PROC_SUPER_MAGIC:
        os.close(fd)
        raise OSError(errno.EINVAL, "not a procfs", path)
    return fd


def join_keyring(process: ProcessPlan, *, search: int = 0) -> None:
    """A session keyring of the container's own, so that none of the caller's keys is seen.

    search: a permission to add, for init, which makes the keyring.
    """
    if not process.keyring:
        return
    try:
        serial = syscalls.keyctl_join_session_keyring(process.keyring)
        if search:
            permissions = int(syscalls.keyctl_describe(serial).split(";")[3], 16)
            syscalls.keyctl_setperm(serial, permissions | search)
    except OSError as error:
        # Best effort, as in runc: a kernel without keys, or a quota that is used up.
        if error.errno not in (errno.ENOSYS, errno.EDQUOT, errno.EPERM):
            raise


_label_fd: list[int] = []


def check_labels(process: ProcessPlan) -> None:
    """RuntimeFailure for a label that this kernel has no use for. Called while /sys is still
    the host's."""
    if process.apparmor and not apparmor_enabled():
        raise RuntimeFailure(
            "apparmor failed to apply profile: apparmor is not enabled on this host"
        )
    if process.selinux and not selinux_enabled():
        raise RuntimeFailure(
            "selinux label is specified in config, but selinux is disabled or not supported"
        )


def prepare_labels(process: ProcessPlan, proc: int) -> None:
    """Open what the labels are written to, while a procfs of ours is at hand."""
    _label_fd.clear()
    if process.apparmor:
        try:
            fd = _open_proc(proc, "thread-self/attr/apparmor/exec")
        except OSError:
            fd = _open_proc(proc, "thread-self/attr/exec")
        try:
            os.write(fd, f"exec {process.apparmor}".encode())
        except OSError as error:
            raise RuntimeFailure(f"apparmor failed to apply profile: {describe(error)}")
        finally:
            os.close(fd)
    if process.selinux:
        _label_fd.append(_open_proc(proc, "thread-self/attr/exec"))


def label_fds() -> tuple[int, ...]:
    """What `prepare_labels` keeps open until execve."""
    return tuple(_label_fd)


def set_exec_label(process: ProcessPlan) -> None:
    """The SELinux label that the next execve takes."""
    if process.selinux and _label_fd:
        os.write(_label_fd[0], process.selinux.encode())
        os.close(_label_fd.pop())


def apparmor_enabled() -> bool:
    """Whether this kernel has AppArmor switched on."""
    try:
        with open("/sys/module/apparmor/parameters/enabled", "rb") as file:
            return file.read(1) == b"Y"
    except OSError:
        return False


def selinux_enabled() -> bool:
    """Whether this kernel has SELinux, and a policy mounted."""
    return os.path.exists("/sys/fs/selinux/enforce")


def write_sysctls(sysctls: Mapping[str, str], proc: int) -> None:
    """Write each value below sys/ of our own procfs."""
    if not sysctls:
        return
    made = -1
    if proc < 0:
        made = proc = _own_procfs()
    try:
        for key, value in sysctls.items():
            path = "sys/" + _sysctl_path(key)
            try:
                fd = _open_proc(proc, path)
                try:
                    os.write(fd, value.encode())
                finally:
                    os.close(fd)
            except OSError as error:
                text = os.strerror(error.errno or 0).lower()
                raise RuntimeFailure(f"open sysctl {key} file: /proc/{path}: {text}")
    finally:
        if made >= 0:
            os.close(made)


def _sysctl_path(key: str) -> str:
    """net.ipv4.ip_forward → net/ipv4/ip_forward; a name with slashes keeps its dots."""
    first_dot, first_slash = key.find("."), key.find("/")
    if first_slash != -1 and (first_dot == -1 or first_slash < first_dot):
        return key
    return key.translate(str.maketrans("./", "/."))


def _own_procfs() -> int:
    """A procfs that is nowhere: the spec mounts none, and the writes must not trust a path."""
    context = api.fsopen("proc")
    try:
        api.fsconfig_create(context)
        return api.fsmount(context)
    finally:
        os.close(context)
