"""The fluentd driver: fluentd's forward protocol (msgpack) over tcp or a unix socket."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from gantry.logs.follow import Message
from gantry.logs.sender import Address, Connection, Source
from gantry.model.errors import InvalidParameter

OPTIONS: Final = frozenset(
    (
        *("fluentd-address", "fluentd-async", "fluentd-async-connect", "fluentd-buffer-limit"),
        *("fluentd-max-retries", "fluentd-request-ack", "fluentd-retry-wait"),
        *("fluentd-sub-second-precision", "fluentd-async-reconnect-interval"),
        "fluentd-write-timeout",
    )
)
_KINDS: Final = ("tcp", "tls", "unix")
_TRUE: Final = ("1", "t", "T", "true", "TRUE", "True")
_BOOLEANS: Final = (*_TRUE, "0", "f", "F", "false", "FALSE", "False")
_ACK: Final = 30.0
_LIMIT: Final = re.compile(r"\d+(\.\d+)?\s*([kmgtp]i?)?b?", re.IGNORECASE)


def check(options: Mapping[str, str]) -> None:
    """InvalidParameter with Docker's texts."""
    for key in (
        "fluentd-async",
        "fluentd-async-connect",
        "fluentd-request-ack",
        "fluentd-sub-second-precision",
    ):
        value = options.get(key, "")
        if value and value not in _BOOLEANS:
            raise InvalidParameter(f'strconv.ParseBool: parsing "{value}": invalid syntax')
    retries = options.get("fluentd-max-retries", "")
    if retries and not retries.isdigit():
        raise InvalidParameter(f'strconv.ParseUint: parsing "{retries}": invalid syntax')
    limit = options.get("fluentd-buffer-limit", "")
    if limit and not _LIMIT.fullmatch(limit):
        raise InvalidParameter(f"invalid size: '{limit}'")
    _address(options)


def _address(options: Mapping[str, str]) -> Address:
    text = options.get("fluentd-address", "") or "tcp://127.0.0.1:24224"
    try:
        address = Address.parse(text, 24224, _KINDS)
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid fluentd-address ({text}): {error}") from None
    if address.kind == "unix" and not address.path:
        raise InvalidParameter(f"invalid fluentd-address ({text}): path is empty")
    return address


class Fluentd:
    """`gantry.logs.sender.Sender`."""

    def __init__(self, source: Source, options: Mapping[str, str]) -> None:
        import ssl

        address = _address(options)
        tls = ssl.create_default_context() if address.kind == "tls" else None
        self._connection = Connection(address, tls)
        self._source = source
        self._exact = options.get("fluentd-sub-second-precision", "") in _TRUE
        self._ack = options.get("fluentd-request-ack", "") in _TRUE

    async def send(self, messages: Sequence[Message]) -> None:
        """OSError. In forward mode, one request for all messages."""
        entries = [[self._time(message), self._record(message)] for message in messages]
        request: list[object] = [self._source.tag, entries]
        if not self._ack:
            await self._connection.write(msgspec.msgpack.encode(request))
            return
        chunk = base64.b64encode(os.urandom(16)).decode()
        await self._connection.write(msgspec.msgpack.encode([*request, {"chunk": chunk}]))
        reader = self._connection.reader
        try:
            async with asyncio.timeout(_ACK):
                answer = await reader.read(1024) if reader is not None else b""
        except TimeoutError:
            answer = b""
        if chunk.encode() not in answer:
            self._connection.close()
            raise ConnectionResetError("fluentd did not acknowledge")

    def _time(self, message: Message) -> object:
        seconds, nanoseconds = divmod(message.time, 1_000_000_000)
        if not self._exact:
            return seconds
        return msgspec.msgpack.Ext(0, struct.pack(">II", seconds, nanoseconds))

    def _record(self, message: Message) -> dict[str, str]:
        record = {
            "container_id": self._source.container_id,
            "container_name": f"/{self._source.name}",
            "source": "stderr" if message.stderr else "stdout",
            "log": message.text,
            **self._source.attributes,
        }
        if message.partial:
            record["partial_message"] = "true"
        return record

    def close(self) -> None:
        self._connection.close()
