"""`stats`: what containers use, live."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator
from typing import Any

from gantry.cli import units
from gantry.cli.command import App, Command
from gantry.cli.commands.listing import FORMAT_HELP
from gantry.cli.flags import Flag, Options
from gantry.cli.table import Columns, render, short_id
from gantry.cli.terminal import is_terminal
from gantry.client.connection import Response
from gantry.client.engine import segment
from gantry.client.errors import ApiError
from gantry.client.messages import messages

Raw = dict[str, Any]
_TABLE = (
    "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t"
    "{{.BlockIO}}\t{{.PIDs}}"
)


def cpu_percent(raw: Raw) -> float:
    """CPU time used over the CPU time there was between the two samples, of one CPU."""
    now, before = raw.get("cpu_stats") or {}, raw.get("precpu_stats") or {}
    used = _total(now) - _total(before)
    system = (now.get("system_cpu_usage") or 0) - (before.get("system_cpu_usage") or 0)
    cpus = now.get("online_cpus") or len((now.get("cpu_usage") or {}).get("percpu_usage") or [])
    return used / system * cpus * 100.0 if system > 0 and used > 0 else 0.0


def _total(cpu: Raw) -> int:
    return int((cpu.get("cpu_usage") or {}).get("total_usage") or 0)


def memory(raw: Raw) -> tuple[int, int]:
    """Used (without page cache that could be dropped) and the limit, in bytes."""
    stats = raw.get("memory_stats") or {}
    usage, details = int(stats.get("usage") or 0), stats.get("stats") or {}
    for key in ("total_inactive_file", "inactive_file"):
        inactive = details.get(key)
        if inactive is not None and inactive < usage:
            return usage - int(inactive), int(stats.get("limit") or 0)
    return usage, int(stats.get("limit") or 0)


def _memory_percent(raw: Raw) -> float:
    used, limit = memory(raw)
    return used / limit * 100.0 if limit else 0.0


def _memory_text(raw: Raw) -> str:
    used, limit = memory(raw)
    return f"{units.binary_size(used)} / {units.binary_size(limit)}"


def _network(raw: Raw) -> str:
    interfaces = (raw.get("networks") or {}).values()
    received = sum(interface.get("rx_bytes", 0) for interface in interfaces)
    sent = sum(interface.get("tx_bytes", 0) for interface in interfaces)
    return f"{units.human_size(received, 3)} / {units.human_size(sent, 3)}"


def _block(raw: Raw) -> str:
    entries = (raw.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    totals = {"r": 0, "w": 0}
    for entry in entries:
        letter = str(entry.get("op", ""))[:1].lower()
        if letter in totals:
            totals[letter] += entry.get("value", 0)
    return f"{units.human_size(totals['r'], 3)} / {units.human_size(totals['w'], 3)}"


def _columns(trunc: bool) -> Columns[Raw]:
    def known(raw: Raw) -> bool:
        return bool(raw.get("id"))

    return Columns(
        "*container.statsContext",
        {
            "Container": "CONTAINER",
            "Name": "NAME",
            "ID": "CONTAINER ID",
            "CPUPerc": "CPU %",
            "MemUsage": "MEM USAGE / LIMIT",
            "MemPerc": "MEM %",
            "NetIO": "NET I/O",
            "BlockIO": "BLOCK I/O",
            "PIDs": "PIDS",
        },
        {
            "Container": lambda raw: raw["asked"],
            "Name": lambda raw: str(raw.get("name", "")).removeprefix("/") or "--",
            "ID": lambda raw: short_id(raw.get("id", "")) if trunc else raw.get("id", ""),
            "CPUPerc": lambda raw: f"{cpu_percent(raw):.2f}%" if known(raw) else "--",
            "MemUsage": lambda raw: _memory_text(raw) if known(raw) else "-- / --",
            "MemPerc": lambda raw: f"{_memory_percent(raw):.2f}%" if known(raw) else "--",
            "NetIO": lambda raw: _network(raw) if known(raw) else "--",
            "BlockIO": lambda raw: _block(raw) if known(raw) else "--",
            "PIDs": lambda raw: (
                str((raw.get("pids_stats") or {}).get("current", 0)) if known(raw) else "--"
            ),
        },
    )


def _stats(app: App, options: Options, names: list[str]) -> int:
    template = options.text("format") or app.config.format_of("statsFormat")
    if template in ("", "table"):
        template = _TABLE
    columns = _columns(not options.on("no-trunc"))
    wanted = names or _running(app, options)
    if options.on("no-stream"):
        app.write(render(columns, [_once(app, name) for name in wanted], template))
        return 0
    for samples in _live(app, options, names, wanted):
        text = render(columns, samples, template)
        if is_terminal(1):
            text = "\033[H" + text.replace("\n", "\033[K\n") + "\033[J"
        app.write(text)
        sys.stdout.flush()
    return 0


def _running(app: App, options: Options) -> list[str]:
    found = app.engine.get("/containers/json", {"all": options.on("all")})
    return [str(raw["Id"]) for raw in found]


def _once(app: App, name: str) -> Raw:
    sample = app.engine.get(f"/containers/{segment(name)}/stats", {"stream": "0"})
    return {**sample, "asked": name}


def _live(app: App, options: Options, names: list[str], wanted: list[str]) -> Iterator[list[Raw]]:
    """All containers' newest samples, about once a second.

    One streaming request a container, read as they come; without names, containers that
    start or end in the meantime come and go.
    """
    latest: dict[str, Raw] = {}
    streams: dict[str, tuple[Response, Iterator[Raw]]] = {}

    def add(name: str) -> None:
        response = app.engine.background(
            "GET", f"/containers/{segment(name)}/stats", {"stream": "1"}
        )
        streams[name] = (response, messages(response))
        latest[name] = {"asked": name}

    for name in wanted:
        add(name)
    rounds = 0
    while True:
        poll = select.poll()
        by_descriptor = {stream.fileno(): name for name, (stream, _) in streams.items()}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        due = set(by_descriptor)
        while due and (ready := poll.poll(1500)):
            for descriptor, _ in ready:
                name = by_descriptor[descriptor]
                sample = next(streams[name][1], None)
                due.discard(descriptor)
                poll.unregister(descriptor)
                if sample is None:
                    streams.pop(name)[0].close()
                    if not names:
                        latest.pop(name, None)
                else:
                    latest[name] = {**sample, "asked": name}
        yield list(latest.values())
        rounds += 1
        if names and not streams:
            return
        if not names:
            _refresh(app, options, latest, streams, add)
        if not due and not streams:
            select.select([], [], [], 1.0)


def _refresh(app: App, options: Options, latest: dict[str, Raw], streams: Any, add: Any) -> None:
    running = _running(app, options)
    for name in running:
        if name not in streams:
            try:
                add(name)
            except ApiError:
                continue
    for name in list(latest):
        if name not in running:
            latest.pop(name)


STATS = Command(
    "Display a live stream of container(s) resource usage statistics",
    "[OPTIONS] [CONTAINER...]",
    _stats,
    (
        Flag("all", "Those that do not run, too", short="a"),
        Flag("format", FORMAT_HELP, "string"),
        Flag("no-stream", "Only one look"),
        Flag("no-trunc", "Whole ids"),
    ),
    0,
    None,
    examples=(("gantry stats --no-stream --format '{{.Name}} {{.MemUsage}}'", "One look"),),
)
