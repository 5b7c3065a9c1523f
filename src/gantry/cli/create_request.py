"""From the flags of `run` and `create` to the body of POST /containers/create.

Checks what Docker's client checks, with its texts (ValueError); the engine checks the
rest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from ipaddress import ip_address

from gantry.cli import mounts, ports, units
from gantry.cli.flags import Options

Json = dict[str, object]

_NETWORK_MODES = ("bridge", "host", "none", "default", "nat")


def build(options: Options, image: str, command: list[str], environment: Mapping[str, str]) -> Json:
    """The whole body: container, host and network configuration."""
    published, bindings = ports.parse_publish(options.many("publish"))
    for text in options.many("expose"):
        for port in ports.parse_expose(text):
            published[port] = {}
    binds, anonymous = mounts.split_volumes(options.many("volume"))
    body = _container(options, image, command, environment)
    body["ExposedPorts"] = published
    body["Volumes"] = anonymous
    host = _host(options)
    host["Binds"] = binds
    host["PortBindings"] = bindings
    host.update(_resources(options))
    host.update(_security(options))
    mode, endpoints = _networks(options)
    host["NetworkMode"] = mode
    body["HostConfig"] = host
    body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return body


def _container(
    options: Options, image: str, command: list[str], environment: Mapping[str, str]
) -> Json:
    attach = [stream.lower() for stream in options.many("attach")]
    for stream in attach:
        if stream not in ("stdin", "stdout", "stderr"):
            raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    stdin = "stdin" in attach or options.on("interactive")
    body: Json = {
        "Hostname": options.text("hostname"),
        "Domainname": options.text("domainname"),
        "User": options.text("user"),
        "AttachStdin": stdin,
        "AttachStdout": not attach or "stdout" in attach,
        "AttachStderr": not attach or "stderr" in attach,
        "Tty": options.on("tty"),
        "OpenStdin": options.on("interactive"),
        "StdinOnce": options.on("interactive") and stdin,
        "Env": variables(options, environment),
        "Cmd": command or None,
        "Image": image,
        "WorkingDir": options.text("workdir"),
        "Entrypoint": _entrypoint(options),
        "Labels": _labels(options),
    }
    if options.text("stop-signal"):
        body["StopSignal"] = options.text("stop-signal")
    if options.changed("stop-timeout"):
        body["StopTimeout"] = options.number("stop-timeout")
    health = _health(options)
    if health:
        body["Healthcheck"] = health
    return body


def _entrypoint(options: Options) -> list[str] | None:
    if not options.changed("entrypoint"):
        return None
    return [options.text("entrypoint")]


def variables(options: Options, environment: Mapping[str, str]) -> list[str]:
    """Of --env-file and --env, in this order. A name alone takes this process' value."""
    found: list[str] = []
    for path in options.many("env-file"):
        for line in _lines(path, "--env-file"):
            name, equals, _ = line.partition("=")
            if any(character in name for character in " \t"):
                raise ValueError(f"--env-file: variable '{name}' contains whitespaces")
            if not name:
                raise ValueError("--env-file: no variable name on line '" + line + "'")
            if equals:
                found.append(line)
            elif name in environment:
                found.append(f"{name}={environment[name]}")
    for text in options.many("env"):
        name, equals, _ = text.partition("=")
        if not name:
            raise ValueError(f"invalid environment variable: {text}")
        if equals:
            found.append(text)
        elif name in environment:
            found.append(f"{name}={environment[name]}")
    return found


def _lines(path: str, flag: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except OSError as error:
        text = (error.strerror or "").lower()
        raise ValueError(f"{flag}: open {path}: {text}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{flag}: env file {path} contains invalid utf8 bytes") from error
    stripped = [line.lstrip() for line in lines]
    return [line for line in stripped if line and not line.startswith("#")]


def _labels(options: Options) -> dict[str, str]:
    lines = [line for path in options.many("label-file") for line in _lines(path, "--label-file")]
    return pairs(lines + options.many("label"))


def pairs(items: list[str]) -> dict[str, str]:
    """`KEY=VALUE` or `KEY`."""
    found = {}
    for item in items:
        key, _, value = item.partition("=")
        found[key] = value
    return found


def _health(options: Options) -> Json:
    names = {
        "Interval": "health-interval",
        "Timeout": "health-timeout",
        "StartPeriod": "health-start-period",
        "StartInterval": "health-start-interval",
        "Retries": "health-retries",
    }
    settings: Json = {key: options.number(flag) for key, flag in names.items()}
    given = options.text("health-cmd") != "" or any(settings.values())
    if options.on("no-healthcheck"):
        if given:
            raise ValueError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not given:
        return {}
    for flag in names.values():
        if options.number(flag) < 0:
            raise ValueError(f"--{flag} cannot be negative")
    if options.text("health-cmd"):
        settings["Test"] = ["CMD-SHELL", options.text("health-cmd")]
    return {key: value for key, value in settings.items() if value}


def _host(options: Options) -> Json:
    restart = restart_policy(options.text("restart"))
    if options.on("rm") and restart["Name"] not in ("", "no"):
        raise ValueError("conflicting options: cannot specify both --restart and --rm")
    driver = options.text("log-driver")
    if driver == "none" and options.many("log-opt"):
        raise ValueError(f"invalid logging opts for driver {driver}")
    for address in options.many("dns"):
        _ip(address)
    host: Json = {
        "ContainerIDFile": options.text("cidfile"),
        "LogConfig": {"Type": driver, "Config": pairs(options.many("log-opt"))},
        "RestartPolicy": restart,
        "AutoRemove": options.on("rm"),
        "VolumeDriver": options.text("volume-driver"),
        "VolumesFrom": options.many("volumes-from") or None,
        "CapAdd": options.many("cap-add") or None,
        "CapDrop": options.many("cap-drop") or None,
        "CgroupnsMode": options.text("cgroupns"),
        "Dns": options.many("dns"),
        "DnsOptions": options.many("dns-option"),
        "DnsSearch": options.many("dns-search"),
        "ExtraHosts": [_extra_host(text) for text in options.many("add-host")] or None,
        "GroupAdd": options.many("group-add") or None,
        "IpcMode": options.text("ipc"),
        "Links": options.many("link") or None,
        "OomScoreAdj": options.number("oom-score-adj"),
        "PidMode": options.text("pid"),
        "Privileged": options.on("privileged"),
        "PublishAllPorts": options.on("publish-all"),
        "ReadonlyRootfs": options.on("read-only"),
        "UTSMode": options.text("uts"),
        "UsernsMode": options.text("userns"),
        "ShmSize": options.number("shm-size"),
        "Runtime": options.text("runtime"),
        "Isolation": options.text("isolation"),
        "Mounts": [mounts.parse_mount(text) for text in options.many("mount")],
        "Tmpfs": {path: rest for path, _, rest in map(_colon, options.many("tmpfs"))},
        "Sysctls": pairs(options.many("sysctl")),
        "StorageOpt": _storage(options.many("storage-opt")),
    }
    if options.many("annotation"):
        host["Annotations"] = pairs(options.many("annotation"))
    if options.changed("init"):
        host["Init"] = options.on("init")
    for key in ("Mounts", "Tmpfs", "Sysctls", "StorageOpt"):
        if not host[key]:
            del host[key]
    for flag, key, text in (("pid", "PidMode", "PID"), ("uts", "UTSMode", "UTS")):
        value = str(host[key])
        if value not in ("", "host") and not (flag == "pid" and value.startswith("container:")):
            raise ValueError(f"--{flag}: invalid {text} mode")
    return host


def _colon(text: str) -> tuple[str, str, str]:
    return text.partition(":")


def _ip(address: str) -> None:
    try:
        ip_address(address)
    except ValueError:
        raise ValueError(f"IP address is not correctly formatted: {address}") from None


def _extra_host(text: str) -> str:
    for separator in ("=", ":"):
        name, found, address = text.partition(separator)
        if found and name and address:
            address = address.removeprefix("[").removesuffix("]")
            if address != "host-gateway":
                try:
                    ip_address(address)
                except ValueError:
                    raise ValueError(f"invalid IP address in add-host: {address!r}") from None
            return f"{name}:{address}"
    raise ValueError(f"bad format for add-host: {text!r}")


def _storage(items: list[str]) -> dict[str, str]:
    for item in items:
        if "=" not in item:
            raise ValueError("invalid storage option")
    return pairs(items)


def restart_policy(text: str) -> Json:
    name, colon, count = text.partition(":")
    if colon and not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    if count and not count.isdigit():
        raise ValueError("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count) if count else 0}


def _resources(options: Options) -> Json:
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


def _security(options: Options) -> Json:
    kept: list[str] = []
    found: Json = {}
    for text in options.many("security-opt"):
        separator = "=" if "=" in text else ":"
        key, _, value = text.partition(separator)
        if not value and key != "no-new-privileges":
            raise ValueError(f'invalid --security-opt: "{text}"')
        if text == "systempaths=unconfined":
            found.update({"MaskedPaths": [], "ReadonlyPaths": []})
        elif key == "seccomp" and value not in ("builtin", "unconfined"):
            kept.append(f"seccomp={_profile(value)}")
        else:
            kept.append(text)
    found["SecurityOpt"] = kept or None
    return found


def _profile(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return json.dumps(json.load(file), separators=(",", ":"))
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise ValueError(
            f"opening seccomp profile ({path}) failed: open {path}: {reason}"
        ) from error
    except ValueError as error:
        raise ValueError(f"compacting json for seccomp profile ({path}) failed: {error}") from error


def user_defined(network: str) -> bool:
    return network not in _NETWORK_MODES and not network.startswith("container:")


def _networks(options: Options) -> tuple[str, Json]:
    """NetworkMode (the first network) and the endpoints' settings."""
    targets = [attachment(text) for text in options.many("network")] or [("default", {})]
    if not options.many("network") and not _endpoint_flags(options):
        return "default", {}
    endpoints: Json = {}
    for number, (name, endpoint) in enumerate(targets):
        if not name.strip():
            raise ValueError("no name set for network")
        if number == 0:
            _first_endpoint(options, name, endpoint)
        if not user_defined(name):
            if endpoint.get("Aliases"):
                raise ValueError(
                    "network-scoped aliases are only supported for user-defined networks"
                )
            if endpoint.get("Links"):
                raise ValueError("links are only supported for user-defined networks")
        if name in endpoints:
            raise ValueError(f'network "{name}" is specified multiple times')
        if endpoint or len(targets) > 1:
            endpoints[name] = endpoint
    if len({user_defined(name) for name, _ in targets}) > 1:
        raise ValueError(
            "conflicting options: cannot attach both user-defined and non-user-defined "
            "network-modes"
        )
    return targets[0][0], endpoints


def _endpoint_flags(options: Options) -> bool:
    flags = ("network-alias", "ip", "ip6", "mac-address", "link-local-ip")
    return any(options.changed(flag) for flag in flags)


def _first_endpoint(options: Options, name: str, endpoint: Json) -> None:
    """The flags of one network at a time belong to the first."""
    if options.many("network-alias"):
        if "Aliases" in endpoint:
            raise ValueError(
                "conflicting options: cannot specify both --network-alias and per-network alias"
            )
        endpoint["Aliases"] = options.many("network-alias")
    if options.many("link") and user_defined(name):
        endpoint["Links"] = options.many("link")
    if options.text("mac-address"):
        endpoint["MacAddress"] = _mac(options.text("mac-address"))
    addresses: Json = {}
    for flag, key in (("ip", "IPv4Address"), ("ip6", "IPv6Address")):
        if options.text(flag):
            _ip(options.text(flag))
            addresses[key] = options.text(flag)
    if options.many("link-local-ip"):
        addresses["LinkLocalIPs"] = options.many("link-local-ip")
    if addresses:
        known = endpoint.setdefault("IPAMConfig", {})
        assert isinstance(known, dict)
        known.update(addresses)


def _mac(text: str) -> str:
    parts = text.strip().replace("-", ":").split(":")
    valid = all(len(part) == 2 and set(part.lower()) <= set("0123456789abcdef") for part in parts)
    if len(parts) != 6 or not valid:
        raise ValueError(f"{text} is not a valid mac address")
    return ":".join(parts)


def attachment(text: str) -> tuple[str, Json]:
    """`NAME` or `name=NAME,alias=A,ip=…,driver-opt=K=V` as a name and endpoint settings."""
    if "=" not in text:
        return text, {}
    name, endpoint, addresses = "", Json(), Json()
    for item in text.split(","):
        key, equals, value = item.partition("=")
        key = key.strip().lower()
        if not equals:
            raise ValueError(f"invalid key/value pair format in driver options: {item}")
        if key == "name":
            name = value.strip()
        elif key == "alias":
            aliases = endpoint.setdefault("Aliases", [])
            assert isinstance(aliases, list)
            aliases.append(value)
        elif key == "driver-opt":
            driver = endpoint.setdefault("DriverOpts", {})
            assert isinstance(driver, dict)
            option, _, setting = value.partition("=")
            driver[option.strip().lower()] = setting.strip()
        elif key == "ip":
            addresses["IPv4Address"] = value
        elif key == "ip6":
            addresses["IPv6Address"] = value
        elif key == "mac-address":
            endpoint["MacAddress"] = _mac(value)
        elif key == "link-local-ip":
            local = addresses.setdefault("LinkLocalIPs", [])
            assert isinstance(local, list)
            local.append(value)
        elif key == "gw-priority":
            try:
                endpoint["GwPriority"] = int(value)
            except ValueError:
                raise ValueError(f"invalid gw-priority ({value})") from None
        else:
            raise ValueError(f"invalid field key {key}")
    if addresses:
        endpoint["IPAMConfig"] = addresses
    return name, endpoint
