"""Cgroup figures in the shape of runc's `events --stats` (its data object)."""

from __future__ import annotations

from gantry.cgroups.stats import BlockEntry, Stats

Document = dict[str, object]


def runc_stats(stats: Stats) -> Document:
    """What `runc events --stats` prints as "data" (runc `types/events.go`), as far as cgroups
    know it. Times are nanoseconds, sizes bytes."""
    cpu, memory, block = stats.cpu, stats.memory, stats.block
    return {
        "cpu": {
            "usage": {
                "total": cpu.total,
                "percpu": list(cpu.per_cpu),
                "kernel": cpu.kernel,
                "user": cpu.user,
            },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_time,
            },
        },
        "memory": {
            "cache": memory.cache,
            "usage": _memory(memory.limit, memory.usage, memory.peak, memory.failures),
            "swap": _memory(
                memory.swap_limit, memory.swap_usage, memory.swap_peak, memory.swap_failures
            ),
            "kernel": _memory(memory.kernel_limit, memory.kernel_usage, memory.kernel_peak, 0),
            "kernelTCP": _memory(memory.kernel_tcp_limit, memory.kernel_tcp_usage, 0, 0),
            "raw": dict(memory.raw),
        },
        "pids": {"current": stats.pids, "limit": stats.pids_limit},
        "blkio": {
            "ioServiceBytesRecursive": _entries(block.service_bytes),
            "ioServicedRecursive": _entries(block.serviced),
            "ioQueueRecursive": _entries(block.queued),
            "ioServiceTimeRecursive": _entries(block.service_time),
            "ioWaitTimeRecursive": _entries(block.wait_time),
            "ioMergedRecursive": _entries(block.merged),
            "ioTimeRecursive": _entries(block.time),
            "sectorsRecursive": _entries(block.sectors),
        },
        "hugetlb": {
            size: {"usage": one.usage, "max": one.peak, "failcnt": one.failures}
            for size, one in stats.hugetlb.items()
        },
    }


def _memory(limit: int, usage: int, peak: int, failures: int) -> Document:
    return {"limit": limit, "usage": usage, "max": peak, "failcnt": failures}


def _entries(entries: tuple[BlockEntry, ...]) -> list[Document]:
    return [
        {"major": one.major, "minor": one.minor, "op": one.op, "value": one.value}
        for one in entries
    ]
