"""The figures of a container's cgroup as containerd gives them, in our shape.

Messages: io.containerd.cgroups.v1.Metrics and io.containerd.cgroups.v2.Metrics (containerd/cgroups,
cgroup1/stats and cgroup2/stats metrics.proto).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gantry.cgroups.stats import (
    BlockEntry,
    BlockStats,
    CPUStats,
    HugetlbStats,
    MemoryStats,
    Stats,
)
from gantry.ipc.protobuf import Fields
from gantry.model.errors import NotImplementedHere
from gantry.tasks.containerd.api import Any

# Names of memory.stat, in the order of their field numbers.
_V1_WORDS: Final = (
    *("cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "pgpgin", "pgpgout"),
    *("pgfault", "pgmajfault", "inactive_anon", "active_anon", "inactive_file", "active_file"),
    "unevictable",
)
_V1_MEMORY: Final = (
    *_V1_WORDS,
    *("hierarchical_memory_limit", "hierarchical_memsw_limit"),
    *(f"total_{word}" for word in _V1_WORDS),
)
_V2_MEMORY: Final = (
    *("anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty"),
    *("file_writeback", "anon_thp", "inactive_anon", "active_anon", "inactive_file"),
    *("active_file", "unevictable", "slab_reclaimable", "slab_unreclaimable", "pgfault"),
    *("pgmajfault", "workingset_refault", "workingset_activate", "workingset_nodereclaim"),
    *("pgrefill", "pgscan", "pgsteal", "pgactivate", "pgdeactivate", "pglazyfree"),
    *("pglazyfreed", "thp_fault_alloc", "thp_collapse_alloc"),
)
_V2_BLOCK: Final = {
    3: ("service_bytes", "read"),
    4: ("service_bytes", "write"),
    5: ("serviced", "read"),
    6: ("serviced", "write"),
}
_UNLIMITED: Final = 2**64 - 1


def parse(data: Any) -> Stats:
    """NotImplementedHere: figures of another kind (a sandbox that is no cgroup)."""
    if data.type_url.endswith("io.containerd.cgroups.v1.Metrics"):
        return _v1(Fields(data.value))
    if data.type_url.endswith("io.containerd.cgroups.v2.Metrics"):
        return _v2(Fields(data.value))
    raise NotImplementedHere(f"metrics of type {data.type_url} are not known")


def _v1(metrics: Fields) -> Stats:
    pids = metrics.message(2)
    return Stats(
        cpu=_v1_cpu(metrics.message(3)),
        memory=_v1_memory(metrics.message(4)),
        block=_v1_block(metrics.message(5)),
        hugetlb={
            one.text(4): HugetlbStats(
                usage=one.number(1), peak=one.number(2), failures=one.number(3)
            )
            for one in metrics.messages(1)
        },
        pids=pids.number(1),
        pids_limit=pids.number(2),
    )


def _v1_cpu(cpu: Fields) -> CPUStats:
    usage, throttling = cpu.message(1), cpu.message(2)
    return CPUStats(
        total=usage.number(1),
        kernel=usage.number(2),
        user=usage.number(3),
        per_cpu=tuple(usage.numbers(4)),
        periods=throttling.number(1),
        throttled_periods=throttling.number(2),
        throttled_time=throttling.number(3),
    )


def _v1_memory(memory: Fields) -> MemoryStats:
    usage, swap, kernel, tcp = (memory.message(number) for number in (33, 34, 35, 36))
    return MemoryStats(
        limit=usage.number(1),
        usage=usage.number(2),
        peak=usage.number(3),
        failures=usage.number(4),
        cache=memory.number(1),
        swap_limit=swap.number(1),
        swap_usage=swap.number(2),
        swap_peak=swap.number(3),
        swap_failures=swap.number(4),
        kernel_limit=kernel.number(1),
        kernel_usage=kernel.number(2),
        kernel_peak=kernel.number(3),
        kernel_tcp_limit=tcp.number(1),
        kernel_tcp_usage=tcp.number(2),
        raw=_table(memory, _V1_MEMORY),
    )


def _v1_block(block: Fields) -> BlockStats:
    def entries(number: int) -> tuple[BlockEntry, ...]:
        return tuple(
            BlockEntry(
                major=one.number(3), minor=one.number(4), op=one.text(1), value=one.number(5)
            )
            for one in block.messages(number)
        )

    return BlockStats(
        service_bytes=entries(1),
        serviced=entries(2),
        queued=entries(3),
        service_time=entries(4),
        wait_time=entries(5),
        merged=entries(6),
        time=entries(7),
        sectors=entries(8),
    )


def _v2(metrics: Fields) -> Stats:
    pids, cpu = metrics.message(1), metrics.message(2)
    limit = pids.number(2)
    return Stats(
        cpu=CPUStats(
            total=cpu.number(1) * 1000,
            user=cpu.number(2) * 1000,
            kernel=cpu.number(3) * 1000,
            periods=cpu.number(4),
            throttled_periods=cpu.number(5),
            throttled_time=cpu.number(6) * 1000,
        ),
        memory=_v2_memory(metrics.message(4), metrics.message(8)),
        block=_v2_block(metrics.message(6)),
        hugetlb={
            one.text(3): HugetlbStats(
                usage=one.number(1), peak=one.number(2), failures=one.number(4)
            )
            for one in metrics.messages(7)
        },
        pids=pids.number(1),
        pids_limit=0 if limit == _UNLIMITED else limit,
    )


def _v2_memory(memory: Fields, events: Fields) -> MemoryStats:
    usage, limit = memory.number(32), memory.number(33)
    return MemoryStats(
        usage=usage,
        limit=limit,
        peak=memory.number(36),
        failures=events.number(3),
        cache=memory.number(2),
        # As v1 counts: memory and swap together.
        swap_usage=usage + memory.number(34),
        swap_limit=min(_UNLIMITED, limit + memory.number(35)),
        swap_peak=memory.number(37),
        kernel_usage=memory.number(4),
        oom_kills=events.number(5),
        raw=_table(memory, _V2_MEMORY),
    )


def _v2_block(io: Fields) -> BlockStats:
    found: dict[str, list[BlockEntry]] = {"service_bytes": [], "serviced": []}
    for entry in io.messages(1):
        for number, (kind, op) in _V2_BLOCK.items():
            found[kind].append(
                BlockEntry(
                    major=entry.number(1), minor=entry.number(2), op=op, value=entry.number(number)
                )
            )
    return BlockStats(
        service_bytes=tuple(found["service_bytes"]), serviced=tuple(found["serviced"])
    )


def _table(memory: Fields, names: tuple[str, ...]) -> Mapping[str, int]:
    return {name: memory.number(number) for number, name in enumerate(names, 1)}
