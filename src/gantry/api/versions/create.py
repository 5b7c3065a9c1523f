"""POST /containers/create: bodies of older clients turned into the latest shape.

The rules and texts are those of moby's `postContainersCreate` and its helpers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from gantry.api import gojson
from gantry.model.container import (
    BindOptions,
    ContainerConfig,
    CreateRequest,
    EndpointSettings,
    HealthConfig,
    HostConfig,
    MountSpec,
    NetworkingConfig,
    PortBinding,
)
from gantry.model.errors import InvalidParameter

SYSCTLS: Final = "com.docker.network.endpoint.sysctls"

Endpoints = dict[str, EndpointSettings | None]


def request(
    document: gojson.Value, version: int, *, name: str, platform: str, cgroup_unified: bool
) -> tuple[CreateRequest, list[str]]:
    """The request in the latest shape, and warnings about what had to be changed.

    cgroup_unified: the kernel has cgroup v2 only (older clients' cgroup namespace differs).
    """
    if document is not None and not isinstance(document, dict):
        gojson.convert(document, CreateRequest)  # raises with Go's text
    if not gojson.has_field(document, ContainerConfig):
        raise InvalidParameter("config cannot be empty in order to create a container")
    config = gojson.convert(document, ContainerConfig)
    folded = {key.lower(): value for key, value in document.items()}
    host = gojson.convert(folded.get("hostconfig"), HostConfig, "CreateRequest.HostConfig")
    networking = gojson.convert(
        folded.get("networkingconfig"), NetworkingConfig, "CreateRequest.NetworkingConfig"
    )
    endpoints: Endpoints = dict(networking.endpoints_config or {})

    if host.network_mode in ("", "default"):
        host = replace(host, network_mode="bridge")
        if "default" in endpoints:
            endpoints["bridge"] = endpoints.pop("default")
    host = replace(
        _defaults(host, version, cgroup_unified),
        mounts=_mounts(host, version),
    )
    config = _health(config, version)
    _check_endpoints(endpoints, version)
    if version < 48:
        endpoints = {
            key: replace(endpoint, gw_priority=0) if endpoint else endpoint
            for key, endpoint in endpoints.items()
        }
    if version == 40 and (folded.get("hostconfig") or {}).get("Capabilities"):
        raise InvalidParameter(
            "the HostConfig.Capabilities field is not supported by this daemon; use CapAdd and "
            "CapDrop to set capabilities"
        )
    warnings = []
    for found in (
        _volume_driver(host, version),
        _mac_address(config, host, endpoints, version),
    ):
        if found:
            warnings.append(found)
    host, warning = _sysctls(host, endpoints, version)
    warnings += [warning] if warning else []
    host, warning = _port_bindings(host, version)
    warnings += [warning] if warning else []
    _validate(config, host)
    return (
        CreateRequest(
            name=name,
            platform=platform if version >= 41 else "",
            config=replace(config, mac_address=UNSET),
            host_config=host,
            networking_config=NetworkingConfig(endpoints_config=endpoints),
            shallow_read_only=version < 44,
        ),
        warnings,
    )


def _defaults(host: HostConfig, version: int, cgroup_unified: bool) -> HostConfig:
    """Defaults that changed and fields that did not exist yet."""
    changes: dict[str, object] = {}
    if version < 40 and not host.ipc_mode:
        changes["ipc_mode"] = "shareable"
    if version < 41 and not host.cgroupns_mode and not cgroup_unified:
        changes["cgroupns_mode"] = "host"
    if version < 42:
        changes["console_size"] = [0, 0]
    if version < 43:
        changes["annotations"] = UNSET
    if host.pids_limit is not None and host.pids_limit <= 0:
        changes["pids_limit"] = None
    return replace(host, **changes) if changes else host


def _health(config: ContainerConfig, version: int) -> ContainerConfig:
    health = config.healthcheck
    if version < 44 and isinstance(health, HealthConfig) and health.start_interval:
        return replace(config, healthcheck=replace(health, start_interval=0))
    return config


def _mounts(host: HostConfig, version: int) -> list[MountSpec] | object:
    if not isinstance(host.mounts, list):
        return host.mounts
    return [_mount(mount, version) for mount in host.mounts]


def _mount(mount: MountSpec, version: int) -> MountSpec:
    bind, volume, tmpfs = mount.bind_options, mount.volume_options, mount.tmpfs_options
    if version < 42:
        # such combinations were not checked then
        volume = volume if mount.type == "volume" else None
        tmpfs = tmpfs if mount.type == "tmpfs" else None
        bind = replace(bind, create_mountpoint=False) if bind else None
    else:
        for name, options, kind in (
            ("VolumeOptions", volume, "volume"),
            ("BindOptions", bind, "bind"),
            ("TmpfsOptions", tmpfs, "tmpfs"),
        ):
            if options is not None and mount.type != kind:
                raise InvalidParameter(f'{name} must not be specified on mount type "{mount.type}"')
    if bind and version < 40:
        bind = replace(bind, non_recursive=False)
    if version < 44 and mount.type == "bind":
        if bind and bind.read_only_force_recursive:
            raise InvalidParameter("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
        if mount.read_only:
            # read-only was not recursive then
            bind = replace(bind or BindOptions(), read_only_non_recursive=True)
    if version < 45 and volume and volume.subpath:
        raise InvalidParameter("VolumeOptions.Subpath needs API v1.45 or newer")
    if version < 48 and mount.type == "image":
        raise InvalidParameter('Mount type "Image" needs API v1.48 or newer')
    return replace(mount, bind_options=bind, volume_options=volume, tmpfs_options=tmpfs)


def _check_endpoints(endpoints: Endpoints, version: int) -> None:
    if version < 44 and len(endpoints) > 1:
        raise InvalidParameter(
            "Container cannot be created with multiple network endpoints: " + ", ".join(endpoints)
        )


def _volume_driver(host: HostConfig, version: int) -> str:
    if not host.volume_driver or version < 48 or not isinstance(host.mounts, list):
        return ""
    for mount in host.mounts:
        options = mount.volume_options
        named = options and options.driver_config and options.driver_config.name
        if mount.type == "volume" and not named:
            return (
                "WARNING: the container-wide volume-driver configuration is ignored for volumes "
                "specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead"
            )
    return ""


def _is_user_defined(mode: str) -> bool:
    return mode not in ("", "default", "bridge", "host", "none") and not mode.startswith(
        "container:"
    )


def _endpoint_for_mode(endpoints: Endpoints, mode: str, version: int) -> str:
    """The key of the endpoint that container-wide settings belong to (made if need be)."""
    if not endpoints:
        endpoints[mode] = EndpointSettings()
        return mode
    if version < 44:
        return next(iter(endpoints))
    if mode not in endpoints:
        raise InvalidParameter(
            "HostConfig.NetworkMode must match the identity of a network in "
            "NetworkSettings.Networks"
        )
    return mode


def _mac_address(
    config: ContainerConfig, host: HostConfig, endpoints: Endpoints, version: int
) -> str:
    """Config.MacAddress went to the endpoint in 1.44 and away in 1.52."""
    address = config.mac_address if isinstance(config.mac_address, str) else ""
    mode = host.network_mode
    attachable = mode == "bridge" or _is_user_defined(mode)
    if version < 44:
        if not address:
            for key, endpoint in endpoints.items():
                if endpoint:
                    endpoints[key] = replace(endpoint, mac_address="")
            return ""
        if not attachable:
            raise InvalidParameter("conflicting options: mac-address and the network mode")
    elif not address:
        return ""
    elif version >= 52:
        raise InvalidParameter(
            "container-wide MAC address no longer supported; use endpoint-specific MAC address "
            "instead"
        )
    if attachable:
        try:
            key = _endpoint_for_mode(endpoints, mode, version)
        except InvalidParameter as error:
            raise InvalidParameter(
                f"unable to migrate container-wide MAC address to a specific network: {error}"
            )
        endpoint = endpoints[key] or EndpointSettings()
        if version >= 44 and endpoint.mac_address not in ("", address):
            raise InvalidParameter(
                "the container-wide MAC address must match the endpoint-specific MAC address for "
                "the main network, or be left empty"
            )
        endpoints[key] = replace(endpoint, mac_address=address)
    if version < 44:
        return ""
    return (
        "The container-wide MacAddress field is now deprecated. It should be specified in "
        "EndpointsConfig instead."
    )


def _sysctls(host: HostConfig, endpoints: Endpoints, version: int) -> tuple[HostConfig, str]:
    """Sysctls of one interface went to the endpoint's DriverOpts in 1.46."""
    given: Mapping[str, str] = host.sysctls if isinstance(host.sysctls, dict) else {}
    mode = host.network_mode
    if mode == "host" or mode.startswith("container:"):
        return host, ""
    moved: dict[str, str] = {}
    for name, value in given.items():
        parts = name.split(".", 4)
        if len(parts) < 5 or parts[0] != "net" or not parts[3].startswith("eth"):
            continue
        if version > 47:
            raise InvalidParameter(
                f'interface specific sysctl setting "{name}" must be supplied using driver '
                f"option '{SYSCTLS}'"
            )
        if parts[3] != "eth0":
            raise InvalidParameter(
                f"unable to determine network endpoint for sysctl {name}, use driver option "
                f"'{SYSCTLS}' to set per-interface sysctls"
            )
        moved[name] = f"net.{parts[1]}.{parts[2]}.IFNAME.{parts[4]}={value}"
    if not moved:
        return host, ""
    key = _endpoint_for_mode(endpoints, mode, version)
    endpoint = endpoints[key] or EndpointSettings()
    settings = ",".join(moved.values())
    names = ",".join(moved)
    warning = f'Migrated sysctl "{names}" to DriverOpts{{"{SYSCTLS}":"{settings}"}}.'
    options = dict(endpoint.driver_opts or {})
    if SYSCTLS in options:
        settings += "," + options[SYSCTLS]
    options[SYSCTLS] = settings
    endpoints[key] = replace(endpoint, driver_opts=options)
    left = {name: value for name, value in given.items() if name not in moved}
    return replace(host, sysctls=left), warning


def _port_bindings(host: HostConfig, version: int) -> tuple[HostConfig, str]:
    """A port with an empty list of bindings is published anywhere; 1.52 warns of it."""
    given = host.port_bindings or {}
    empty = [port for port, bindings in given.items() if not bindings]
    if not empty:
        return replace(host, port_bindings=given), ""
    filled = {port: bindings or [PortBinding()] for port, bindings in given.items()}
    warning = ""
    if version >= 52:
        warning = (
            "Following container port(s) have an empty list of port-bindings: "
            f"{', '.join(empty)}. Such bindings will be discarded in a future version."
        )
    return replace(host, port_bindings=filled), warning


def _validate(config: ContainerConfig, host: HostConfig) -> None:
    """Contradictions that Docker finds while it decodes (daemon/internal/runconfig)."""
    mode = host.network_mode
    if mode == "container" or mode.startswith("container:"):
        _validate_shared(config, host)
    if host.uts_mode == "host" and config.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    if mode == "host" and host.links:
        raise InvalidParameter(
            "conflicting options: host type networking can't be used with links. This would "
            "result in undefined behavior"
        )
    if host.isolation not in ("", "default"):
        raise InvalidParameter(
            f"invalid isolation ({host.isolation}): linux only supports 'default'"
        )
    if host.io_maximum_bandwidth:
        raise InvalidParameter(
            "invalid option: QoS maximum bandwidth configuration is not supported on linux"
        )
    if host.io_maximum_i_ops:
        raise InvalidParameter(
            "invalid option: QoS maximum IOPs configuration is not supported on linux"
        )
    if host.cpu_shares < 0:
        raise InvalidParameter(
            f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer"
        )
    if host.cpu_realtime_runtime > host.cpu_realtime_period > 0:
        raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")


def _validate_shared(config: ContainerConfig, host: HostConfig) -> None:
    """Options that make no sense in another container's network."""
    if not host.network_mode.partition(":")[2]:
        raise InvalidParameter("invalid network mode: invalid container format container:<name|id>")
    exposed = config.exposed_ports if isinstance(config.exposed_ports, dict) else None
    for given, words in (
        (config.hostname, "hostname and the network mode"),
        (
            host.links,
            "container type network can't be used with links. This would result in undefined "
            "behavior",
        ),
        (host.dns, "dns and the network mode"),
        (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (
            host.port_bindings or host.publish_all_ports,
            "port publishing and the container type network mode",
        ),
        (exposed, "port exposing and the container type network mode"),
    ):
        if given:
            raise InvalidParameter(f"conflicting options: {words}")
