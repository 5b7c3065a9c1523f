"""state, list, ps, events: what a container is doing."""

from __future__ import annotations

import json
import os
import sys
import time

from gantry.runtime import events as shape
from gantry.runtime import state as kept
from gantry.runtime.commands.context import Context, at_least, exactly
from gantry.runtime.commands.flags import Arguments
from gantry.runtime.container import Container
from gantry.runtime.errors import RuntimeFailure


def _document(container: Container) -> dict[str, object]:
    """runc's view of a container: the specification's state and a little more."""
    status = container.status()
    document: dict[str, object] = {
        "ociVersion": container.state.oci_version,
        "id": container.id,
        "pid": 0 if status == "stopped" else container.pid,
        "status": status,
        "bundle": container.state.bundle,
        "rootfs": container.state.rootfs,
        "created": kept.rfc3339(container.state.created),
    }
    if container.state.annotations:
        document["annotations"] = dict(container.state.annotations)
    document["owner"] = ""
    return document


def state(context: Context, arguments: Arguments) -> int:
    """Print one container's state."""
    exactly("state", arguments, 1)
    print(json.dumps(_document(context.container(arguments)), indent=2), end="")
    return 0


def _owner(path: str) -> str:
    uid = os.stat(path).st_uid
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def list_(context: Context, arguments: Arguments) -> int:
    """Print all containers of this root."""
    exactly("list", arguments, 0)
    try:
        names = sorted(os.listdir(context.root))
    except FileNotFoundError:
        if context.root_given:
            raise RuntimeFailure(f"open {context.root}: no such file or directory")
        names = []
    found: list[dict[str, object]] = []
    for name in names:
        folder = f"{context.root}/{name}"
        if name.startswith(".") or not os.path.isdir(folder):
            continue
        try:
            document = _document(Container.load(name, context.root))
        except RuntimeFailure as error:
            sys.stderr.write(f"load container {name}: {error}\n")
            continue
        document["owner"] = _owner(folder)
        found.append(document)
    if arguments.flag("quiet"):
        for document in found:
            print(document["id"])
        return 0
    form = arguments.string("format", "table")
    if form == "json":
        print(json.dumps(found or None, separators=(",", ":")))
    elif form == "table":
        _table(found)
    else:
        raise RuntimeFailure("invalid format option")
    return 0


def _table(found: list[dict[str, object]]) -> None:
    """Columns as Go's tabwriter makes them: at least 12 wide, 3 blanks between."""
    rows = [["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]]
    rows += [
        [str(d[key]) for key in ("id", "pid", "status", "bundle", "created", "owner")]
        for d in found
    ]
    widths = [max(12, *(len(row[i]) + 3 for row in rows)) for i in range(5)]
    for row in rows:
        print("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[5])


def ps(context: Context, arguments: Arguments) -> int:
    """Print the container's processes: their pids, or the lines of ps(1) about them."""
    at_least("ps", arguments, 1)
    pids = context.container(arguments).pids()
    form = arguments.string("format", "table")
    if form == "json":
        print(json.dumps(pids or None, separators=(",", ":")))
        return 0
    if form != "table":
        raise RuntimeFailure("invalid format option")
    import subprocess  # takes as long to load as the other commands take

    words = arguments.rest[1:] or ["-ef"]
    try:
        done = subprocess.run(["ps", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RuntimeFailure('exec: "ps": executable file not found in $PATH')
    if done.returncode != 0:
        raise RuntimeFailure(f"exit status {done.returncode}: {done.stdout}{done.stderr}".strip())
    lines = done.stdout.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise RuntimeFailure("couldn't find PID field in ps output")
    column = titles.index("PID")
    print(lines[0])
    for line in lines[1:]:
        if line.strip() and int(line.split()[column]) in pids:
            print(line)
    return 0


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(text: str) -> float:
    """Go's short durations ("5s", "500ms", "1m")."""
    for suffix in ("ms", "s", "m", "h"):
        number = text.removesuffix(suffix)
        if number != text:
            try:
                seconds = float(number) * _SECONDS[suffix]
            except ValueError:
                break
            if seconds > 0:
                return seconds
            raise RuntimeFailure("duration interval must be greater than 0")
    raise RuntimeFailure(f'invalid value "{text}" for flag -interval: parse error')


def events(context: Context, arguments: Arguments) -> int:
    """Print statistics once (--stats) or every --interval, and memory kills, until it ends."""
    exactly("events", arguments, 1)
    interval = _duration(arguments.string("interval", "5s"))
    container = context.container(arguments)
    if not container.alive():
        raise RuntimeFailure(f"container with id {container.id} is not running")
    if arguments.flag("stats"):
        _print_stats(container)
        return 0
    seen = container.oom_kills()
    due = time.monotonic() + interval
    while container.alive():
        time.sleep(min(0.2, max(0.01, due - time.monotonic())))
        kills = container.oom_kills()
        for _ in range(kills - seen):
            print(f'{{"type":"oom","id":"{container.id}"}}', flush=True)
        seen = kills
        if time.monotonic() >= due:
            due += interval
            try:
                _print_stats(container)
            except RuntimeFailure:
                return 0
    return 0


def _print_stats(container: Container) -> None:
    document = {"type": "stats", "id": container.id, "data": shape.data(container.stats())}
    print(json.dumps(document, separators=(",", ":")), flush=True)
