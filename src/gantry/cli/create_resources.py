"""Limits, devices, ulimits: what `run` and `create` say of a share of the machine."""

from __future__ import annotations

import os

from gantry.cli import units
from gantry.cli.flags import Options

Json = dict[str, object]


def resources(options: Options) -> Json:
    swappiness = options.number("memory-swappiness")
    if swappiness != -1 and not 0 <= swappiness <= 100:
        raise ValueError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    resources: Json = {
        "CpuShares": options.number("cpu-shares"),
        "Memory": options.number("memory"),
        "NanoCpus": options.number("cpus"),
        "CgroupParent": options.text("cgroup-parent"),
        "BlkioWeight": options.number("blkio-weight"),
        "BlkioWeightDevice": [
            _weighted(text, "Weight") for text in options.many("blkio-weight-device")
        ],
        "CpuPeriod": options.number("cpu-period"),
        "CpuQuota": options.number("cpu-quota"),
        "CpuRealtimePeriod": options.number("cpu-rt-period"),
        "CpuRealtimeRuntime": options.number("cpu-rt-runtime"),
        "CpusetCpus": options.text("cpuset-cpus"),
        "CpusetMems": options.text("cpuset-mems"),
        "Devices": [_device(text) for text in options.many("device")],
        "DeviceCgroupRules": options.many("device-cgroup-rule") or None,
        "DeviceRequests": _gpus(options.text("gpus")),
        "MemoryReservation": options.number("memory-reservation"),
        "MemorySwap": options.number("memory-swap"),
        "MemorySwappiness": swappiness,
        "OomKillDisable": options.on("oom-kill-disable"),
        "PidsLimit": options.number("pids-limit"),
        "Ulimits": [_ulimit(text) for text in options.many("ulimit")],
    }
    for flag, key in (
        ("device-read-bps", "BlkioDeviceReadBps"),
        ("device-write-bps", "BlkioDeviceWriteBps"),
        ("device-read-iops", "BlkioDeviceReadIOps"),
        ("device-write-iops", "BlkioDeviceWriteIOps"),
    ):
        resources[key] = [_weighted(text, "Rate") for text in options.many(flag)]
    return resources


def _weighted(text: str, key: str) -> Json:
    path, _, value = text.partition(":")
    if not value:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    try:
        return {"Path": path, key: units.parse_bytes(value)}
    except ValueError:
        raise ValueError(f"invalid rate for device: {text}") from None


def _device(text: str) -> Json:
    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise ValueError(f"bad format for path: {text}")
    source, target, rights = parts[0], "", "rwm"
    if len(parts) == 2 and parts[1] and set(parts[1]) <= set("rwm"):
        rights = parts[1]
    elif len(parts) >= 2:
        target = parts[1]
    if len(parts) == 3:
        rights = parts[2]
        if not rights or not set(rights) <= set("rwm"):
            raise ValueError(f"bad mode specified: {rights}")
    target = target or source
    if not os.path.isabs(target):
        raise ValueError(f"{target} is not an absolute path")
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": rights}


def _gpus(text: str) -> list[Json] | None:
    if not text:
        return None
    request: Json = {"Driver": "", "Count": 0, "Capabilities": [["gpu"]]}
    for item in text.split(","):
        key, _, value = item.partition("=")
        if key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "driver":
            request["Driver"] = value
        elif key == "all" or value == "all":
            request["Count"] = -1
        elif (value or key).isdigit():
            request["Count"] = int(value or key)
        else:
            raise ValueError(f"invalid GPU request: {text}")
    return [request]


def _ulimit(text: str) -> Json:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    soft, _, hard = value.partition(":")
    try:
        low = int(soft)
        high = int(hard) if hard else low
    except ValueError:
        raise ValueError(f"invalid ulimit argument: {text}") from None
    if high != -1 and (low == -1 or low > high):
        raise ValueError(
            f"ulimit soft limit must be less than or equal to hard limit: {low} > {high}"
        )
    return {"Name": name, "Soft": low, "Hard": high}
