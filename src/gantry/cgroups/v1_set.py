"""Limits as cgroup v1 files, in the order in which the kernel accepts them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from itertools import groupby

from gantry.cgroups import files
from gantry.model.resources import (
    CPU,
    BlockIO,
    DeviceRule,
    Memory,
    Resources,
    ThrottleDevice,
    WeightDevice,
)


def needs(controller: str, resources: Resources) -> bool:
    """Whether `resources` say something that only `controller` can do."""
    cpu, network = resources.cpu, resources.network
    if controller == "cpuset":
        return cpu is not None and bool(cpu.cpus or cpu.mems)
    if controller == "hugetlb":
        return bool(resources.hugepage_limits)
    if controller == "net_cls":
        return network is not None and bool(network.class_id)
    if controller == "net_prio":
        return network is not None and bool(network.priorities)
    if controller == "rdma":
        return bool(resources.rdma)
    return False


def apply(folders: dict[str, str], resources: Resources) -> None:
    """Write every limit that is given. OSError names the file, or the missing controller."""
    if resources.unified:
        raise OSError(errno.EINVAL, "invalid configuration: cannot use unified on cgroup v1")
    if resources.devices:
        _devices(_need(folders, "devices"), resources.devices)
    if resources.memory is not None:
        _memory(folders, resources.memory)
    if resources.cpu is not None:
        _cpu(folders, resources.cpu)
        _cpuset(folders, resources.cpu)
    if resources.pids is not None and resources.pids.limit is not None:
        limit = resources.pids.limit
        files.write(_need(folders, "pids"), "pids.max", str(limit) if limit > 0 else "max")
    if resources.block_io is not None:
        _block_io(folders, resources.block_io)
    for huge in resources.hugepage_limits:
        folder = _need(folders, "hugetlb")
        files.write(folder, f"hugetlb.{huge.page_size}.limit_in_bytes", str(huge.limit))
        reservation = f"hugetlb.{huge.page_size}.rsvd.limit_in_bytes"
        if os.path.exists(f"{folder}/{reservation}"):
            files.write(folder, reservation, str(huge.limit))
    if resources.network is not None:
        if resources.network.class_id:
            value = str(resources.network.class_id)
            files.write(_need(folders, "net_cls"), "net_cls.classid", value)
        for entry in resources.network.priorities:
            text = f"{entry.name} {entry.priority}"
            files.write(_need(folders, "net_prio"), "net_prio.ifpriomap", text)
    for device, rdma in resources.rdma.items():
        handles = "max" if rdma.hca_handles is None else rdma.hca_handles
        objects = "max" if rdma.hca_objects is None else rdma.hca_objects
        text = f"{device} hca_handle={handles} hca_object={objects}"
        files.write(_need(folders, "rdma"), "rdma.max", text)


def _need(folders: dict[str, str], controller: str) -> str:
    folder = folders.get(controller)
    if folder is None:
        raise OSError(errno.ENOENT, f"the {controller} cgroup controller is not mounted")
    return folder


def device_line(rule: DeviceRule) -> str:
    """A rule as devices.allow and devices.deny take it ("c 1:3 rwm", "a")."""
    if rule.type in ("", "a"):
        return "a"
    major = "*" if rule.major is None or rule.major == -1 else str(rule.major)
    minor = "*" if rule.minor is None or rule.minor == -1 else str(rule.minor)
    return f"{rule.type} {major}:{minor} {rule.access or 'rwm'}"


def _devices(folder: str, rules: Iterable[DeviceRule]) -> None:
    # Rules are cumulative, and a whole list that begins with "deny all" is the same
    # written again: an update does not open a gap for longer than a write.
    for allow, some in groupby(rules, key=lambda rule: rule.allow):
        name = "devices.allow" if allow else "devices.deny"
        files.write_each(folder, name, [device_line(rule) for rule in some])


def _memory(folders: dict[str, str], memory: Memory) -> None:
    folder = _need(folders, "memory")
    limit, swap = memory.limit, memory.swap
    if memory.check_before_update and limit is not None and limit > 0:
        usage = files.number(folder, "memory.usage_in_bytes")
        if limit < usage:
            raise OSError(
                errno.EBUSY, f"new memory limit {limit} is lower than the usage {usage}", folder
            )
    if limit == -1 and swap is None:
        swap = -1  # a memory limit taken away takes the swap limit with it
    # The kernel keeps limit <= memsw limit at every moment: raise memsw first, lower it last.
    if limit is not None and swap is not None:
        current = files.number(folder, "memory.memsw.limit_in_bytes", 2**63)
        if swap == -1 or swap > current:
            _memsw(folder, swap)
            _limit(folder, limit)
        else:
            _limit(folder, limit)
            _memsw(folder, swap)
    elif limit is not None:
        _limit(folder, limit)
    elif swap is not None:
        _memsw(folder, swap)
    if memory.reservation is not None and memory.reservation != 0:
        files.write(folder, "memory.soft_limit_in_bytes", str(memory.reservation))
    if memory.kernel_tcp:
        files.write(folder, "memory.kmem.tcp.limit_in_bytes", str(memory.kernel_tcp))
    if memory.disable_oom_killer:
        files.write(folder, "memory.oom_control", "1")
    if memory.swappiness is not None:
        if memory.swappiness > 100:
            raise OSError(
                errno.EINVAL,
                f"invalid memory swappiness value: {memory.swappiness} (valid range is 0-100)",
            )
        files.write(folder, "memory.swappiness", str(memory.swappiness))


def _limit(folder: str, limit: int) -> None:
    if limit == 0:
        return  # Docker's and runc's "not set"
    try:
        files.write(folder, "memory.limit_in_bytes", str(limit))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        usage = files.number(folder, "memory.usage_in_bytes")
        peak = files.number(folder, "memory.max_usage_in_bytes")
        text = f"unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})"
        raise OSError(errno.EBUSY, text)


def _memsw(folder: str, swap: int) -> None:
    if swap == 0:
        return
    try:
        files.write(folder, "memory.memsw.limit_in_bytes", str(swap))
    except FileNotFoundError:
        # Swap accounting is off in this kernel: Docker warns, runc passes over -1.
        if swap != -1:
            raise


def _cpu(folders: dict[str, str], cpu: CPU) -> None:
    writes: list[tuple[str, str]] = []
    if cpu.idle is not None:
        writes.append(("cpu.idle", str(cpu.idle)))
    if cpu.shares:
        if cpu.shares < 2:
            raise OSError(errno.EINVAL, "the minimum allowed cpu-shares is 2")
        if cpu.shares > 262144:
            raise OSError(errno.EINVAL, "the maximum allowed cpu-shares is 262144")
        writes.append(("cpu.shares", str(cpu.shares)))
    # Real time: the period before the runtime, or the quotient is checked against the old one.
    if cpu.realtime_period:
        writes.append(("cpu.rt_period_us", str(cpu.realtime_period)))
    if cpu.realtime_runtime:
        writes.append(("cpu.rt_runtime_us", str(cpu.realtime_runtime)))
    if cpu.period:
        writes.append(("cpu.cfs_period_us", str(cpu.period)))
    if cpu.quota:
        writes.append(("cpu.cfs_quota_us", str(cpu.quota)))
    if cpu.burst is not None:
        writes.append(("cpu.cfs_burst_us", str(cpu.burst)))
    if not writes:
        return
    folder = _need(folders, "cpu")
    late: list[tuple[str, str]] = []
    for name, value in writes:
        try:
            files.write(folder, name, value)
        except OSError as error:
            # A period can be refused while the old quota stands: once more after it.
            again = {"cpu.cfs_period_us": cpu.quota, "cpu.rt_period_us": cpu.realtime_runtime}
            if error.errno != errno.EINVAL or not again.get(name):
                raise
            late.append((name, value))
    for name, value in late:
        files.write(folder, name, value)


def _cpuset(folders: dict[str, str], cpu: CPU) -> None:
    if cpu.cpus:
        files.write(_need(folders, "cpuset"), "cpuset.cpus", cpu.cpus)
    if cpu.mems:
        files.write(_need(folders, "cpuset"), "cpuset.mems", cpu.mems)


def inherit_cpuset(folder: str, mount_point: str) -> None:
    """Fill empty cpuset.cpus and .mems from the parent, downwards: empty ones take no task."""
    parent = os.path.dirname(folder)
    if folder == mount_point:
        return
    if parent != mount_point:
        inherit_cpuset(parent, mount_point)
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not files.read_or(folder, name).strip():
            files.write(folder, name, files.read(parent, name))


def _block_io(folders: dict[str, str], block: BlockIO) -> None:
    folder = folders.get("blkio", "")
    if block.weight:
        _weight(_need(folders, "blkio"), "weight", str(block.weight))
    if block.leaf_weight:
        _weight(_need(folders, "blkio"), "leaf_weight", str(block.leaf_weight))
    for weight in block.weight_device:
        _weight_device(_need(folders, "blkio"), weight)
    for name, limits in (
        ("read_bps_device", block.throttle_read_bps_device),
        ("write_bps_device", block.throttle_write_bps_device),
        ("read_iops_device", block.throttle_read_iops_device),
        ("write_iops_device", block.throttle_write_iops_device),
    ):
        for limit in limits:
            folder = folder or _need(folders, "blkio")
            files.write(folder, f"blkio.throttle.{name}", throttle_line(limit))


def _weight_device(folder: str, device: WeightDevice) -> None:
    if device.weight:
        _weight(folder, "weight_device", f"{device.major}:{device.minor} {device.weight}")
    if device.leaf_weight:
        text = f"{device.major}:{device.minor} {device.leaf_weight}"
        _weight(folder, "leaf_weight_device", text)


def _weight(folder: str, name: str, text: str) -> None:
    """The scheduler decides the file: CFQ's plain name, or BFQ's."""
    plain = f"blkio.{name}"
    files.write(folder, plain if os.path.exists(f"{folder}/{plain}") else f"blkio.bfq.{name}", text)


def throttle_line(limit: ThrottleDevice) -> str:
    """A limit as the throttle files take it; a rate of 0 takes the limit away."""
    return f"{limit.major}:{limit.minor} {limit.rate}"
