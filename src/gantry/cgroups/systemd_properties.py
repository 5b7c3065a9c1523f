"""A container's limits as properties of a systemd unit (systemd.resource-control(5)).

What systemd has no property for is left to the files of the cgroup.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from gantry.cgroups.dbus import Value, Variant
from gantry.cgroups.systemd_manager import Property
from gantry.cgroups.v2_set import swap_of, weight_of_shares
from gantry.model.resources import CPU, DeviceRule, Memory, Resources

INFINITY: Final = 2**64 - 1
_PERIOD: Final = 100_000
# The versions of systemd that brought a property.
_QUOTA_PERIOD: Final = 242
_CPUSET: Final = 244
_CPU_IDLE: Final = 252
_OOM_POLICY: Final = 253


def limits(
    resources: Resources, *, unified: bool, version: Callable[[], int]
) -> tuple[Property, ...]:
    """The limits that systemd knows. OSError EINVAL: a value that makes no sense."""
    found = [
        *_memory(resources.memory or Memory(), unified),
        *_cpu(resources.cpu or CPU(), unified, version),
    ]
    if resources.pids is not None and resources.pids.limit is not None:
        limit = resources.pids.limit
        # 0 is unlimited here, and systemd would refuse it anyway.
        found.append(_number("TasksMax", limit if limit > 0 else INFINITY))
    if not unified and resources.block_io is not None and resources.block_io.weight:
        found.append(_number("BlockIOWeight", resources.block_io.weight))
    if unified:
        found += _raw(resources.unified, version)
    return tuple(dict(found).items())  # the last word on each name counts


def _number(name: str, value: int) -> Property:
    return name, Variant("t", value)


def _bytes(value: int) -> int:
    return INFINITY if value == -1 else value


def _memory(memory: Memory, unified: bool) -> Iterator[Property]:
    if memory.limit:
        yield _number("MemoryMax" if unified else "MemoryLimit", _bytes(memory.limit))
    if unified:
        if memory.reservation:
            yield _number("MemoryLow", _bytes(memory.reservation))
        swap = swap_of(memory)
        if swap is not None:
            yield _number("MemorySwapMax", INFINITY if swap == "max" else int(swap))


def _cpu(cpu: CPU, unified: bool, version: Callable[[], int]) -> Iterator[Property]:
    if unified and cpu.idle == 1 and version() >= _CPU_IDLE:
        yield _number("CPUWeight", 0)  # that is how systemd calls it
    elif cpu.shares:
        weight = weight_of_shares(cpu.shares)
        yield _number("CPUWeight", weight) if unified else _number("CPUShares", cpu.shares)
    yield from _quota(cpu.quota, cpu.period, version)
    if (cpu.cpus or cpu.mems) and version() >= _CPUSET:
        if cpu.cpus:
            yield "AllowedCPUs", Variant("ay", bits_of(cpu.cpus))
        if cpu.mems:
            yield "AllowedMemoryNodes", Variant("ay", bits_of(cpu.mems))


def _quota(quota: int | None, period: int | None, version: Callable[[], int]) -> Iterator[Property]:
    if period and version() >= _QUOTA_PERIOD:
        yield _number("CPUQuotaPeriodUSec", period)
    if quota or period:
        yield _number("CPUQuotaPerSecUSec", quota_per_second(quota or -1, period))


def quota_per_second(quota: int, period: int | None) -> int:
    """systemd's quota in microseconds a second, rounded up to its 10 ms steps (as runc)."""
    if quota < 0:
        return INFINITY
    exact = quota * 1_000_000 // (period or _PERIOD)
    return -(-exact // 10_000) * 10_000


def rounded_quota(quota: int, period: int | None) -> int:
    """The quota that systemd will write for this one: what the file should say as well."""
    per_second = quota_per_second(quota, period)
    return quota if per_second == INFINITY else per_second * (period or _PERIOD) // 1_000_000


def bits_of(text: str) -> list[int]:
    """A list of numbers ("0-2,5") as bytes of a bit mask, lowest first. OSError EINVAL."""
    mask = 0
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            if not first and not dash:
                continue
            start, end = int(first), int(last if dash else first)
            if not 0 <= start <= end < 65536:
                raise ValueError(part)
            mask |= ((1 << (end - start + 1)) - 1) << start
        if not mask:
            raise ValueError(text)
    except ValueError:
        raise OSError(errno.EINVAL, f'invalid cpuset "{text}"')
    return list(mask.to_bytes((mask.bit_length() + 7) // 8, "little"))


_AMOUNTS: Final = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}


def _raw(files: Mapping[str, str], version: Callable[[], int]) -> list[Property]:
    """The raw files of cgroup v2 that systemd has a property for."""
    found: list[Property] = []
    for name, text in files.items():
        words = text.split()
        try:
            if name in _AMOUNTS:
                number = INFINITY if text.strip() == "max" else int(text)
                found.append(_number(_AMOUNTS[name], number or (name == "pids.max")))
            elif name == "cpu.weight":
                found.append(_number("CPUWeight", int(text)))
            elif name == "cpu.idle" and text.strip() == "1" and version() >= _CPU_IDLE:
                found.append(_number("CPUWeight", 0))
            elif name == "cpu.max" and 1 <= len(words) <= 2:
                quota = -1 if words[0] == "max" else int(words[0])
                period = int(words[1]) if len(words) == 2 else _PERIOD
                found += _quota(quota, period, version)
            elif name in ("cpuset.cpus", "cpuset.mems") and version() >= _CPUSET:
                key = "AllowedCPUs" if name == "cpuset.cpus" else "AllowedMemoryNodes"
                found.append((key, Variant("ay", bits_of(text))))
        except ValueError:
            raise OSError(errno.EINVAL, f'unified resource "{name}" value invalid: "{text}"')
    return found


def oom_policy(resources: Resources, version: Callable[[], int]) -> Iterator[Property]:
    """memory.oom.group, which systemd takes at the start of a unit only."""
    group = resources.unified.get("memory.oom.group", "").strip()
    if group in ("0", "1") and version() >= _OOM_POLICY:
        yield "OOMPolicy", Variant("s", "kill" if group == "1" else "continue")


def devices(rules: Sequence[DeviceRule]) -> tuple[Property, ...]:
    """The device list, for whenever systemd writes its own idea of it again (reload).

    systemd knows lists of what is allowed only. A list that denies something in particular
    becomes one that denies all; the cgroup's own filter, made right after, is exact.
    """
    start = 0
    for index, rule in enumerate(rules):
        if rule.type in ("", "a"):
            start = index + 1
    if not rules or (start and rules[start - 1].allow and start == len(rules)):
        return _policy("auto", [])
    listed = rules[start:]
    if start == 0 or rules[start - 1].allow or not all(rule.allow for rule in listed):
        return _policy("strict", [])
    allowed: list[Value] = []
    for rule in listed:
        path = _device_path(rule)
        if path:
            allowed.append([path, rule.access or "rwm"])
    return _policy("strict", allowed)


def _policy(policy: str, allowed: list[Value]) -> tuple[Property, ...]:
    # An empty list takes away what was there; a second one would add to it.
    return (
        ("DevicePolicy", Variant("s", policy)),
        ("DeviceAllow", Variant("a(ss)", [])),
        ("DeviceAllow", Variant("a(ss)", allowed)),
    )


def _device_path(rule: DeviceRule) -> str:
    """systemd's name of a device or of many; "" for what it has no name for ("*:5")."""
    kind = "block" if rule.type == "b" else "char"
    any_major = rule.major is None or rule.major < 0
    any_minor = rule.minor is None or rule.minor < 0
    if any_major:
        return f"{kind}-*" if any_minor else ""
    return f"{kind}-{rule.major}" if any_minor else f"/dev/{kind}/{rule.major}:{rule.minor}"
