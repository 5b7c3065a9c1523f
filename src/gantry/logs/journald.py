"""The journald driver: systemd-journald's native protocol."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from gantry.logs.follow import Message, moment_of
from gantry.logs.sender import Address, Connection, Source

OPTIONS: Final[frozenset[str]] = frozenset()
SOCKET: Final = "/run/systemd/journal/socket"


class Journald:
    """`gantry.logs.sender.Sender`."""

    def __init__(self, source: Source, options: Mapping[str, str], path: str = SOCKET) -> None:
        self._connection = Connection(Address("unixgram", path=path))
        self._fixed = {
            "CONTAINER_ID": source.container_id[:12],
            "CONTAINER_ID_FULL": source.container_id,
            "CONTAINER_NAME": source.name,
            "CONTAINER_TAG": source.tag,
            "IMAGE_NAME": source.image,
            "SYSLOG_IDENTIFIER": source.tag,
            **{field(key): value for key, value in source.attributes.items()},
        }

    async def send(self, messages: Sequence[Message]) -> None:
        """OSError."""
        for message in messages:
            await self._connection.write(self.datagram(message))

    def datagram(self, message: Message) -> bytes:
        """KEY=value a line; a value with newlines is counted instead."""
        moment = moment_of(message.time)
        fields = {
            **self._fixed,
            "PRIORITY": "3" if message.stderr else "6",
            "SYSLOG_TIMESTAMP": moment.isoformat().replace("+00:00", "Z"),
            "MESSAGE": message.text,
        }
        if message.partial:
            fields["CONTAINER_PARTIAL_MESSAGE"] = "true"
        lines = []
        for key, value in fields.items():
            data = value.encode("utf-8", "replace")
            if b"\n" in data:
                lines.append(key.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
            else:
                lines.append(b"%b=%b\n" % (key.encode(), data))
        return b"".join(lines)

    def close(self) -> None:
        self._connection.close()


def field(name: str) -> str:
    """A name as journald takes it: capitals, digits, underscores, none of these first."""
    plain = "".join(char if char.isascii() and char.isalnum() else "_" for char in name)
    return plain.upper().lstrip("_")
