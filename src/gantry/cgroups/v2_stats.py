"""cgroup v2 counters in the common shape."""

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


def read(folder: str) -> Stats:
    """Read what there is; a controller that is not handed down counts nothing."""
    limit = files.number(folder, "pids.max")
    return Stats(
        cpu=_cpu(folder),
        memory=_memory(folder),
        block=_io(folder),
        hugetlb=_hugetlb(folder),
        pids=files.number(folder, "pids.current"),
        pids_limit=0 if limit == 2**64 - 1 else limit,
    )


def _cpu(folder: str) -> CPUStats:
    raw = files.table(folder, "cpu.stat")
    return CPUStats(
        total=raw.get("usage_usec", 0) * 1000,
        user=raw.get("user_usec", 0) * 1000,
        kernel=raw.get("system_usec", 0) * 1000,
        periods=raw.get("nr_periods", 0),
        throttled_periods=raw.get("nr_throttled", 0),
        throttled_time=raw.get("throttled_usec", 0) * 1000,
    )


def _memory(folder: str) -> MemoryStats:
    raw = files.table(folder, "memory.stat")
    events = files.table(folder, "memory.events")
    usage = files.number(folder, "memory.current")
    return MemoryStats(
        usage=usage,
        peak=files.number(folder, "memory.peak"),
        limit=files.number(folder, "memory.max"),
        failures=events.get("max", 0),
        cache=raw.get("file", 0),
        # As v1 counts: memory and swap together.
        swap_usage=usage + files.number(folder, "memory.swap.current"),
        swap_limit=min(
            2**64 - 1,
            files.number(folder, "memory.max") + files.number(folder, "memory.swap.max"),
        ),
        swap_peak=files.number(folder, "memory.swap.peak"),
        kernel_usage=raw.get("kernel", raw.get("slab", 0)),
        oom_kills=events.get("oom_kill", 0),
        raw=raw,
    )


_OPS = {
    "rbytes": ("service_bytes", "read"),
    "wbytes": ("service_bytes", "write"),
    "dbytes": ("service_bytes", "discard"),
    "rios": ("serviced", "read"),
    "wios": ("serviced", "write"),
    "dios": ("serviced", "discard"),
}


def _io(folder: str) -> BlockStats:
    found: dict[str, list[BlockEntry]] = {"service_bytes": [], "serviced": []}
    for line in files.read_or(folder, "io.stat").splitlines():
        fields = line.split()
        major, colon, minor = fields[0].partition(":") if fields else ("", "", "")
        if not colon:
            continue
        for field in fields[1:]:
            key, _, value = field.partition("=")
            if key in _OPS:
                kind, op = _OPS[key]
                found[kind].append(
                    BlockEntry(major=int(major), minor=int(minor), op=op, value=int(value))
                )
    return BlockStats(
        service_bytes=tuple(found["service_bytes"]), serviced=tuple(found["serviced"])
    )


def _hugetlb(folder: str) -> dict[str, HugetlbStats]:
    found = {}
    for entry in os.listdir(folder):
        if entry.startswith("hugetlb.") and entry.endswith(".current") and "rsvd" not in entry:
            size = entry.split(".")[1]
            found[size] = HugetlbStats(
                usage=files.number(folder, entry),
                failures=files.table(folder, f"hugetlb.{size}.events").get("max", 0),
            )
    return found
