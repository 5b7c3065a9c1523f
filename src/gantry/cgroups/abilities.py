"""Which limits this machine's cgroups know (moby pkg/sysinfo)."""

from __future__ import annotations

import functools
import os

from gantry.cgroups import layout
from gantry.model.record import Record


class Abilities(Record):
    """What can be limited."""

    memory: bool = True
    swap: bool = True
    reservation: bool = True
    swappiness: bool = True
    oom_kill_disable: bool = True
    pids: bool = True
    shares: bool = True
    quota: bool = True
    cpuset: bool = True
    weight: bool = True
    weight_device: bool = True
    read_bps: bool = True
    write_bps: bool = True
    read_iops: bool = True
    write_iops: bool = True


@functools.cache
def detect() -> Abilities:
    """This machine's, looked up once in a process's life."""
    found = layout.detect()
    return _of_v2(found.unified) if found.pure else _of_v1(found.controllers)


def _of_v1(mounts: dict[str, str]) -> Abilities:
    def has(controller: str, name: str = "cgroup.procs") -> bool:
        return controller in mounts and os.path.exists(os.path.join(mounts[controller], name))

    bfq = has("blkio", "blkio.bfq.io_service_bytes")
    return Abilities(
        memory=has("memory"),
        swap=has("memory", "memory.memsw.limit_in_bytes"),
        reservation=has("memory", "memory.soft_limit_in_bytes"),
        swappiness=has("memory", "memory.swappiness"),
        oom_kill_disable=has("memory", "memory.oom_control"),
        pids=has("pids"),
        shares=has("cpu", "cpu.shares"),
        quota=has("cpu", "cpu.cfs_quota_us"),
        cpuset=has("cpuset"),
        # BFQ's weights are not in the root cgroup, its counters are.
        weight=has("blkio", "blkio.weight") or bfq,
        weight_device=has("blkio", "blkio.weight_device") or bfq,
        read_bps=has("blkio", "blkio.throttle.read_bps_device"),
        write_bps=has("blkio", "blkio.throttle.write_bps_device"),
        read_iops=has("blkio", "blkio.throttle.read_iops_device"),
        write_iops=has("blkio", "blkio.throttle.write_iops_device"),
    )


def _of_v2(mount: str) -> Abilities:
    try:
        with open(os.path.join(mount, "cgroup.controllers"), encoding="ascii") as file:
            present = set(file.read().split())
    except OSError:
        present = set()
    memory, cpu, io = "memory" in present, "cpu" in present, "io" in present
    return Abilities(
        memory=memory,
        swap=memory,
        reservation=memory,
        swappiness=False,
        oom_kill_disable=False,
        pids="pids" in present,
        shares=cpu,
        quota=cpu,
        cpuset="cpuset" in present,
        weight=io,
        weight_device=io,
        read_bps=io,
        write_bps=io,
        read_iops=io,
        write_iops=io,
    )
