"""What a cgroup has used, in one shape for v1 and v2 (runc's `events --stats` carries it)."""

from __future__ import annotations

from collections.abc import Mapping

from gantry.model.record import Record


class CPUStats(Record):
    """Times are nanoseconds; `per_cpu` is empty on cgroup v2."""

    total: int = 0
    user: int = 0
    kernel: int = 0
    per_cpu: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0


class MemoryStats(Record):
    """Bytes. `raw` is memory.stat as the kernel words it; `limit` 2**64-1 is unlimited."""

    usage: int = 0
    peak: int = 0
    limit: int = 0
    failures: int = 0
    cache: int = 0
    swap_usage: int = 0
    swap_limit: int = 0
    swap_peak: int = 0
    swap_failures: int = 0
    kernel_usage: int = 0
    kernel_limit: int = 0
    kernel_peak: int = 0
    kernel_tcp_usage: int = 0
    kernel_tcp_limit: int = 0
    oom_kills: int = 0
    raw: Mapping[str, int] = {}


class BlockEntry(Record):
    """One counter of one device: `op` is Read, Write, Sync, Async, Discard or Total."""

    major: int
    minor: int
    op: str
    value: int


class BlockStats(Record):
    """I/O counters, by device and operation, in Docker's names."""

    service_bytes: tuple[BlockEntry, ...] = ()
    serviced: tuple[BlockEntry, ...] = ()
    queued: tuple[BlockEntry, ...] = ()
    service_time: tuple[BlockEntry, ...] = ()
    wait_time: tuple[BlockEntry, ...] = ()
    merged: tuple[BlockEntry, ...] = ()
    time: tuple[BlockEntry, ...] = ()
    sectors: tuple[BlockEntry, ...] = ()


class HugetlbStats(Record):
    """Bytes of one page size, and how often the limit was met."""

    usage: int = 0
    peak: int = 0
    failures: int = 0


class Stats(Record):
    """Everything at one moment. `pids_limit` 0 is unlimited."""

    cpu: CPUStats = CPUStats()
    memory: MemoryStats = MemoryStats()
    block: BlockStats = BlockStats()
    hugetlb: Mapping[str, HugetlbStats] = {}
    pids: int = 0
    pids_limit: int = 0
