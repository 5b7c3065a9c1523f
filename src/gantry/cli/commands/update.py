"""`update`: limits and restart policy of containers that exist; their published ports,
networks and labels while they run."""

from __future__ import annotations

from typing import Any

from gantry.cli.command import App, Command
from gantry.cli.create_network import attachment
from gantry.cli.create_request import pairs, restart_policy
from gantry.cli.flags import Flag, Options
from gantry.cli.ports import Bindings, parse_publish
from gantry.client.engine import segment
from gantry.model.errors import GantryError

_NUMBERS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
}
_LIVE = ("publish-add", "publish-rm", "label-add", "label-rm", "network-add", "network-rm")
_TEXTS = {"cpuset-cpus": "CpusetCpus", "cpuset-mems": "CpusetMems"}


def _update(app: App, options: Options, names: list[str]) -> int:
    flags = [*_NUMBERS, *_TEXTS, *_LIVE, "pids-limit", "restart"]
    if not any(options.changed(flag) for flag in flags):
        raise GantryError("you must provide one or more flags when using this command")
    body: dict[str, object] = {key: options.number(flag) for flag, key in _NUMBERS.items()}
    body |= {key: options.text(flag) for flag, key in _TEXTS.items()}
    if options.number("pids-limit"):
        body["PidsLimit"] = options.number("pids-limit")
    try:
        body["RestartPolicy"] = (
            restart_policy(options.text("restart")) if options.text("restart") else {"Name": ""}
        )
        live = _live(options)
    except ValueError as error:
        raise GantryError(str(error)) from error
    warnings: list[str] = []

    def update(name: str) -> None:
        edits: dict[str, object] = {**body, **live}
        if options.many("publish-add") or options.many("publish-rm"):
            shown = app.engine.get(f"/containers/{segment(name)}/json")
            edits["PortBindings"] = edit_ports(
                shown["HostConfig"].get("PortBindings") or {},
                options.many("publish-add"),
                options.many("publish-rm"),
            )
        answer = app.engine.post(f"/containers/{segment(name)}/update", body=edits) or {}
        warnings.extend(answer.get("Warnings") or [])

    status = app.each(names, update)
    for warning in warnings:
        app.out(warning)
    return status


def _live(options: Options) -> dict[str, object]:
    """What replaces nothing but itself. ValueError."""
    body: dict[str, object] = {}
    labels: dict[str, str | None] = dict(pairs(options.many("label-add")))
    labels |= dict.fromkeys(options.many("label-rm"))
    if labels:
        body["Labels"] = labels
    networks: dict[str, Any] = dict(attachment(text) for text in options.many("network-add"))
    networks |= dict.fromkeys(options.many("network-rm"))
    if networks:
        body["NetworkingConfig"] = {"EndpointsConfig": networks}
    return body


def edit_ports(present: Bindings, add: list[str], remove: list[str]) -> Bindings:
    """PortBindings without those of `remove` (`80`, `80/udp`, or as they were published:
    `8080:80`) and with those of `add`. GantryError for what is not there or makes no sense."""
    try:
        _, gone = parse_publish(remove)
        _, new = parse_publish(add)
    except ValueError as error:
        raise GantryError(str(error)) from error
    found = {port: list(pairs or []) for port, pairs in present.items()}
    for port, wanted in gone.items():
        for pair in wanted:
            left = [p for p in found.get(port, []) if not _meant(pair, p)]
            if port not in found or (found[port] and len(left) == len(found[port])):
                raise GantryError(f"port {port} is not published so")
            found[port] = left
        if not found[port]:
            del found[port]
    for port, wanted in new.items():
        have = found.setdefault(port, [])
        have += [pair for pair in wanted if pair not in have]
    return found


def _meant(wanted: dict[str, str], pair: dict[str, str]) -> bool:
    """What is left open means any."""
    return all(not value or pair.get(key, "") == value for key, value in wanted.items())


UPDATE = Command(
    "Update configuration of one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    _update,
    (
        Flag("blkio-weight", "Share of disk time, 10 to 1000", "int", default=0),
        Flag("cpu-period", "Length of a CFS period in microseconds", "int", default=0),
        Flag("cpu-quota", "CPU time per period in microseconds", "int", default=0),
        Flag("cpu-rt-period", "Real-time period in microseconds", "int", default=0),
        Flag("cpu-rt-runtime", "Real-time budget in microseconds", "int", default=0),
        Flag("cpu-shares", "Relative CPU weight", "int", "c", 0),
        Flag("cpus", "How many CPUs' worth of time: 0.5, 2", "decimal"),
        Flag("cpuset-cpus", "Only these CPUs: 0-2,5", "string"),
        Flag("cpuset-mems", "Only these NUMA nodes", "string"),
        Flag("kernel-memory", "No effect", "bytes", hidden=True),
        Flag("memory", "Most memory it may use: 512m", "bytes", "m"),
        Flag("memory-reservation", "Memory it is held to when memory is short", "bytes"),
        Flag("memory-swap", "Memory and swap together; -1 for any amount of swap", "bytes"),
        Flag("pids-limit", "Most processes it may have; -1 for any number", "int", default=0),
        Flag("label-add", "Set a label: KEY=VALUE (while it runs)", "list"),
        Flag("label-rm", "Take a label away: KEY (while it runs)", "list"),
        Flag("network-add", "Join a network: NAME or name=NAME,ip=… (while it runs)", "list"),
        Flag("network-rm", "Leave a network (while it runs)", "list"),
        Flag("publish-add", "Publish a port: 8080:80 (while it runs)", "list"),
        Flag("publish-rm", "Publish it no more: 80 or 8080:80 (while it runs)", "list"),
        Flag("restart", "When to start again: no, on-failure[:N], always …", "string"),
    ),
    1,
    None,
    examples=(
        ("gantry update -m 1g --memory-swap 1g web", "More memory, at once"),
        ("gantry update --publish-add 8443:443 --publish-rm 80 web", "Other ports, no restart"),
    ),
)
