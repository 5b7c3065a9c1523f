"""When and where a process runs: scheduler, I/O priority, affinity, personality, memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from gantry.kernel import syscalls
from gantry.oci.runtime_spec import IOPriority, Linux, MemoryPolicy, Process, Scheduler
from gantry.runtime.errors import RuntimeFailure, describe
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
MEMORY_MODES: Final[Mapping[str, int]] = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS: Final[Mapping[str, int]] = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}


_WITHOUT_NODES: Final = frozenset(("MPOL_DEFAULT", "MPOL_LOCAL"))
_WITH_NODES: Final = frozenset(
    ("MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE")
)


def apply(process: ProcessPlan) -> None:
    """Apply what the spec gives; each is left alone where it says nothing."""
    if process.scheduler is not None:
        _scheduler(process.scheduler)
    if process.io_priority is not None:
        syscalls.ioprio_set(_io_priority(process.io_priority))
    if process.personality is not None:
        syscalls.personality(process.personality)
    if process.memory_policy is not None:
        _memory_policy(process.memory_policy)


def _io_priority(priority: IOPriority) -> int:
    io_class = _IO_CLASSES.get(priority.class_)
    if io_class is None:
        raise RuntimeFailure(f'invalid ioPriority.Class: "{priority.class_}"')
    if not 0 <= priority.priority <= 7:
        raise RuntimeFailure(f"invalid ioPriority.Priority: {priority.priority}")
    return io_class << 13 | priority.priority


def _policy(scheduler: Scheduler) -> tuple[int, int]:
    policy = _POLICIES.get(scheduler.policy)
    if policy is None:
        raise RuntimeFailure(f"invalid scheduler policy: {scheduler.policy}")
    flags = 0
    for name in scheduler.flags:
        if name not in _FLAGS:
            raise RuntimeFailure(f"invalid scheduler flag: {name}")
        flags |= _FLAGS[name]
    return policy, flags


def _scheduler(scheduler: Scheduler) -> None:
    policy, flags = _policy(scheduler)
    try:
        syscalls.sched_setattr(
            policy=policy,
            flags=flags,
            nice=scheduler.nice,
            priority=scheduler.priority,
            runtime=scheduler.runtime,
            deadline=scheduler.deadline,
            period=scheduler.period,
        )
    except PermissionError as error:
        if scheduler.policy != "SCHED_DEADLINE":
            raise
        # sched_setattr(2): the affinity mask has to include all CPUs of the system.
        raise RuntimeFailure(
            f"process scheduler can't be used together with AllowedCPUs: {describe(error)}"
        )


def check(process: Process, linux: Linux) -> None:
    """What of a spec's scheduling makes no sense, found before anything is made."""
    if process.scheduler is not None:
        _check_scheduler(process.scheduler)
    if process.io_priority is not None:
        _io_priority(process.io_priority)
    if linux.memory_policy is not None:
        _memory_policy(linux.memory_policy, run=False)
    if process.exec_cpu_affinity is not None:
        for name in ("initial", "final"):
            text = getattr(process.exec_cpu_affinity, name)
            try:
                parse_list(text)
            except RuntimeFailure as error:
                raise RuntimeFailure(f"bad CPUAffinity.{name.capitalize()}: {error}")


def _check_scheduler(scheduler: Scheduler) -> None:
    policy = scheduler.policy
    if not policy:
        raise RuntimeFailure("scheduler policy is required")
    _policy(scheduler)
    if policy in ("SCHED_OTHER", "SCHED_BATCH") and not -20 <= scheduler.nice <= 19:
        raise RuntimeFailure(
            f"invalid scheduler.nice: {scheduler.nice} when scheduler.policy is {policy}"
        )
    if scheduler.priority and policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise RuntimeFailure(
            "scheduler.priority can only be specified for SchedFIFO or SchedRR policy"
        )
    deadline = scheduler.runtime or scheduler.deadline or scheduler.period
    if deadline and policy != "SCHED_DEADLINE":
        raise RuntimeFailure(
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy"
        )


def _memory_policy(policy: MemoryPolicy, *, run: bool = True) -> None:
    mode = MEMORY_MODES.get(policy.mode)
    if mode is None:
        raise RuntimeFailure(f'invalid memory policy mode "{policy.mode}"')
    for name in policy.flags:
        if name not in MEMORY_FLAGS:
            raise RuntimeFailure(f'invalid memory policy flag "{name}"')
        mode |= MEMORY_FLAGS[name]
    try:
        numbers = parse_list(policy.nodes)
    except RuntimeFailure:
        raise RuntimeFailure(f'invalid memory policy nodes "{policy.nodes}"')
    if policy.mode in _WITHOUT_NODES and numbers:
        raise RuntimeFailure(f"memory policy mode requires 0 nodes but got {len(numbers)}")
    if policy.mode in _WITH_NODES and not numbers:
        raise RuntimeFailure("memory policy mode requires at least one node but got 0")
    nodes = sum(1 << number for number in numbers)
    if not run:
        return
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
    """sched_setaffinity(2) from a CPU list."""
    os.sched_setaffinity(0, parse_list(text))


def affinity_mask() -> int:
    """The CPUs that this process may run on, a bit each."""
    return sum(1 << number for number in os.sched_getaffinity(0))


def reset_affinity() -> None:
    """All CPUs that the cgroup allows: the caller's own affinity is none of the container's.

    Best effort, as in runc: a seccomp filter of an outer container may forbid it.
    """
    try:
        os.sched_setaffinity(0, _EVERY_CPU)
    except OSError:
        return


_EVERY_CPU: Final = frozenset(range(max(1024, os.cpu_count() or 1)))
