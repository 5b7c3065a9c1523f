"""Capability names and numbers (capabilities(7)), and the last one this kernel knows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_WORDS: Final = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
NAMES: Final[tuple[str, ...]] = tuple(f"CAP_{word}" for word in _WORDS)
NUMBERS: Final[dict[str, int]] = {name: number for number, name in enumerate(NAMES)}

_last: int | None = None


def last() -> int:
    """The highest capability number of the running kernel."""
    global _last
    if _last is None:
        with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
            _last = int(file.read())
    return _last


def bits(names: Iterable[str]) -> tuple[int, tuple[str, ...]]:
    """The bit set of `names`, and those names that this kernel does not know.

    runc ignores unknown capabilities with a warning (runtime-spec: a runtime must log
    and may go on); so do callers of this.
    """
    value = 0
    unknown = []
    for name in names:
        number = NUMBERS.get(name)
        if number is None or number > last():
            unknown.append(name)
        else:
            value |= 1 << number
    return value, tuple(unknown)
