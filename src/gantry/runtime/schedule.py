"""When and where a process runs: scheduler, I/O priority, affinity, personality, memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from gantry.kernel import syscalls
from gantry.oci.runtime_spec import MemoryPolicy, Scheduler
from gantry.runtime.errors import RuntimeFailure
from gantry.runtime.plan import ProcessPlan

_POLICIES: Final[Mapping[str, int]] = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_FLAGS: Final[Mapping[str, int]] = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IO_CLASSES: Final[Mapping[str, int]] = {
    "IOPRIO_CLASS_RT": 1,
    "IOPRIO_CLASS_BE": 2,
    "IOPRIO_CLASS_IDLE": 3,
}
_MEMORY_MODES: Final[Mapping[str, int]] = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
_MEMORY_FLAGS: Final[Mapping[str, int]] = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}


def apply(process: ProcessPlan) -> None:
    """Apply what the spec gives; each is left alone where it says nothing."""
    if process.scheduler is not None:
        _scheduler(process.scheduler)
    if process.io_priority is not None:
        io_class = _IO_CLASSES.get(process.io_priority.class_)
        if io_class is None:
            raise RuntimeFailure(f"invalid ioPriority.class {process.io_priority.class_}")
        if not 0 <= process.io_priority.priority <= 7:
            raise RuntimeFailure("ioPriority.priority must be between 0 and 7")
        syscalls.ioprio_set(io_class << 13 | process.io_priority.priority)
    if process.personality is not None:
        syscalls.personality(process.personality)
    if process.memory_policy is not None:
        _memory_policy(process.memory_policy)


def _scheduler(scheduler: Scheduler) -> None:
    policy = _POLICIES.get(scheduler.policy)
    if policy is None:
        raise RuntimeFailure(f"invalid scheduler policy: {scheduler.policy}")
    flags = 0
    for name in scheduler.flags:
        if name not in _FLAGS:
            raise RuntimeFailure(f"invalid scheduler flag: {name}")
        flags |= _FLAGS[name]
    syscalls.sched_setattr(
        policy=policy,
        flags=flags,
        nice=scheduler.nice,
        priority=scheduler.priority,
        runtime=scheduler.runtime,
        deadline=scheduler.deadline,
        period=scheduler.period,
    )


def _memory_policy(policy: MemoryPolicy) -> None:
    mode = _MEMORY_MODES.get(policy.mode)
    if mode is None:
        raise RuntimeFailure(f"invalid memory policy mode: {policy.mode}")
    for name in policy.flags:
        if name not in _MEMORY_FLAGS:
            raise RuntimeFailure(f"invalid memory policy flag: {name}")
        mode |= _MEMORY_FLAGS[name]
    nodes = 0
    for number in parse_list(policy.nodes):
        nodes |= 1 << number
    syscalls.set_mempolicy(mode, nodes)


def parse_list(text: str) -> frozenset[int]:
    """A list of CPUs or nodes as the kernel writes it ("0-3,7"). RuntimeFailure: it is none."""
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low and not dash:
            continue
        try:
            first, last = int(low), int(high) if dash else int(low)
        except ValueError:
            raise RuntimeFailure(f"invalid list of numbers: {text!r}")
        if not 0 <= first <= last < 4096:
            raise RuntimeFailure(f"invalid list of numbers: {text!r}")
        found.update(range(first, last + 1))
    return frozenset(found)


def set_affinity(text: str) -> None:
    """sched_setaffinity(2) from a CPU list; "" leaves it."""
    if text:
        os.sched_setaffinity(0, parse_list(text))
