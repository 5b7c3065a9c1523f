"""Who the container's process is: limits, groups, ids, capabilities. Order is everything."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its enums: ten times faster
import errno
import os
import resource
import stat
from collections.abc import Mapping
from typing import Final

from gantry.kernel import capabilities, syscalls
from gantry.kernel.libc import libc
from gantry.model.record import Record
from gantry.oci.runtime_spec import Process, Rlimit
from gantry.runtime.errors import RuntimeFailure

RLIMITS: Final[Mapping[str, int]] = {
    f"RLIMIT_{name}": number
    for number, name in enumerate(
        (
            "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS",
            "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
        )
    )
}  # fmt: skip
_NO_ID: Final = 2**32 - 1
"""The kernel's "leave it as it is": whoever asks to be this user would stay root."""
# KILL and STOP, and the two that the C library keeps for its threads.
_SIG_DFL: Final = 0
_UNCHANGEABLE: Final = frozenset((9, 19, 32, 33))


class Identity(Record):
    """A process's rights, as numbers: nothing is looked up after the fork.

    Capability fields are bit sets; `keep` says whether there is a capabilities block at
    all (without one the process keeps what it has). unknown: capabilities that this kernel
    has not, passed over with a warning (runtime-spec: it MUST be logged).
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int
    limits: tuple[tuple[int, int, int], ...]
    keep: bool
    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int
    no_new_privs: bool
    last_capability: int
    unknown: tuple[str, ...] = ()
    set_groups: bool = True


def limits(rlimits: tuple[Rlimit, ...]) -> tuple[tuple[int, int, int], ...]:
    """(number, soft, hard) of each; the setter takes -1 for no limit."""
    found: dict[int, tuple[int, int, int]] = {}
    for limit in rlimits:
        number = RLIMITS.get(limit.type)
        if number is None:
            raise RuntimeFailure(f"wrong rlimit value: {limit.type}")
        if number in found:
            raise RuntimeFailure(f"process.rlimits: {limit.type} is given twice")
        soft = -1 if limit.soft >= 2**63 else limit.soft
        hard = -1 if limit.hard >= 2**63 else limit.hard
        found[number] = (number, soft, hard)
    return tuple(found.values())


def of_process(process: Process, *, set_groups: bool = True) -> Identity:
    """Translate a spec's process. Raises RuntimeFailure for what makes no sense.

    set_groups: False in a user namespace where setgroups(2) is denied.
    """
    caps = process.capabilities
    sets = {"bounding": 0, "effective": 0, "permitted": 0, "inheritable": 0, "ambient": 0}
    unknown: set[str] = set()
    if caps is not None:
        for name in sets:
            sets[name], others = capabilities.bits(getattr(caps, name))
            unknown.update(others)
    user = process.user
    for kind, number in (("uid", user.uid), ("gid", user.gid)):
        if number == _NO_ID:
            raise RuntimeFailure(
                f"unable to setup user: cannot set{kind} to unmapped {kind} {number}"
                " in user namespace"
            )
    return Identity(
        uid=user.uid,
        gid=user.gid,
        groups=user.additional_gids,
        umask=0o022 if user.umask is None else user.umask & 0o7777,
        limits=limits(process.rlimits),
        keep=caps is not None,
        no_new_privs=process.no_new_privileges,
        last_capability=capabilities.last(),
        unknown=tuple(sorted(unknown)),
        set_groups=set_groups,
        bounding=sets["bounding"],
        effective=sets["effective"],
        permitted=sets["permitted"],
        inheritable=sets["inheritable"],
        ambient=sets["ambient"],
    )


def raise_limits(identity: Identity) -> None:
    """As far as limits have to be raised: it takes the host's rights, which go soon.

    What is to be lowered stays as it is: mounts still need fds.
    """
    for number, soft, hard in identity.limits:
        have_soft, have_hard = resource.getrlimit(number)
        top, first = _larger(have_hard, hard), _larger(have_soft, soft)
        if (first, top) != (have_soft, have_hard):
            _set_limit(number, first, top)


def _larger(one: int, other: int) -> int:
    return -1 if -1 in (one, other) else max(one, other)


def set_limits(identity: Identity) -> None:
    """setrlimit(2) for each limit. EPERM: raising needs rights that are not there."""
    for number, soft, hard in identity.limits:
        _set_limit(number, soft, hard)


def _set_limit(number: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(number, (soft, hard))
    except (OSError, ValueError) as error:
        name = next(key for key, value in RLIMITS.items() if value == number)
        raise OSError(getattr(error, "errno", None) or 22, f"error setting rlimit {name}: {error}")


def reset_signals() -> None:
    """Every signal at its default and unblocked (Python ignores SIGPIPE and SIGXFSZ).

    Not by Python's own table of handlers, which may be the parent's as well
    (kernel/vfork.py).
    """
    for number in range(1, _signal.NSIG):
        if number not in _UNCHANGEABLE and _signal.getsignal(number) != _SIG_DFL:
            libc.signal(number, _SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def own_stdio(uid: int) -> None:
    """Give fds 0 to 2 to the user, so that /dev/stdout can be opened again by its path.

    /dev/null stays root's, as does what cannot be given away (read-only, foreign ids).
    """
    for fd in (0, 1, 2):
        try:
            status = os.fstat(fd)
        except OSError:
            continue
        if status.st_uid == uid:
            continue
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3):
            continue
        try:
            os.fchown(fd, uid, -1)
        except OSError:
            continue


def drop_bounding(identity: Identity) -> None:
    """Take everything that is not in the spec out of the bounding set (needs SETPCAP)."""
    if not identity.keep:
        return
    for number in range(identity.last_capability + 1):
        if not identity.bounding >> number & 1:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)


def become_user(identity: Identity) -> None:
    """Groups, then gid, then uid; capabilities survive until `apply_capabilities`.

    RuntimeFailure: an id that the user namespace has no map for.
    """
    if identity.keep:
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    if identity.set_groups:
        os.setgroups(identity.groups)
    for kind, number, become in (
        ("gid", identity.gid, os.setresgid),
        ("uid", identity.uid, os.setresuid),
    ):
        try:
            become(number, number, number)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise RuntimeFailure(
                f"unable to setup user: cannot set {kind} to unmapped user in user namespace"
            )


def apply_capabilities(identity: Identity) -> list[str]:
    """The final sets; the ambient ones that cannot be had, by name.

    Inheritable is empty unless the spec fills it (CVE-2022-29162). The kernel wants an
    ambient capability in permitted and inheritable as well: those that are not are passed
    over, as in runc.
    """
    if not identity.keep:
        return []
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)
    syscalls.capset(identity.effective, identity.permitted, identity.inheritable)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    passed_over = []
    if identity.ambient:
        possible = identity.permitted & identity.inheritable
        for number in range(identity.last_capability + 1):
            if not identity.ambient >> number & 1:
                continue
            if possible >> number & 1:
                syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)
            else:
                passed_over.append(capabilities.NAMES[number])
    return passed_over


def no_new_privs() -> None:
    """prctl(PR_SET_NO_NEW_PRIVS)."""
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
