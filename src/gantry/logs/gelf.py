"""The gelf driver: Graylog's JSON over udp (compressed, in chunks) or tcp."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from gantry.logs.follow import Message
from gantry.logs.sender import Address, Connection, Source
from gantry.model.errors import InvalidParameter

OPTIONS: Final = frozenset(
    (
        *("gelf-address", "gelf-compression-level", "gelf-compression-type"),
        *("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"),
    )
)
_CHUNK: Final = 1420
_CHUNKS: Final = 128
_MAGIC: Final = b"\x1e\x0f"


def check(options: Mapping[str, str]) -> None:
    """InvalidParameter with Docker's texts."""
    address = options.get("gelf-address", "")
    kind = address.partition("://")[0]
    for key in ("gelf-compression-type", "gelf-compression-level"):
        if key in options and kind == "tcp":
            raise InvalidParameter("compression is only supported on UDP")
    for key in ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"):
        if key in options:
            if kind != "tcp":
                raise InvalidParameter(f"{key} is only valid for TCP")
            if not options[key].isdigit():
                raise InvalidParameter(f"gelf: {key} must be a positive integer")
    how = options.get("gelf-compression-type", "gzip")
    if how not in ("gzip", "zlib", "none"):
        raise InvalidParameter(
            f'unknown value "{how}" for log opt "gelf-compression-type" for gelf log driver'
        )
    level = options.get("gelf-compression-level", "1")
    if not level.lstrip("-").isdigit() or not -1 <= int(level) <= 9:
        raise InvalidParameter(
            f'unknown value "{level}" for log opt "gelf-compression-level" for gelf log driver'
        )
    if not address:
        raise InvalidParameter("gelf-address is a required parameter")
    if kind not in ("udp", "tcp"):
        raise InvalidParameter("gelf: endpoint needs to be TCP or UDP")
    if ":" not in address.partition("://")[2]:
        raise InvalidParameter(
            f"gelf: please provide gelf-address as proto://host:port, not {address}"
        )


class Gelf:
    """`gantry.logs.sender.Sender`."""

    def __init__(self, source: Source, options: Mapping[str, str]) -> None:
        address = Address.parse(options.get("gelf-address", ""), 12201, ("udp", "tcp"))
        self._tcp = address.kind == "tcp"
        self._how = options.get("gelf-compression-type", "gzip")
        self._level = int(options.get("gelf-compression-level", "1"))
        self._connection = Connection(address)
        self._host = source.host
        self._extra = {
            "_container_id": source.container_id,
            "_container_name": source.name,
            "_image_id": source.image_id,
            "_image_name": source.image,
            "_command": source.command,
            "_tag": source.tag,
            "_created": source.created,
            **{f"_{key}": value for key, value in source.attributes.items()},
        }

    async def send(self, messages: Sequence[Message]) -> None:
        """OSError."""
        documents = [self.document(message) for message in messages if message.text]
        if self._tcp:
            await self._connection.write(b"".join(each + b"\x00" for each in documents))
            return
        for document in documents:
            for piece in self._pieces(self._packed(document)):
                await self._connection.write(piece)

    def document(self, message: Message) -> bytes:
        """One message as JSON."""
        return msgspec.json.encode(
            {
                "version": "1.1",
                "host": self._host,
                "short_message": message.text,
                "timestamp": message.time // 1_000_000 / 1000,
                "level": 3 if message.stderr else 6,
                **self._extra,
            }
        )

    def _packed(self, document: bytes) -> bytes:
        if self._how == "none":
            return document
        if self._how == "zlib":
            return zlib.compress(document, self._level)
        return gzip.compress(document, max(self._level, 0) if self._level >= 0 else 6)

    def _pieces(self, data: bytes) -> list[bytes]:
        if len(data) <= _CHUNK:
            return [data]
        size = _CHUNK - 12
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        if len(parts) > _CHUNKS:
            return []  # longer than GELF can say
        ident = os.urandom(8)
        return [
            _MAGIC + ident + bytes((number, len(parts))) + part for number, part in enumerate(parts)
        ]

    def close(self) -> None:
        self._connection.close()
