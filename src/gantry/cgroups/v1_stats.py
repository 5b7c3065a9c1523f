"""cgroup v1 counters in the common shape."""

from __future__ import annotations

import os

from gantry.cgroups import files
from gantry.cgroups.stats import (
    BlockEntry,
    BlockStats,
    CPUStats,
    HugetlbStats,
    MemoryStats,
    Stats,
)

_TICKS = os.sysconf("SC_CLK_TCK")


def read(folders: dict[str, str]) -> Stats:
    """Read what there is; a controller that is not joined counts nothing."""
    pids = folders.get("pids", "")
    limit = files.number(pids, "pids.max") if pids else 0
    return Stats(
        cpu=_cpu(folders.get("cpuacct"), folders.get("cpu")),
        memory=_memory(folders["memory"]) if "memory" in folders else MemoryStats(),
        block=_block(folders["blkio"]) if "blkio" in folders else BlockStats(),
        hugetlb=_hugetlb(folders["hugetlb"]) if "hugetlb" in folders else {},
        pids=files.number(pids, "pids.current") if pids else 0,
        pids_limit=0 if limit == 2**64 - 1 else limit,
    )


def _cpu(account: str | None, scheduler: str | None) -> CPUStats:
    per_cpu: tuple[int, ...] = ()
    total = user = kernel = 0
    if account:
        total = files.number(account, "cpuacct.usage")
        per_cpu = tuple(int(n) for n in files.read_or(account, "cpuacct.usage_percpu").split())
        lines = files.read_or(account, "cpuacct.usage_all").splitlines()[1:]
        if lines:
            cells = [line.split() for line in lines]
            user = sum(int(row[1]) for row in cells)
            kernel = sum(int(row[2]) for row in cells)
        else:
            ticks = files.table(account, "cpuacct.stat")
            user = ticks.get("user", 0) * 1_000_000_000 // _TICKS
            kernel = ticks.get("system", 0) * 1_000_000_000 // _TICKS
    throttle = files.table(scheduler, "cpu.stat") if scheduler else {}
    return CPUStats(
        total=total,
        user=user,
        kernel=kernel,
        per_cpu=per_cpu,
        periods=throttle.get("nr_periods", 0),
        throttled_periods=throttle.get("nr_throttled", 0),
        throttled_time=throttle.get("throttled_time", 0),
    )


def _memory(folder: str) -> MemoryStats:
    raw = files.table(folder, "memory.stat")
    number = files.number
    return MemoryStats(
        usage=number(folder, "memory.usage_in_bytes"),
        peak=number(folder, "memory.max_usage_in_bytes"),
        limit=number(folder, "memory.limit_in_bytes"),
        failures=number(folder, "memory.failcnt"),
        cache=raw.get("cache", 0),
        swap_usage=number(folder, "memory.memsw.usage_in_bytes"),
        swap_limit=number(folder, "memory.memsw.limit_in_bytes"),
        swap_peak=number(folder, "memory.memsw.max_usage_in_bytes"),
        swap_failures=number(folder, "memory.memsw.failcnt"),
        kernel_usage=number(folder, "memory.kmem.usage_in_bytes"),
        kernel_limit=number(folder, "memory.kmem.limit_in_bytes"),
        kernel_peak=number(folder, "memory.kmem.max_usage_in_bytes"),
        kernel_tcp_usage=number(folder, "memory.kmem.tcp.usage_in_bytes"),
        kernel_tcp_limit=number(folder, "memory.kmem.tcp.limit_in_bytes"),
        oom_kills=files.table(folder, "memory.oom_control").get("oom_kill", 0),
        raw=raw,
    )


def _entries(folder: str, *names: str) -> tuple[BlockEntry, ...]:
    """The first of `names` that has lines ("8:0 Read 4096"); the kernel's total is left out."""
    for name in names:
        found = []
        for line in files.read_or(folder, name).splitlines():
            fields = line.split()
            if len(fields) < 2 or ":" not in fields[0]:
                continue
            major, _, minor = fields[0].partition(":")
            found.append(
                BlockEntry(
                    major=int(major),
                    minor=int(minor),
                    op=fields[1] if len(fields) > 2 else "",
                    value=int(fields[-1]),
                )
            )
        if found:
            return tuple(found)
    return ()


def _block(folder: str) -> BlockStats:
    return BlockStats(
        service_bytes=_entries(
            folder,
            "blkio.bfq.io_service_bytes_recursive",
            "blkio.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes",
        ),
        serviced=_entries(
            folder,
            "blkio.bfq.io_serviced_recursive",
            "blkio.io_serviced_recursive",
            "blkio.throttle.io_serviced_recursive",
            "blkio.throttle.io_serviced",
        ),
        queued=_entries(folder, "blkio.bfq.io_queued_recursive", "blkio.io_queued_recursive"),
        service_time=_entries(
            folder, "blkio.bfq.io_service_time_recursive", "blkio.io_service_time_recursive"
        ),
        wait_time=_entries(
            folder, "blkio.bfq.io_wait_time_recursive", "blkio.io_wait_time_recursive"
        ),
        merged=_entries(folder, "blkio.bfq.io_merged_recursive", "blkio.io_merged_recursive"),
        time=_entries(folder, "blkio.bfq.time_recursive", "blkio.time_recursive"),
        sectors=_entries(folder, "blkio.bfq.sectors_recursive", "blkio.sectors_recursive"),
    )


def _hugetlb(folder: str) -> dict[str, HugetlbStats]:
    found = {}
    for entry in os.listdir(folder):
        if (
            entry.startswith("hugetlb.")
            and entry.endswith(".usage_in_bytes")
            and "rsvd" not in entry
        ):
            size = entry.split(".")[1]
            found[size] = HugetlbStats(
                usage=files.number(folder, entry),
                peak=files.number(folder, f"hugetlb.{size}.max_usage_in_bytes"),
                failures=files.number(folder, f"hugetlb.{size}.failcnt"),
            )
    return found
