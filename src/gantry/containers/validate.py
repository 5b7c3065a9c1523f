"""What of a create or update request makes no sense, with Docker's words.

moby daemon/container.go and daemon_unix.go (verifyContainerSettings). Pure, but for the
number of CPUs and what exists under /dev and in bind sources.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import posixpath
import re
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from gantry.containers import mountspec, portspec
from gantry.containers.settings import Settings
from gantry.containers.signals import parse_signal
from gantry.containers.spec import capabilities, devices
from gantry.model.container import (
    ContainerConfig,
    EndpointSettings,
    HealthConfig,
    HostConfig,
    PortMap,
    RestartPolicy,
)
from gantry.model.errors import InvalidParameter
from gantry.model.numbers import clamped

MIN_MEMORY: Final = 6 << 20
MAX_CPU: Final = 8192
_SPAN: Final = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


def config(value: ContainerConfig) -> ContainerConfig:
    """The same with its working directory cleaned. InvalidParameter."""
    if len(value.hostname.encode()) > 64:
        raise InvalidParameter(f'hostname "{value.hostname}" is too long (maximum 64 bytes)')
    if value.working_dir:
        if not value.working_dir.startswith("/"):
            raise InvalidParameter(
                f"the working directory '{value.working_dir}' is invalid, it needs to be an"
                " absolute path"
            )
        value = replace(value, working_dir=mountspec.clean(value.working_dir))
    if value.stop_signal is not UNSET and value.stop_signal:
        parse_signal(value.stop_signal)
    for entry in value.env or ():
        if not entry or entry.startswith("="):
            raise InvalidParameter(f"invalid environment variable: {entry}")
    if value.healthcheck is not UNSET and value.healthcheck is not None:
        _health(value.healthcheck)
    for port in value.exposed_ports if value.exposed_ports else ():
        _port(port)
    for target in value.volumes or ():
        if not target or mountspec.clean(target) == "/":
            raise InvalidParameter(f"invalid volume specification: '{target}'")
    return value


def _health(health: HealthConfig) -> None:
    for name, duration in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if duration != 0 and duration < 1_000_000:
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")


def host_config(host: HostConfig, settings: Settings) -> list[str]:
    """Warnings. InvalidParameter."""
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
    for spec in host.mounts if host.mounts else ():
        mountspec.check_mount(spec)
    for entry in host.extra_hosts or ():
        _extra_host(entry)
    for address in host.dns or ():
        _address(address)
    ports(host.port_bindings)
    restart_policy(host.restart_policy)
    capabilities.normalise(host.cap_add, "CapAdd")
    capabilities.normalise(host.cap_drop, "CapDrop")
    if host.isolation not in ("", "default"):
        raise InvalidParameter(f"invalid isolation '{host.isolation}' on linux")
    if host.annotations is not UNSET and host.annotations and "" in host.annotations:
        raise InvalidParameter(
            "invalid Annotations: the empty string is not permitted as an annotation key"
        )
    warnings = resources(host)
    _modes(host)
    if host.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidParameter(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    if host.network_mode == "host" and host.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    if host.cgroup_parent and settings.systemd_cgroup and not _slice(host.cgroup_parent):
        raise InvalidParameter(
            'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"'
        )
    if host.runtime:
        settings.runtime(host.runtime)
    devices.check_rules(host.device_cgroup_rules)
    devices.check_requests(host.device_requests)
    _ulimits(host)
    _sysctls(host)
    return warnings


def _slice(parent: str) -> bool:
    return len(parent) > 6 and parent.endswith(".slice")


def _extra_host(entry: str) -> None:
    name, equals, address = entry.partition("=")
    if not equals:
        name, colon, address = entry.partition(":")
        if not colon:
            raise InvalidParameter(f'bad format for add-host: "{entry}"')
    if not name or not address:
        raise InvalidParameter(f'bad format for add-host: "{entry}"')
    if address != "host-gateway":
        try:
            ipaddress.ip_address(address.strip("[]"))
        except ValueError:
            raise InvalidParameter(f'invalid IP address in add-host: "{address}"') from None


def ports(bindings: PortMap | None) -> None:
    """InvalidParameter for what is no port."""
    for port, pairs in (bindings or {}).items():
        protocol = port.partition("/")[2].lower() or "tcp"
        if _port(port) == 0 or protocol not in portspec.PROTOCOLS:
            raise InvalidParameter(f'invalid port specification: "{port}"')
        for pair in pairs or ():
            try:
                if pair.host_port:
                    portspec.span(pair.host_port)
            except ValueError:
                raise InvalidParameter(f'invalid port specification: "{pair.host_port}"') from None
            if pair.host_ip:
                _address(pair.host_ip)


def _port(text: str) -> int:
    """The number of a container's port. InvalidParameter with the text of Go's decoder."""
    try:
        return portspec.number(text.partition("/")[0])
    except ValueError as error:
        raise InvalidParameter(f"invalid JSON: {error}") from None


def restart_policy(policy: RestartPolicy) -> None:
    """InvalidParameter, moby api/types/container ValidateRestartPolicy."""
    count = policy.maximum_retry_count
    if policy.name in ("always", "unless-stopped", "no"):
        if count != 0:
            text = "invalid restart policy: maximum retry count can only be used with 'on-failure'"
            if count < 0:
                text += " and cannot be negative"
            raise InvalidParameter(text)
    elif policy.name == "on-failure":
        if count < 0:
            raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    elif policy.name:
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always',"
            " 'on-failure', or 'unless-stopped'"
        )


def _modes(host: HostConfig) -> None:
    ipc = host.ipc_mode
    if ipc not in ("", "none", "private", "shareable", "host") and not _of_container(ipc):
        raise InvalidParameter(f"invalid IPC mode: {ipc}")
    pid = host.pid_mode
    if pid not in ("", "private", "host") and not _of_container(pid):
        raise InvalidParameter(f"invalid PID mode: {pid}")
    if host.uts_mode not in ("", "private", "host"):
        raise InvalidParameter(f"invalid UTS mode: {host.uts_mode}")
    if host.cgroupns_mode not in ("", "private", "host"):
        raise InvalidParameter(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.userns_mode not in ("", "private", "host"):
        raise InvalidParameter(f"invalid userns mode: {host.userns_mode}")


def _of_container(mode: str) -> bool:
    head, _, name = mode.partition(":")
    return head == "container" and bool(name)


def _ulimits(host: HostConfig) -> None:
    for limit in host.ulimits or ():
        if limit.name not in ULIMITS:
            raise InvalidParameter(f"invalid ulimit type: {limit.name}")
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit:"
                f" {limit.soft} > {limit.hard}"
            )


ULIMITS: Final = frozenset(
    (
        *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice"),
        *("nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack", "as"),
    )
)


def _sysctls(host: HostConfig) -> None:
    for name in host.sysctls if host.sysctls else ():
        if name.startswith("net.") and host.network_mode == "host":
            raise InvalidParameter(f"sysctl '{name}' not allowed in host network namespace")


def resources(host: HostConfig, *, update: bool = False) -> list[str]:
    """Warnings. InvalidParameter for limits that cannot be."""
    warnings: list[str] = []
    _memory(host, warnings, update)
    _cpu(host, warnings)
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if host.io_maximum_bandwidth or host.io_maximum_i_ops:
        raise InvalidParameter(
            "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps"
        )
    return warnings


def _memory(host: HostConfig, warnings: list[str], update: bool) -> None:
    memory, swap, reservation = host.memory, host.memory_swap, host.memory_reservation
    if memory != 0 and memory < MIN_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if memory > 0 and 0 < swap < memory:
        raise InvalidParameter(
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        )
    if memory == 0 and swap > 0 and not update:
        raise InvalidParameter(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    swappiness = host.memory_swappiness
    if swappiness not in (None, -1) and not 0 <= (swappiness or 0) <= 100:
        raise InvalidParameter(
            f"Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )
    if 0 < reservation < MIN_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if 0 < memory < reservation:
        raise InvalidParameter(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )
    if host.oom_kill_disable and memory == 0:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can"
            " result in the system running out of resources."
        )


def _cpu(host: HostConfig, warnings: list[str]) -> None:
    if host.nano_cpus > 0 and host.cpu_period > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if host.nano_cpus > 0 and host.cpu_quota > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    count = cpus()
    if host.nano_cpus and not 0 < host.nano_cpus <= count * 1_000_000_000:
        raise InvalidParameter(
            f"Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
        )
    if host.cpu_shares < 0:
        raise InvalidParameter(
            f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer"
        )
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidParameter(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < host.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpu_percent > 0:
        warnings.append("linux does not support CPU percent. Percent discarded.")
    for field, text, what in (
        ("cpus", host.cpuset_cpus, "CPUs"),
        ("mems", host.cpuset_mems, "memory nodes"),
    ):
        if not text:
            continue
        try:
            wanted = _set(text)
        except ValueError as error:
            raise InvalidParameter(f"Invalid value {text} for cpuset {field}: {error}") from None
        available = online("cpu" if field == "cpus" else "node")
        if available and not wanted <= _set(available):
            raise InvalidParameter(
                f"Requested {what} are not available - requested {text}, available: {available}"
            )


def _set(text: str) -> set[int]:
    """A list as of cpuset(7) ("0-2,5"). ValueError in the words of moby pkg/sysinfo."""
    result: set[int] = set()
    for part in text.split(","):
        match = _SPAN.fullmatch(part)
        first, last = (clamped(match[1]), clamped(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ValueError(f"invalid format: {text}")
        if last > MAX_CPU:
            raise ValueError(f"value of out range, maximum is {MAX_CPU}")
        result.update(range(first, last + 1))
    return result


@functools.cache
def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def online(kind: str) -> str:
    """The machine's CPUs or memory nodes, as cpuset(7) writes lists."""
    path = posixpath.join("/sys/devices/system", kind, "online")
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "0" if kind == "node" else ""


def addresses(settings: EndpointSettings) -> None:
    """An endpoint's addresses are ones. InvalidParameter with the text of Go's decoder."""
    ipam = settings.ipam_config
    if ipam is None:
        return
    for text in (ipam.ipv4_address, ipam.ipv6_address, *(ipam.link_local_i_ps or ())):
        if text:
            _address(text)


def _address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise InvalidParameter(f'invalid JSON: ParseAddr("{text}"): unable to parse IP') from None
