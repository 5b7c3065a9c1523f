"""Top: ps(1) over the container's processes, as Docker does it.

ps of the host is run with the user's options, and lines of other processes are dropped. The
usual call (no options) is answered from /proc, in the words of `ps -ef`.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import time
from collections.abc import Sequence
from typing import Any, Final

from gantry.containers.core import Core
from gantry.model.errors import Conflict, System

Json = dict[str, Any]

_PID_ALIAS: Final = re.compile(r"\s+(\S*)=\s*(PID\S*)")
_TITLES: Final = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]


class Top:
    """GET /containers/{id}/top."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def top(self, name: str, ps_args: str) -> Json:
        """{"Titles": [...], "Processes": [[...]]}. Conflict when it does not run."""
        for alias, value in _PID_ALIAS.findall(" " + ps_args):
            if alias != "pid":
                raise System(f'specifying "{alias}={value}" is not allowed')
        container = self._core.table.get(name)
        task = container.live.task
        if task is None or not container.state.running:
            raise Conflict(f"container {container.id} is not running")
        if container.state.restarting:
            raise Conflict(
                f"Container {container.id} is restarting, wait until the container is running"
            )
        pids = sorted(await task.pids())
        if ps_args in ("", "-ef"):
            result: Json = {"Titles": _TITLES, "Processes": await asyncio.to_thread(listing, pids)}
        else:
            result = parse(await _ps(ps_args.split(" "), pids), set(pids))
        self._core.event(container, "top")
        return result


async def _ps(args: Sequence[str], pids: Sequence[int]) -> str:
    """Some options do not go together with -q: then all processes are listed."""
    chosen = "-q" + ",".join(map(str, pids))
    complaint = ""
    for extra in ([chosen], []):
        try:
            process = await asyncio.create_subprocess_exec(
                "ps",
                *args,
                *extra,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise System(f"ps: {error.strerror}") from error
        output, errors = await process.communicate()
        if process.returncode == 0:
            return output.decode(errors="replace")
        complaint = errors.decode(errors="replace").partition("\n")[0]
    raise System(f"ps: {complaint or 'exit status 1'}")


def parse(output: str, pids: set[int]) -> Json:
    """What ps printed, as rows of the container's processes (moby parsePSOutput)."""
    lines = output.split("\n")
    titles = lines[0].split()
    if "PID" not in titles:
        raise System("Couldn't find PID field in ps output")
    index = titles.index("PID")
    rows: list[list[str]] = []
    inside = False
    for line in lines[1:]:
        fields = line.split()
        if not fields:
            continue
        if fields[index] == "-":  # a thread's line belongs to the process above it
            if inside:
                rows.append(_row(fields, len(titles)))
            continue
        if not fields[index].isdigit():
            raise System(f"Unexpected pid '{fields[index]}'")
        inside = int(fields[index]) in pids
        if inside:
            rows.append(_row(fields, len(titles)))
    return {"Titles": titles, "Processes": rows}


def _row(fields: list[str], width: int) -> list[str]:
    return [*fields[: width - 1], " ".join(fields[width - 1 :])]


# ---- ps -ef by /proc


def listing(pids: Sequence[int]) -> list[list[str]]:
    """Rows of `ps -ef` for those of `pids` that are still there."""
    rows = []
    for pid in pids:
        try:
            rows.append(_process(pid))
        except (OSError, ValueError, IndexError):
            continue
    return rows


def _process(pid: int) -> list[str]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        text = file.read().decode(errors="replace")
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    ticks = os.sysconf("SC_CLK_TCK")
    used = (int(fields[11]) + int(fields[12])) / ticks
    started = _boot() + int(fields[19]) / ticks
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        argv = file.read().rstrip(b"\0").split(b"\0")
    command = " ".join(arg.decode(errors="replace") for arg in argv) or f"[{name}]"
    age = max(time.time() - started, 0.001)
    hours, rest = divmod(int(used), 3600)
    return [
        _user(os.stat(f"/proc/{pid}").st_uid),
        str(pid),
        fields[1],
        str(min(int(used / age * 100), 99)),
        _stime(started),
        _tty(int(fields[4])),
        f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}",
        command,
    ]


def _user(uid: int) -> str:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
    return name if len(name) <= 8 else name[:7] + "+"


def _stime(started: float) -> str:
    then, now = time.localtime(started), time.localtime()
    if (then.tm_year, then.tm_yday) == (now.tm_year, now.tm_yday):
        return time.strftime("%H:%M", then)
    return time.strftime("%b%d" if then.tm_year == now.tm_year else "%Y", then)


def _tty(device: int) -> str:
    major = (device >> 8) & 0xFFF
    minor = (device & 0xFF) | ((device >> 12) & 0xFFF00)
    if not device:
        return "?"
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    return f"tty{minor}" if major == 4 and minor < 64 else "?"


def _boot() -> float:
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            if line.startswith("btime "):
                return float(line.split()[1])
    return 0.0
