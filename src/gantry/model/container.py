"""A container's configuration, as the user gave it, in the shape of the latest Engine API.

The JSON names are the API's own (moby `api/swagger.yaml`: ContainerConfig, HostConfig,
NetworkingConfig), so a value is stored, sent and received without translation; `api`
alone knows how older versions differ. UNSET marks fields that Docker omits when empty.
Sizes are bytes, times are nanoseconds where Docker's are (healthcheck, NanoCpus).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType, field

StrMap = dict[str, str]
Unsigned = Annotated[int, msgspec.Meta(ge=0)]


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of values with Docker's PascalCase JSON names."""


class HealthConfig(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """Durations in nanoseconds; test: [] inherit, ["NONE"], ["CMD", ...], ["CMD-SHELL", line]."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(Wire, frozen=True, kw_only=True):
    """What is portable of a container: it is the image's config too."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, str]] | UnsetType = UNSET
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: HealthConfig | UnsetType = UNSET
    args_escaped: bool | UnsetType = UNSET
    image: str = ""
    volumes: dict[str, dict[str, str]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool | UnsetType = UNSET
    mac_address: str | UnsetType = UNSET
    on_build: list[str] | UnsetType | None = UNSET
    labels: StrMap = field(default_factory=dict)
    stop_signal: str | UnsetType = UNSET
    stop_timeout: int | UnsetType = UNSET
    shell: list[str] | UnsetType = UNSET


class PortBinding(Wire, frozen=True, kw_only=True):
    host_ip: str = ""
    host_port: str = ""


PortMap = dict[str, list[PortBinding] | None]


class RestartPolicy(Wire, frozen=True, kw_only=True):
    """name: "", "no", "always", "unless-stopped", "on-failure"."""

    name: str = "no"
    maximum_retry_count: int = 0


class LogConfig(Wire, frozen=True, kw_only=True):
    type: str = ""
    config: StrMap = field(default_factory=dict)


class DeviceMapping(Wire, frozen=True, kw_only=True):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Wire, frozen=True, kw_only=True):
    driver: str = ""
    count: int = 0
    device_i_ds: list[str] | None = field(default=None, name="DeviceIDs")
    capabilities: list[list[str]] | None = None
    options: StrMap | None = None


class WeightDevice(Wire, frozen=True, kw_only=True):
    path: str = ""
    weight: Unsigned = 0


class ThrottleDevice(Wire, frozen=True, kw_only=True):
    path: str = ""
    rate: Unsigned = 0


class Ulimit(Wire, frozen=True, kw_only=True):
    name: str = ""
    soft: int = 0
    hard: int = 0


class BindOptions(Wire, frozen=True, kw_only=True, omit_defaults=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(Wire, frozen=True, kw_only=True, omit_defaults=True):
    name: str = ""
    options: StrMap | None = None


class VolumeOptions(Wire, frozen=True, kw_only=True, omit_defaults=True):
    no_copy: bool = False
    labels: StrMap | None = None
    driver_config: DriverConfig | None = None
    subpath: str = ""


class ImageOptions(Wire, frozen=True, kw_only=True, omit_defaults=True):
    subpath: str = ""


class TmpfsOptions(Wire, frozen=True, kw_only=True, omit_defaults=True):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class MountSpec(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """HostConfig.Mounts: type is bind, volume, tmpfs, image, npipe or cluster."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class HostConfig(Wire, frozen=True, kw_only=True):
    """What depends on the host: resources, network, mounts, security."""

    binds: list[str] | None = None
    container_id_file: str = field(default="", name="ContainerIDFile")
    log_config: LogConfig = field(default_factory=LogConfig)
    network_mode: str = "default"
    port_bindings: PortMap | None = None
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: list[Unsigned] = field(default_factory=lambda: [0, 0])
    annotations: StrMap | UnsetType = UNSET
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: StrMap | UnsetType = UNSET
    tmpfs: StrMap | UnsetType = UNSET
    uts_mode: str = field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: StrMap | UnsetType = UNSET
    runtime: str = ""
    isolation: str = ""
    # Resources, inline as in Docker's JSON
    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: Unsigned = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_i_ops: list[ThrottleDevice] | None = field(
        default=None, name="BlkioDeviceReadIOps"
    )
    blkio_device_write_i_ops: list[ThrottleDevice] | None = field(
        default=None, name="BlkioDeviceWriteIOps"
    )
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_i_ops: int = field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: int = field(default=0, name="IOMaximumBandwidth")
    mounts: list[MountSpec] | UnsetType = UNSET
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | UnsetType | None = UNSET


class IPAMConfig(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """An endpoint's requested addresses."""

    ipv4_address: str = field(default="", name="IPv4Address")
    ipv6_address: str = field(default="", name="IPv6Address")
    link_local_i_ps: list[str] | None = field(default=None, name="LinkLocalIPs")


class EndpointSettings(Wire, frozen=True, kw_only=True):
    """One attachment to a network: asked for, and as it is while running."""

    ipam_config: IPAMConfig | None = field(default=None, name="IPAMConfig")
    links: list[str] | None = None
    aliases: list[str] | None = None
    driver_opts: StrMap | None = None
    gw_priority: int = 0
    network_id: str = field(default="", name="NetworkID")
    endpoint_id: str = field(default="", name="EndpointID")
    gateway: str = ""
    ip_address: str = field(default="", name="IPAddress")
    mac_address: str = ""
    ip_prefix_len: int = field(default=0, name="IPPrefixLen")
    ipv6_gateway: str = field(default="", name="IPv6Gateway")
    global_ipv6_address: str = field(default="", name="GlobalIPv6Address")
    global_ipv6_prefix_len: int = field(default=0, name="GlobalIPv6PrefixLen")
    dns_names: list[str] | None = field(default=None, name="DNSNames")


class NetworkingConfig(Wire, frozen=True, kw_only=True):
    endpoints_config: dict[str, EndpointSettings | None] | None = None


class CreateRequest(Wire, frozen=True, kw_only=True):
    """POST /containers/create after the API's version translation.

    platform: "" or os[/arch[/variant]] of the query.
    shallow_read_only: read-only binds of HostConfig.Binds leave what is mounted below alone.
    """

    name: str = ""
    platform: str = ""
    config: ContainerConfig = field(default_factory=ContainerConfig)
    host_config: HostConfig = field(default_factory=HostConfig)
    networking_config: NetworkingConfig = field(default_factory=NetworkingConfig)
    shallow_read_only: bool = False


class CreateResponse(Wire, frozen=True, kw_only=True):
    id: str
    warnings: list[str] = field(default_factory=list)


class HealthLog(Wire, frozen=True, kw_only=True):
    start: str
    end: str
    exit_code: int
    output: str


class Health(Wire, frozen=True, kw_only=True):
    status: str
    failing_streak: int = 0
    log: list[HealthLog] = field(default_factory=list)


class ContainerState(Wire, frozen=True, kw_only=True):
    """What happened so far. Times RFC 3339 with nanoseconds, year 1 for never."""

    status: str = "created"
    running: bool = False
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = field(default=False, name="OOMKilled")
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = "0001-01-01T00:00:00Z"
    finished_at: str = "0001-01-01T00:00:00Z"
    health: Health | UnsetType = UNSET


class MountPoint(Wire, frozen=True, kw_only=True):
    """One entry of inspect's Mounts."""

    type: str
    name: str | UnsetType = UNSET
    source: str
    destination: str
    driver: str | UnsetType = UNSET
    mode: str = ""
    rw: bool = field(default=True, name="RW")
    propagation: str = ""


class UpdateRequest(Wire, frozen=True, kw_only=True):
    """POST /containers/{id}/update: resources (absent: unchanged) and restart policy.

    The live edits that Docker does not have: labels (None takes one away), published ports
    (instead of those there are), networks (None leaves one).
    """

    resources: dict[str, Any] = field(default_factory=dict)
    restart_policy: RestartPolicy | None = None
    labels: dict[str, str | None] | None = None
    port_bindings: PortMap | None = None
    networks: dict[str, EndpointSettings | None] | None = None


class ExecCreate(Wire, frozen=True, kw_only=True):
    """POST /containers/{id}/exec."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: list[Unsigned] | None = None
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | None = None
