"""What a container uses, in the JSON of runc's `events` (types/events.go)."""

from __future__ import annotations

from collections.abc import Iterable

from gantry.cgroups.stats import BlockEntry, Stats


def _entry(*, limit: int, usage: int, peak: int, failures: int) -> dict[str, int]:
    return {"limit": limit, "usage": usage, "max": peak, "failcnt": failures}


def _block(entries: Iterable[BlockEntry]) -> list[dict[str, object]]:
    return [{"major": e.major, "minor": e.minor, "op": e.op, "value": e.value} for e in entries]


def data(stats: Stats) -> dict[str, object]:
    """The `data` object of a stats event. Times are nanoseconds, sizes bytes."""
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
            "usage": _entry(
                limit=memory.limit, usage=memory.usage, peak=memory.peak, failures=memory.failures
            ),
            "swap": _entry(
                limit=memory.swap_limit,
                usage=memory.swap_usage,
                peak=memory.swap_peak,
                failures=memory.swap_failures,
            ),
            "kernel": _entry(
                limit=memory.kernel_limit,
                usage=memory.kernel_usage,
                peak=memory.kernel_peak,
                failures=0,
            ),
            "kernelTCP": _entry(
                limit=memory.kernel_tcp_limit, usage=memory.kernel_tcp_usage, peak=0, failures=0
            ),
            "raw": dict(memory.raw),
        },
        "pids": {"current": stats.pids, "limit": stats.pids_limit},
        "blkio": {
            "ioServiceBytesRecursive": _block(block.service_bytes),
            "ioServicedRecursive": _block(block.serviced),
            "ioQueueRecursive": _block(block.queued),
            "ioServiceTimeRecursive": _block(block.service_time),
            "ioWaitTimeRecursive": _block(block.wait_time),
            "ioMergedRecursive": _block(block.merged),
            "ioTimeRecursive": _block(block.time),
            "sectorsRecursive": _block(block.sectors),
        },
        "hugetlb": {
            size: {"usage": huge.usage, "max": huge.peak, "failcnt": huge.failures}
            for size, huge in stats.hugetlb.items()
        },
        "intel_rdt": {},
        "network_interfaces": None,
    }
