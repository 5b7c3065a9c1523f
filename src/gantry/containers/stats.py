"""Stats: the cgroup's figures in the Engine API's words (moby daemon/stats_unix.go)."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec

from gantry.containers.clock import NEVER, rfc3339
from gantry.containers.core import Core
from gantry.containers.record import Container
from gantry.model.errors import Conflict, GantryError, NotFound

Json = dict[str, Any]

_INTERVAL: Final = 1.0
_BLOCK: Final = {
    "io_service_bytes_recursive": "ioServiceBytesRecursive",
    "io_serviced_recursive": "ioServicedRecursive",
    "io_queue_recursive": "ioQueueRecursive",
    "io_service_time_recursive": "ioServiceTimeRecursive",
    "io_wait_time_recursive": "ioWaitTimeRecursive",
    "io_merged_recursive": "ioMergedRecursive",
    "io_time_recursive": "ioTimeRecursive",
    "sectors_recursive": "sectorsRecursive",
}
_NO_CPU: Final[Json] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}
_SUMMED: Final = frozenset(
    (
        *("cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "pgpgin", "pgpgout"),
        *("pgfault", "pgmajfault", "inactive_anon", "active_anon", "inactive_file"),
        *("active_file", "unevictable"),
    )
)


class Statistics:
    """GET /containers/{id}/stats."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def stats(self, name: str, *, stream: bool, one_shot: bool) -> AsyncIterator[Json]:
        """One sample a second; without `stream` the second one, or at once with `one_shot`."""
        container = self._core.table.get(name)
        if one_shot and stream:
            raise Conflict("cannot have stream=true and one-shot=true")
        return self._stats(container, stream, one_shot)

    async def _stats(
        self, container: Container, stream: bool, one_shot: bool
    ) -> AsyncIterator[Json]:
        before: Json | None = None
        while True:
            if self._core.table.by_id(container.id) is None:
                return
            sample = await self._sample(container)
            if sample is None and not stream:
                yield _empty(container)
                return
            if sample is None:
                before = None
                yield _empty(container)
            elif stream or one_shot or before is not None:
                yield _joined(sample, before)
                if not stream:
                    return
                before = sample
            else:
                before = sample
            await asyncio.sleep(_INTERVAL)

    async def _sample(self, container: Container) -> Json | None:
        task = container.live.task
        if task is None or not container.state.running or container.state.restarting:
            return None
        try:
            data: Json = msgspec.json.decode(await task.stats())
        except (NotFound, GantryError):
            return None
        return _translate(container, data)


def _empty(container: Container) -> Json:
    return {
        "id": container.id,
        "name": f"/{container.name}",
        "os_type": "linux",
        "read": NEVER,
        "preread": NEVER,
        "pids_stats": {},
        "blkio_stats": dict.fromkeys(_BLOCK),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _NO_CPU,
        "precpu_stats": _NO_CPU,
        "memory_stats": {},
    }


def _joined(sample: Json, before: Json | None) -> Json:
    if before is None:
        return sample
    return {**sample, "preread": before["read"], "precpu_stats": before["cpu_stats"]}


def _translate(container: Container, data: Mapping[str, Any]) -> Json:
    result = _empty(container)
    result["read"] = rfc3339(time.time_ns())
    usage, throttling = data["cpu"]["usage"], data["cpu"]["throttling"]
    system, online = system_cpu()
    cpu_usage: Json = {
        "total_usage": usage.get("total", 0),
        "usage_in_kernelmode": usage.get("kernel", 0),
        "usage_in_usermode": usage.get("user", 0),
    }
    if usage.get("percpu"):
        cpu_usage["percpu_usage"] = usage["percpu"]
    result["cpu_stats"] = {
        "cpu_usage": cpu_usage,
        "system_cpu_usage": system,
        "online_cpus": online,
        "throttling_data": {
            "periods": throttling.get("periods", 0),
            "throttled_periods": throttling.get("throttledPeriods", 0),
            "throttled_time": throttling.get("throttledTime", 0),
        },
    }
    result["memory_stats"] = _memory(data["memory"])
    pids: Json = {"current": data["pids"].get("current", 0)}
    # Docker shows "no limit" as the largest number.
    pids["limit"] = data["pids"].get("limit") or (1 << 64) - 1
    result["pids_stats"] = pids
    block = data.get("blkio") or {}
    result["blkio_stats"] = {name: block.get(key) for name, key in _BLOCK.items()}
    networks = _networks(container)
    if networks:
        result["networks"] = networks
    return result


def _memory(memory: Mapping[str, Any]) -> Json:
    usage, raw = memory["usage"], memory.get("raw") or {}
    v1 = "total_inactive_file" in raw
    if v1:
        known = {k: v for k, v in raw.items() if k.removeprefix("total_") in _SUMMED}
        for key in ("hierarchical_memory_limit", "hierarchical_memsw_limit"):
            if key in raw:
                known[key] = raw[key]
    else:
        known = dict(raw)
    result: Json = {
        "usage": usage.get("usage", 0),
        "stats": known,
        "limit": min(usage.get("limit", 0) or machine_memory(), machine_memory()),
    }
    if v1:
        result["max_usage"] = usage.get("max", 0)
    if usage.get("failcnt"):
        result["failcnt"] = usage["failcnt"]
    return result


def _networks(container: Container) -> Json:
    """Counters of the container's interfaces, from its init's own view of /proc."""
    mode = container.record.host_config.network_mode
    if mode == "host" or container.live.sandbox is None:
        return {}
    result: Json = {}
    try:
        with open(f"/proc/{container.state.pid}/net/dev", encoding="ascii") as file:
            lines = file.readlines()[2:]
    except OSError:
        return {}
    for line in lines:
        name, _, figures = line.partition(":")
        name = name.strip()
        if name == "lo":
            continue
        values = [int(word) for word in figures.split()]
        result[name] = {
            "rx_bytes": values[0],
            "rx_packets": values[1],
            "rx_errors": values[2],
            "rx_dropped": values[3],
            "tx_bytes": values[8],
            "tx_packets": values[9],
            "tx_errors": values[10],
            "tx_dropped": values[11],
        }
    return result


def system_cpu() -> tuple[int, int]:
    """(nanoseconds that all CPUs of the machine have spent, CPUs online)."""
    total = count = 0
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            if not line.startswith("cpu"):
                break
            if line.startswith("cpu "):
                total = sum(int(word) for word in line.split()[1:8])
            else:
                count += 1
    return total * (1_000_000_000 // os.sysconf("SC_CLK_TCK")), count


@functools.cache
def machine_memory() -> int:
    """Bytes of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
