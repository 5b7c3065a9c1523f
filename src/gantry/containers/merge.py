"""A container's configuration completed: from the image, and from the daemon's defaults."""

from __future__ import annotations

import functools
import glob

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from gantry.containers.settings import Settings
from gantry.model.container import (
    ContainerConfig,
    HealthConfig,
    HostConfig,
    LogConfig,
    RestartPolicy,
)
from gantry.model.errors import InvalidParameter
from gantry.model.image import ImageConfig

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@functools.cache
def _thermal() -> tuple[str, ...]:
    """How hot each processor is tells what others compute (GHSA-6fw5-f8r9-fgfm)."""
    return tuple(sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")))


def with_image(config: ContainerConfig, image: ImageConfig) -> ContainerConfig:
    """What the user left out comes from the image (moby daemon/commit.go, merge)."""
    changes: dict[str, object] = {}
    if not config.user and image.user:
        changes["user"] = image.user
    if image.exposed_ports:
        changes["exposed_ports"] = {**image.exposed_ports, **(config.exposed_ports or {})}
    if image.env:
        changes["env"] = _environment(config.env or [], image.env)
    if image.labels:
        changes["labels"] = {**image.labels, **config.labels}
    entrypoint = config.entrypoint
    if not entrypoint:
        if not config.cmd:
            changes["cmd"] = image.cmd
        if entrypoint is None:
            changes["entrypoint"] = image.entrypoint
    elif entrypoint == [""]:
        changes["entrypoint"] = None
    health = _health(config.healthcheck, image.healthcheck)
    if health is not None:
        changes["healthcheck"] = health
    if not config.volumes:
        changes["volumes"] = None
    if not config.working_dir and image.working_dir:
        changes["working_dir"] = image.working_dir
    if image.volumes:
        changes["volumes"] = {**image.volumes, **(config.volumes or {})}
    if not config.stop_signal and image.stop_signal:
        changes["stop_signal"] = image.stop_signal
    if not config.shell and image.shell:
        changes["shell"] = image.shell
    if image.on_build and not config.on_build:
        changes["on_build"] = image.on_build
    return replace(config, **changes) if changes else config


def _environment(own: list[str], inherited: list[str]) -> list[str]:
    known = {entry.partition("=")[0] for entry in own}
    return [*own, *(e for e in inherited if e.partition("=")[0] not in known)]


def _health(
    own: HealthConfig | msgspec.UnsetType, inherited: HealthConfig | None
) -> HealthConfig | None:
    if inherited is None:
        return None
    if own is UNSET or own is None:
        return inherited
    return HealthConfig(
        test=own.test or inherited.test,
        interval=own.interval or inherited.interval,
        timeout=own.timeout or inherited.timeout,
        start_period=own.start_period or inherited.start_period,
        start_interval=own.start_interval or inherited.start_interval,
        retries=own.retries or inherited.retries,
    )


def with_defaults(host: HostConfig, settings: Settings, *, tty: bool) -> HostConfig:
    """What Docker fills in at create (moby adaptContainerSettings and its neighbours)."""
    changes: dict[str, object] = {}
    if host.memory > 0 and host.memory_swap == 0:
        changes["memory_swap"] = host.memory * 2
    if host.shm_size == 0:
        changes["shm_size"] = settings.default_shm_size
    if not host.ipc_mode:
        changes["ipc_mode"] = settings.default_ipc_mode
    if not host.cgroupns_mode:
        changes["cgroupns_mode"] = _cgroupns(host, settings)
    if host.network_mode in ("", "default"):
        changes["network_mode"] = "bridge"
    if not host.restart_policy.name:
        changes["restart_policy"] = RestartPolicy(
            name="no", maximum_retry_count=host.restart_policy.maximum_retry_count
        )
    if not host.log_config.type:
        changes["log_config"] = LogConfig(
            type=settings.log_driver, config={**settings.log_opts, **host.log_config.config}
        )
    if not host.runtime:
        changes["runtime"] = settings.default_runtime
    if host.pids_limit is not None and host.pids_limit <= 0:
        changes["pids_limit"] = None if host.pids_limit == 0 else -1
    if host.oom_kill_disable is None and settings.cgroup_version == 1:
        changes["oom_kill_disable"] = False
    if host.memory_swappiness == -1:
        changes["memory_swappiness"] = None
    options = host.security_opt
    unmasked = host.privileged
    if options and "systempaths=unconfined" in options:
        unmasked = True
        changes["security_opt"] = [o for o in options if o != "systempaths=unconfined"]
    if unmasked:
        if host.masked_paths is None:
            changes["masked_paths"] = [] if not host.privileged else None
        if host.readonly_paths is None:
            changes["readonly_paths"] = [] if not host.privileged else None
    else:
        if host.masked_paths is None:
            changes["masked_paths"] = [*MASKED, *_thermal()]
        if host.readonly_paths is None:
            changes["readonly_paths"] = list(READ_ONLY)
    return replace(host, **changes) if changes else host


def _cgroupns(host: HostConfig, settings: Settings) -> str:
    if settings.default_cgroupns_mode:
        return (
            "host"
            if host.privileged and settings.cgroup_version == 1
            else (settings.default_cgroupns_mode)
        )
    return "host" if settings.cgroup_version == 1 or host.privileged else "private"


def command(config: ContainerConfig) -> tuple[str, list[str]]:
    """(path, args) of what runs. InvalidParameter "no command specified"."""
    argv = [*(config.entrypoint or ()), *(config.cmd or ())]
    if not argv:
        raise InvalidParameter("no command specified")
    return argv[0], argv[1:]
