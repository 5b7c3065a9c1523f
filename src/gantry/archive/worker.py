"""A worker process that unpacks layers, one at a time: `python -m gantry.archive.worker FD`.

FD is one end of a SOCK_SEQPACKET pair; every message is one JSON object::

    engine → worker   {"op": "unpack", "flavour": "overlay", "fresh": true,
                       "hashed": false, "to": 0, "end": null}      + fds: data file, folder
    worker → engine   {"want": 4096}              all before has been read
    engine → worker   {"to": 8192, "end": null}   so many bytes are there now; end: in all
    worker → engine   {"at": 1048576}             so many have been read (progress)
                      {"diff_id": …, "size": …, "entries": …, "implicit": […], "compression": …}
                      {"error": "archive" | "parents" | "system", "message": …}

Exactly one result comes for each "unpack". The worker ends when the socket does. Names in
`implicit` are latin-1 text of bytes. Mounts, where the job has any, are made in a private
mount namespace of a child that does the job, so nothing of them is seen elsewhere or stays.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import sys
from typing import Any, Final

from gantry.archive.apply import Limits
from gantry.archive.errors import ArchiveError, NeedsParents
from gantry.archive.unpack import FileSource, unpack
from gantry.model.snapshot import Flavour

_MESSAGE: Final = 1 << 20
_PROGRESS: Final = 4 << 20


class _Feed:
    """How much of the data is there, as the engine says."""

    def __init__(self, channel: socket.socket, there: int, end: int | None) -> None:
        self._channel = channel
        self._there = there
        self._end = end

    def available(self, offset: int) -> int:
        while self._end is None and offset >= self._there:
            self._channel.send(json.dumps({"want": offset}).encode())
            data = self._channel.recv(_MESSAGE)
            if not data:
                raise ConnectionError("the engine is gone")
            message = json.loads(data)
            self._there, self._end = message["to"], message["end"]
        self._channel.send(json.dumps({"at": offset}).encode())
        return min(
            self._there if self._end is None else self._end,
            offset + _PROGRESS,
        )


def _job(channel: socket.socket, message: dict[str, Any], data: int, root: int) -> None:
    feed = _Feed(channel, message["to"], message["end"])
    result: dict[str, Any]
    try:
        limits = Limits(message.get("max_size"), message.get("max_entries"))
        flavour = Flavour(message["flavour"])
        source = FileSource(data, feed.available)
        done = unpack(
            source,
            root,
            flavour,
            limits=limits,
            umask=0,
            fresh=message.get("fresh", False),
            hashed=message.get("hashed", False),
        )
        result = {
            "diff_id": done.diff_id,
            "size": done.size,
            "entries": done.entries,
            "implicit": [name.decode("latin-1") for name in done.implicit],
            "compression": done.compression.value,
        }
    except ArchiveError as error:
        result = {"error": "archive", "message": str(error)}
    except NeedsParents as error:
        result = {"error": "parents", "message": str(error)}
    except ConnectionError:
        raise
    except OSError as error:
        result = {"error": "system", "message": str(error)}
    channel.send(json.dumps(result).encode())


def serve(channel: socket.socket) -> None:
    """Do jobs until the other side closes."""
    while True:
        data, ancillary, _, _ = channel.recvmsg(_MESSAGE, socket.CMSG_SPACE(8))
        if not data:
            return
        fds: list[int] = []
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                ints = array.array("i")
                ints.frombytes(payload[: len(payload) // 4 * 4])
                fds.extend(ints)
        message = json.loads(data)
        try:
            if message.get("op") == "unpack" and len(fds) == 2:
                _job(channel, message, *fds)
        finally:
            for fd in fds:
                os.close(fd)


def main() -> None:
    os.umask(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    with contextlib.suppress(ConnectionError, BrokenPipeError):
        serve(channel)


if __name__ == "__main__":
    main()
