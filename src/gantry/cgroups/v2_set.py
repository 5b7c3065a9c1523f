"""Limits as cgroup v2 files, converted from the v1 terms that the spec speaks."""

from __future__ import annotations

import errno
import os
from math import ceil, log2

from gantry.cgroups import files
from gantry.model.resources import CPU, BlockIO, Memory, Resources


def apply(folder: str, resources: Resources) -> None:
    """Write every limit that is given; then `unified`, which beats them."""
    if resources.memory is not None:
        _memory(folder, resources.memory)
    if resources.cpu is not None:
        _cpu(folder, resources.cpu)
    if resources.pids is not None and resources.pids.limit is not None:
        limit = resources.pids.limit
        files.write(folder, "pids.max", str(limit) if limit > 0 else "max")
    if resources.block_io is not None:
        _io(folder, resources.block_io)
    for huge in resources.hugepage_limits:
        files.write(folder, f"hugetlb.{huge.page_size}.max", str(huge.limit))
        reservation = f"hugetlb.{huge.page_size}.rsvd.max"
        if os.path.exists(f"{folder}/{reservation}"):
            files.write(folder, reservation, str(huge.limit))
    if resources.network is not None and (
        resources.network.class_id or resources.network.priorities
    ):
        raise OSError(errno.EOPNOTSUPP, "net_cls and net_prio do not exist in cgroup v2")
    for device, rdma in resources.rdma.items():
        handles = "max" if rdma.hca_handles is None else rdma.hca_handles
        objects = "max" if rdma.hca_objects is None else rdma.hca_objects
        files.write(folder, "rdma.max", f"{device} hca_handle={handles} hca_object={objects}")
    for name, value in resources.unified.items():
        if "/" in name or "." not in name:
            raise OSError(
                errno.EINVAL, f'unified resource "{name}" must be a file name (no slashes)'
            )
        for line in value.splitlines() or [value]:
            try:
                files.write(folder, name, line)
            except FileNotFoundError:
                controller = name.partition(".")[0]
                raise OSError(
                    errno.ENOENT,
                    f'unified resource "{name}" can\'t be set: controller "{controller}" '
                    "not available",
                )


def number(value: int) -> str:
    """A limit as cgroup v2 writes it: -1 is "max"."""
    return "max" if value == -1 else str(value)


def swap_of(memory: Memory) -> str | None:
    """memory.swap.max from v1's memory-plus-swap; None: say nothing.

    Raises OSError EINVAL for a sum smaller than memory alone, as runc.
    """
    swap, limit = memory.swap, memory.limit
    if swap is None or swap == 0:
        # Memory unlimited again takes swap with it, as under v1.
        return "max" if limit == -1 and swap is None else None
    if swap == -1:
        return "max"
    if swap > 0 and (limit is None or limit in (0, -1)):
        raise OSError(errno.EINVAL, "unable to set swap limit without memory limit")
    assert limit is not None
    if swap < limit:
        raise OSError(errno.EINVAL, "memory+swap limit should be >= memory limit")
    return str(swap - limit)


def check_usage(folder: str, memory: Memory) -> None:
    """OSError EBUSY: the new limit is lower than what is in use, and that is not wanted."""
    limit = memory.limit
    if memory.check_before_update and limit is not None and limit > 0:
        usage = files.number(folder, "memory.current")
        if limit < usage:
            raise OSError(
                errno.EBUSY, f"new memory limit {limit} is lower than the usage {usage}", folder
            )


def _memory(folder: str, memory: Memory) -> None:
    check_usage(folder, memory)
    limit = memory.limit
    swap = swap_of(memory)
    # Without swap in the kernel there is nothing to limit, and "max" or 0 is what there is.
    absent = not os.path.exists(f"{folder}/memory.swap.max")
    if swap is not None and not (absent and swap in ("max", "0")):
        files.write(folder, "memory.swap.max", swap)
    if limit is not None and limit != 0:
        files.write(folder, "memory.max", number(limit))
    if memory.reservation is not None and memory.reservation != 0:
        files.write(folder, "memory.low", number(memory.reservation))


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1..10000, 100 is the default) from cpu.shares (2..262144, 1024).

    A curve through the three points that both scales share: the smallest, the default
    and the largest (crun's and runc's formula since 2025, kernel default to kernel default).
    """
    if shares == 0:
        return 0
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = log2(shares)
    exponent = (log * log + 125 * log) / 612.0 - 7.0 / 34.0
    return ceil(10**exponent)


def _cpu(folder: str, cpu: CPU) -> None:
    if cpu.realtime_period or cpu.realtime_runtime:
        raise OSError(errno.EOPNOTSUPP, "cpu.realtime limits do not exist in cgroup v2")
    if cpu.idle is not None:
        files.write(folder, "cpu.idle", str(cpu.idle))
    if cpu.shares and not cpu.idle:  # an idle group has no weight: the kernel refuses one
        files.write(folder, "cpu.weight", str(weight_of_shares(cpu.shares)))
    if cpu.quota or cpu.period:
        quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
        if cpu.quota is None and cpu.period:
            # Only the period changes: the quota that stands stays.
            quota = files.read_or(folder, "cpu.max", "max").split(" ")[0]
        text = f"{quota} {cpu.period}" if cpu.period else quota
        # A burst may not exceed the quota: when both shrink it has to go first.
        if cpu.burst is not None and files.number(folder, "cpu.max.burst") > cpu.burst:
            files.write(folder, "cpu.max.burst", str(cpu.burst))
        files.write(folder, "cpu.max", text)
    if cpu.burst is not None:
        files.write(folder, "cpu.max.burst", str(cpu.burst))
    if cpu.cpus:
        files.write(folder, "cpuset.cpus", cpu.cpus)
    if cpu.mems:
        files.write(folder, "cpuset.mems", cpu.mems)


def io_weight(weight: int) -> int:
    """io.weight (1..10000) from blkio.weight (10..1000), linearly, as runc."""
    return 0 if weight == 0 else 1 + (weight - 10) * 9999 // 990


def _io(folder: str, block: BlockIO) -> None:
    bfq = os.path.exists(f"{folder}/io.bfq.weight")
    if block.weight:
        if bfq:
            files.write(folder, "io.bfq.weight", str(block.weight))
        else:
            files.write(folder, "io.weight", f"default {io_weight(block.weight)}")
    for device in block.weight_device:
        if device.weight:
            text = f"{device.major}:{device.minor} "
            if bfq:
                files.write(folder, "io.bfq.weight", text + str(device.weight))
            else:
                files.write(folder, "io.weight", text + str(io_weight(device.weight)))
    for key, limits in (
        ("rbps", block.throttle_read_bps_device),
        ("wbps", block.throttle_write_bps_device),
        ("riops", block.throttle_read_iops_device),
        ("wiops", block.throttle_write_iops_device),
    ):
        for limit in limits:
            rate = "max" if limit.rate == 0 else str(limit.rate)
            files.write(folder, "io.max", f"{limit.major}:{limit.minor} {key}={rate}")
