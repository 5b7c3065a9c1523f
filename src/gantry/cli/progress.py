"""Progress of pulls, pushes and loads: lines for files, bars (rich) for terminals."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from gantry.cli.terminal import is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

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
    """Shows layers as bars; yields what comes before the first layer.

    rich is imported at the first layer: what is already here costs nothing.
    """
    for message in messages:
        if not _about_layer(message):
            yield message
            continue
        _layers(message, messages, to)


def _about_layer(message: Message) -> bool:
    return bool(message.get("id")) and "progressDetail" in message


def _layers(first: Message, rest: Iterator[Message], to: int) -> None:
    """A bar a layer until the stream ends; other lines go above them."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(file=sys.stdout if to == 1 else sys.stderr, highlight=False)
    tasks: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description}:"),
        TextColumn("{task.fields[status]:<20}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
    )
    with Progress(*columns, console=console) as progress:
        message: Message | None = first
        while message is not None:
            identifier = str(message.get("id") or "")
            if identifier and (identifier in tasks or _about_layer(message)):
                if identifier not in tasks:
                    tasks[identifier] = progress.add_task(identifier, total=None, status="")
                _advance(progress, tasks[identifier], message)
            elif text := line(message).rstrip("\n"):
                console.print(text, markup=False)
            message = next(rest, None)


def _advance(progress: Progress, task: TaskID, message: Message) -> None:
    status = str(message.get("status", ""))
    detail = message.get("progressDetail") or {}
    if status.lower().endswith(("complete", "exists", "pushed")):
        done = progress.tasks[task].total or 1
        progress.update(task, status=status, completed=done, total=done)
        return
    progress.update(task, status=status, completed=detail.get("current"), total=detail.get("total"))
