"""`version`, `info`, `events`, `system df`: the engine itself."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from gantry import __version__
from gantry.cli import units
from gantry.cli.command import App, Command, ExitStatus
from gantry.cli.flags import Flag, Options
from gantry.cli.table import align
from gantry.cli.template.execute import Template
from gantry.cli.template.nodes import TemplateError
from gantry.cli.times import when
from gantry.client.engine import NEWEST_VERSION
from gantry.model.errors import GantryError

Raw = dict[str, Any]


def _template(text: str, *, strict: bool = True) -> Template:
    try:
        return Template("{{json .}}" if text == "json" else text, strict=strict)
    except TemplateError as error:
        raise ExitStatus(64, f"template parsing error: {error}")


# -- version --------------------------------------------------------------------------


def _client(app: App) -> Raw:
    import platform

    return {
        "Version": __version__,
        "ApiVersion": NEWEST_VERSION,
        "DefaultAPIVersion": NEWEST_VERSION,
        "GitCommit": "",
        "GoVersion": f"python{platform.python_version()}",
        "Os": "linux",
        "Arch": go_architecture(os.uname().machine),
        "BuildTime": "",
        "Context": "default",
    }


def go_architecture(machine: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}.get(machine, machine)


def _version(app: App, options: Options, _arguments: list[str]) -> int:
    template = _template(options.text("format")) if options.text("format") else None
    client, server, problem = _client(app), None, ""
    try:
        server = app.engine.get("/version")
        client["ApiVersion"] = app.engine.version
    except GantryError as error:
        problem = str(error)
    both = {"Client": client, "Server": server}
    if template:
        app.out(template.execute(both))
    else:
        app.write(_version_text(client, server))
    if problem:
        raise ExitStatus(1, problem)
    return 0


def _version_text(client: Raw, server: Raw | None) -> str:
    api = client["ApiVersion"]
    if api != NEWEST_VERSION:
        api += f" (downgraded from {NEWEST_VERSION})"
    lines = [
        "Client:",
        f" Version:\t{client['Version']}",
        f" API version:\t{api}",
        f" Python version:\t{client['GoVersion'].removeprefix('python')}",
        f" OS/Arch:\t{client['Os']}/{client['Arch']}",
        f" Context:\t{client['Context']}",
    ]
    if server:
        name = (server.get("Platform") or {}).get("Name")
        lines += ["", f"Server: {name}" if name else "Server:"]
        for component in server.get("Components") or [_engine_component(server)]:
            lines += _component(component)
    return align(lines, least=20, padding=1)


def _engine_component(server: Raw) -> Raw:
    return {"Name": "Engine", "Version": server.get("Version", ""), "Details": server}


def _component(component: Raw) -> list[str]:
    details = component.get("Details") or {}
    lines = [f" {component.get('Name')}:", f"  Version:\t{component.get('Version', '')}"]
    if component.get("Name") != "Engine":
        return lines + [f"  {key}:\t{details[key]}" for key in sorted(details)]
    return [
        *lines,
        f"  API version:\t{details.get('ApiVersion', '')} (minimum version "
        f"{details.get('MinAPIVersion', '')})",
        f"  Go version:\t{details.get('GoVersion', '')}",
        f"  Git commit:\t{details.get('GitCommit', '')}",
        f"  Built:\t{details.get('BuildTime', '')}",
        f"  OS/Arch:\t{details.get('Os', '')}/{details.get('Arch', '')}",
        f"  Experimental:\t{str(details.get('Experimental', 'false')).lower()}",
    ]


# -- info -----------------------------------------------------------------------------


def _info(app: App, options: Options, _arguments: list[str]) -> int:
    template = _template(options.text("format")) if options.text("format") else None
    client = {"Debug": app.debug, "Context": "default", "Plugins": [], "Warnings": None}
    try:
        info = app.engine.get("/info")
    except GantryError as error:
        if template is None:
            app.write(_client_info(client) + "\nServer:\n")
            raise ExitStatus(1, f"ERROR: {error}\nerrors pretty printing info")
        raise
    if template:
        app.out(template.execute({**info, "ClientInfo": client}))
        return 0
    app.write(
        _client_info(client) + "\nServer:\n" + "".join(f" {x}\n" for x in _server(info)) + "\n"
    )
    for warning in info.get("Warnings") or []:
        app.err(str(warning))
    return 0


def _client_info(client: Raw) -> str:
    debug = str(client["Debug"]).lower()
    return f"Client:\n Version:    {__version__}\n Context:    default\n Debug Mode: {debug}\n"


def _server(info: Raw) -> list[str]:
    plugins = info.get("Plugins") or {}
    lines = [
        f"Containers: {info.get('Containers', 0)}",
        f" Running: {info.get('ContainersRunning', 0)}",
        f" Paused: {info.get('ContainersPaused', 0)}",
        f" Stopped: {info.get('ContainersStopped', 0)}",
        f"Images: {info.get('Images', 0)}",
        f"Server Version: {info.get('ServerVersion', '')}",
        f"Storage Driver: {info.get('Driver', '')}",
    ]
    lines += [f" {key}: {value}" for key, value in info.get("DriverStatus") or []]
    for label, key in (
        ("Logging Driver", "LoggingDriver"),
        ("Cgroup Driver", "CgroupDriver"),
        ("Cgroup Version", "CgroupVersion"),
    ):
        if info.get(key):
            lines.append(f"{label}: {info[key]}")
    lines.append("Plugins:")
    for key in ("Volume", "Network", "Log"):
        lines.append(f" {key}: {' '.join(plugins.get(key) or [])}")
    swarm = info.get("Swarm") or {}
    lines.append(f"Swarm: {swarm.get('LocalNodeState', 'inactive')}")
    runtimes = info.get("Runtimes") or {}
    if runtimes:
        lines.append(f"Runtimes: {' '.join(sorted(runtimes))}")
        lines.append(f"Default Runtime: {info.get('DefaultRuntime', '')}")
    lines.append(f"Init Binary: {info.get('InitBinary', '')}")
    for label, key in (
        ("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")
    ):  # fmt: skip
        lines.append(f"{label} version: {(info.get(key) or {}).get('ID', '')}")
    if info.get("SecurityOptions"):
        lines.append("Security Options:")
        for option in info["SecurityOptions"]:
            fields = dict(part.partition("=")[::2] for part in str(option).split(","))
            lines.append(f" {fields.get('name', option)}")
            if "profile" in fields:
                lines.append(f"  Profile: {fields['profile']}")
    return lines + _machine(info)


def _machine(info: Raw) -> list[str]:
    lines = []
    for label, key in (
        ("Kernel Version", "KernelVersion"), ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"), ("Architecture", "Architecture"),
    ):  # fmt: skip
        if info.get(key):
            lines.append(f"{label}: {info[key]}")
    lines.append(f"CPUs: {info.get('NCPU', 0)}")
    lines.append(f"Total Memory: {units.binary_size(info.get('MemTotal', 0))}")
    for label, key in (("Name", "Name"), ("ID", "ID")):
        if info.get(key):
            lines.append(f"{label}: {info[key]}")
    lines.append(f"Docker Root Dir: {info.get('DockerRootDir', '')}")
    lines.append(f"Debug Mode: {_yes(info.get('Debug'))}")
    for label, key in (
        ("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")
    ):  # fmt: skip
        if info.get(key):
            lines.append(f"{label}: {info[key]}")
    if info.get("Labels"):
        lines += ["Labels:", *(f" {label}" for label in info["Labels"])]
    lines.append(f"Experimental: {_yes(info.get('ExperimentalBuild'))}")
    registry = info.get("RegistryConfig") or {}
    cidrs = registry.get("InsecureRegistryCIDRs") or []
    indexes = registry.get("IndexConfigs") or {}
    insecure = [name for name, index in indexes.items() if not index.get("Secure")]
    if cidrs or insecure:
        lines += ["Insecure Registries:", *(f" {name}" for name in [*insecure, *cidrs])]
    if registry.get("Mirrors"):
        lines += ["Registry Mirrors:", *(f" {name}" for name in registry["Mirrors"])]
    lines.append(f"Live Restore Enabled: {_yes(info.get('LiveRestoreEnabled'))}")
    firewall = info.get("FirewallBackend") or {}
    if firewall:
        lines.append(f"Firewall Backend: {firewall.get('Driver', '')}")
    return lines


def _yes(value: object) -> str:
    return "true" if value else "false"


# -- events ---------------------------------------------------------------------------


def _events(app: App, options: Options, _arguments: list[str]) -> int:
    text = options.text("format")
    template = _template(text, strict=False) if text else None
    query = {
        "since": when(options.text("since")),
        "until": when(options.text("until")),
        "filters": options.filters() or None,
    }
    for event in app.engine.stream("GET", "/events", query):
        app.out(template.execute(event) if template else _event(event))
        sys.stdout.flush()
    return 0


def _event(event: Raw) -> str:
    nanoseconds = event.get("timeNano") or event.get("time", 0) * 1_000_000_000
    seconds, rest = divmod(int(nanoseconds), 1_000_000_000)
    local = time.localtime(seconds)
    zone = time.strftime("%z", local)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", local) + f".{rest:09d}{zone}"
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    text = f"{moment} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    if attributes:
        pairs = ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes))
        text += f" ({pairs})"
    return text


_FORMAT = Flag("format", "Go template, or json", "string", "f")

VERSION = Command(
    "Show the gantry version information",
    "[OPTIONS]",
    _version,
    (_FORMAT,),
    examples=(("gantry version -f '{{.Server.Version}}'", "The engine's version"),),
)
INFO = Command("Display system-wide information", "[OPTIONS]", _info, (_FORMAT,))
EVENTS = Command(
    "Get real time events from the server",
    "[OPTIONS]",
    _events,
    (
        Flag("filter", "Only those: type=container, event=die, container=web …", "filter", "f"),
        Flag("format", "Go template, or json", "string"),
        Flag("since", "From then on: 10m, a date", "string"),
        Flag("until", "Up to then", "string"),
    ),
    examples=(("gantry events -f event=die --format '{{.Actor.ID}}'", "What ends"),),
)
