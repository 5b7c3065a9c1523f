"""Limits that this machine's kernel does not know are left out, with a warning.

moby daemon/daemon_unix.go verifyPlatformContainerResources, for all that is no error.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from gantry.cgroups.abilities import Abilities
from gantry.model.container import HostConfig

_LIMITS: Final[tuple[tuple[str, str, object, str], ...]] = (
    (
        *("memory_swappiness", "swappiness", None),
        "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted."
        " Memory swappiness discarded.",
    ),
    (
        *("memory_reservation", "reservation", 0),
        "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted."
        " Limitation discarded.",
    ),
    (
        *("oom_kill_disable", "oom_kill_disable", None),
        "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
    ),
    (
        *("pids_limit", "pids", None),
        "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs"
        " limit discarded.",
    ),
    (
        *("cpu_shares", "shares", 0),
        "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.",
    ),
    (
        *("cpu_period", "quota", 0),
        "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
    ),
    (
        *("cpu_quota", "quota", 0),
        "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
    ),
    (
        *("cpuset_cpus", "cpuset", ""),
        "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
    ),
    (
        *("cpuset_mems", "cpuset", ""),
        "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
    ),
    (
        *("blkio_weight", "weight", 0),
        "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight"
        " discarded.",
    ),
    (
        *("blkio_weight_device", "weight_device", None),
        "Your kernel does not support Block I/O weight_device or the cgroup is not mounted."
        " Weight-device discarded.",
    ),
    (
        *("blkio_device_read_bps", "read_bps", None),
        "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block"
        " I/O BPS read limit discarded.",
    ),
    (
        *("blkio_device_write_bps", "write_bps", None),
        "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted."
        " Block I/O BPS write limit discarded.",
    ),
    (
        *("blkio_device_read_i_ops", "read_iops", None),
        "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block"
        " I/O IOPS read limit discarded.",
    ),
    (
        *("blkio_device_write_i_ops", "write_iops", None),
        "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block"
        " I/O IOPS write limit discarded.",
    ),
)
"""Field of HostConfig, field of Abilities, the value that is no limit, the warning."""


def supported(host: HostConfig, can: Abilities) -> tuple[HostConfig, list[str]]:
    """The same without what `can` not be limited, and Docker's warnings about it."""
    changes: dict[str, Any] = {}
    warnings: list[str] = []
    if host.memory > 0 and not can.memory:
        changes |= {"memory": 0, "memory_swap": -1}
        warnings.append(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted."
            " Limitation discarded."
        )
    elif host.memory > 0 and host.memory_swap != -1 and not can.swap:
        changes["memory_swap"] = -1
        warnings.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted."
            " Memory limited without swap."
        )
    for field, ability, nothing, warning in _LIMITS:
        value = getattr(host, field)
        if value is None or value == nothing or getattr(can, ability):
            continue
        changes[field] = nothing
        # Nobody is told that what was not to be limited is not.
        if value and value != -1 and warning not in warnings:
            warnings.append(warning)
    return (replace(host, **changes) if changes else host), warnings
