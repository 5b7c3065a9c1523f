"""`linux.resources` of a HostConfig: what the container's cgroup limits."""

from __future__ import annotations

from typing import Any

from gantry.containers.spec import devices
from gantry.model.container import HostConfig, ThrottleDevice

Json = dict[str, Any]


def of(host: HostConfig, rules: list[Json] | None) -> Json:
    """rules: the devices' cgroup rules, None to leave them alone (update)."""
    result: Json = {}
    if rules is not None:
        result["devices"] = rules
    memory = _memory(host)
    if memory:
        result["memory"] = memory
    cpu = _cpu(host)
    if cpu:
        result["cpu"] = cpu
    if host.pids_limit is not None:
        result["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}
    block = _block(host)
    if block:
        result["blockIO"] = block
    return result


def _memory(host: HostConfig) -> Json:
    memory: Json = {}
    if host.memory > 0:
        memory["limit"] = host.memory
    if host.memory_reservation > 0:
        memory["reservation"] = host.memory_reservation
    if host.memory_swap:
        memory["swap"] = host.memory_swap
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    return memory


def _cpu(host: HostConfig) -> Json:
    cpu: Json = {}
    if host.cpu_shares:
        cpu["shares"] = host.cpu_shares
    if host.nano_cpus > 0:
        # moby: period 100 ms, the quota follows.
        cpu["period"] = 100_000
        cpu["quota"] = host.nano_cpus * 100_000 // 1_000_000_000
    if host.cpu_period:
        cpu["period"] = host.cpu_period
    if host.cpu_quota:
        cpu["quota"] = host.cpu_quota
    if host.cpu_realtime_period:
        cpu["realtimePeriod"] = host.cpu_realtime_period
    if host.cpu_realtime_runtime:
        cpu["realtimeRuntime"] = host.cpu_realtime_runtime
    if host.cpuset_cpus:
        cpu["cpus"] = host.cpuset_cpus
    if host.cpuset_mems:
        cpu["mems"] = host.cpuset_mems
    return cpu


def _block(host: HostConfig) -> Json:
    block: Json = {}
    if host.blkio_weight:
        block["weight"] = host.blkio_weight
    if host.blkio_weight_device:
        block["weightDevice"] = [
            {**_number(each.path), "weight": each.weight} for each in host.blkio_weight_device
        ]
    throttles = {
        "throttleReadBpsDevice": host.blkio_device_read_bps,
        "throttleWriteBpsDevice": host.blkio_device_write_bps,
        "throttleReadIOPSDevice": host.blkio_device_read_i_ops,
        "throttleWriteIOPSDevice": host.blkio_device_write_i_ops,
    }
    for key, limits in throttles.items():
        if limits:
            block[key] = [_throttle(limit) for limit in limits]
    return block


def _throttle(limit: ThrottleDevice) -> Json:
    return {**_number(limit.path), "rate": limit.rate}


def _number(path: str) -> Json:
    major, minor = devices.number(path)
    return {"major": major, "minor": minor}
