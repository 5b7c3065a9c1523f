"""Progress of pulls, pushes and loads: lines for files, bars (rich) for terminals."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from gantry.cli.terminal import is_terminal

Message = dict[str, Any]


def show(stream: Iterable[Message], *, to: int | None) -> None:
    """Reads `stream` to its end and shows it on descriptor `to` (None: nowhere)."""
    if to is None:
        for _ in stream:
            pass
        return
    messages = iter(stream)
    if is_terminal(to):
        messages = _bars(messages, to)
    file = sys.stdout if to == 1 else sys.stderr
    for message in messages:
        text = line(message)
        if text:
            file.write(text)
            file.flush()


def line(message: Message) -> str:
    """What a file gets for a message: progress is left out, changes of state are lines."""
    if "stream" in message:
        return str(message["stream"])
    if message.get("progressDetail") or message.get("progress"):
        return ""
    status = str(message.get("status", ""))
    if not status:
        return ""
    identifier = message.get("id")
    return f"{identifier}: {status}\n" if identifier else f"{status}\n"


def _bars(messages: Iterator[Message], to: int) -> Iterator[Message]:
    """Shows layers as bars; yields what is not about a layer.

    rich is imported at the first layer: what is already here costs nothing.
    """
    for message in messages:
        if not message.get("id"):
            yield message
            continue
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        console = Console(file=sys.stdout if to == 1 else sys.stderr)
        tasks = {}
        columns = (
            TextColumn("{task.description}"),
            TextColumn("{task.fields[status]:<20}"),
            BarColumn(bar_width=30),
            DownloadColumn(),
        )
        with Progress(*columns, console=console) as progress:
            following: Message | None = message
            while following is not None:
                identifier = following.get("id")
                if not identifier:
                    text = line(following).rstrip("\n")
                    if text:
                        console.print(text, markup=False, highlight=False)
                else:
                    if identifier not in tasks:
                        tasks[identifier] = progress.add_task(
                            str(identifier), total=None, status=""
                        )
                    detail = following.get("progressDetail") or {}
                    progress.update(
                        tasks[identifier],
                        status=str(following.get("status", "")),
                        completed=detail.get("current"),
                        total=detail.get("total"),
                    )
                following = next(messages, None)
