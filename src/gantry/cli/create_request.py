"""From the flags of `run` and `create` to the body of POST /containers/create.

Checks what Docker's client checks, with its texts (ValueError); the engine checks the
rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_address

from gantry.cli import mounts, ports
from gantry.cli.create_network import check_address, networks
from gantry.cli.create_resources import resources
from gantry.cli.flags import Options

Json = dict[str, object]


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
    host.update(resources(options))
    host.update(_security(options))
    mode, endpoints = networks(options)
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
        check_address(address)
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
