"""The syslog driver: udp, tcp, tcp+tls, unix and unixgram; RFC 3164 and 5424 (moby
daemon/logger/syslog, whose writer is srslog)."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Final

from gantry.logs.follow import Message, moment_of
from gantry.logs.sender import Address, Connection, Source
from gantry.model.errors import InvalidParameter
from gantry.model.numbers import clamped

OPTIONS: Final = frozenset(
    (
        *("syslog-address", "syslog-facility", "syslog-tls-ca-cert", "syslog-tls-cert"),
        *("syslog-tls-key", "syslog-tls-skip-verify", "syslog-format"),
    )
)
FORMATS: Final = ("", "rfc3164", "rfc5424", "rfc5424micro")
_KINDS: Final = ("udp", "tcp", "tcp+tls", "unix", "unixgram")
_LOCAL: Final = ("/dev/log", "/var/run/syslog", "/var/run/log")
_FACILITIES: Final = {
    **{
        name: number
        for number, name in enumerate(
            ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron")
        )
    },
    "authpriv": 10,
    "ftp": 11,
    **{f"local{number}": 16 + number for number in range(8)},
}
_INFO: Final = 6
_ERR: Final = 3


def check(options: Mapping[str, str]) -> None:
    """InvalidParameter with Docker's texts."""
    _address(options)
    _facility(options.get("syslog-facility", ""))
    if options.get("syslog-format", "") not in FORMATS:
        raise InvalidParameter("Invalid syslog format")


def _address(options: Mapping[str, str]) -> Address | None:
    text = options.get("syslog-address", "")
    if not text:
        return None
    kind = text.partition("://")[0]
    if "://" not in text or kind not in _KINDS:
        raise InvalidParameter(f"unsupported scheme: '{kind if '://' in text else ''}'")
    address = Address.parse(text, 514, _KINDS)
    if address.path and not os.path.exists(address.path):
        raise InvalidParameter(f"stat {address.path}: no such file or directory")
    return address


def _facility(text: str) -> int:
    if not text:
        return _FACILITIES["daemon"]
    if text in _FACILITIES:
        return _FACILITIES[text]
    if text.isdigit() and clamped(text) <= 23:
        return int(text)
    raise InvalidParameter("invalid syslog facility")


class Syslog:
    """`gantry.logs.sender.Sender`."""

    def __init__(self, source: Source, options: Mapping[str, str]) -> None:
        self._source = source
        self._facility = _facility(options.get("syslog-facility", ""))
        self._format = options.get("syslog-format", "")
        address = _address(options)
        if address is None:
            path = next((path for path in _LOCAL if os.path.exists(path)), _LOCAL[0])
            address = Address("unixgram", path=path)
        tls = _context(options) if address.kind == "tcp+tls" else None
        # RFC 5425: over TLS a message has its length before it.
        self._framed = tls is not None and self._format != "rfc3164"
        if tls is not None and not self._format:
            self._format = "rfc5424"
        self._datagrams = address.kind in ("udp", "unixgram")
        self._connection = Connection(address, tls)

    async def send(self, messages: Sequence[Message]) -> None:
        """OSError."""
        lines = [self.line(message) for message in messages]
        if self._datagrams:
            for line in lines:
                await self._connection.write(line)
            return
        if self._framed:
            lines = [b"%d %b" % (len(line), line) for line in lines]
        await self._connection.write(b"".join(lines))

    def line(self, message: Message) -> bytes:
        """One message as it goes over the wire, with its newline."""
        source = self._source
        priority = self._facility * 8 + (_ERR if message.stderr else _INFO)
        stamp = time.strftime("%b %e %H:%M:%S", time.localtime(message.time // 1_000_000_000))
        if self._format == "":
            head = f"<{priority}>{stamp} {source.tag}[{source.pid}]: "
        elif self._format == "rfc3164":
            head = f"<{priority}>{stamp} {source.host} {source.tag}[{source.pid}]: "
        else:
            micro = self._format == "rfc5424micro"
            moment = moment_of(message.time)
            exact = moment.isoformat(timespec="microseconds" if micro else "seconds")
            exact = exact.replace("+00:00", "Z")
            head = f"<{priority}>1 {exact} {source.host} {source.tag} {source.pid} {source.tag} - "
        return f"{head}{message.text}\n".encode("utf-8", "replace")

    def close(self) -> None:
        self._connection.close()


def _context(options: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("syslog-tls-ca-cert") or None)
    if options.get("syslog-tls-skip-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = options.get("syslog-tls-cert")
    if certificate:
        context.load_cert_chain(certificate, options.get("syslog-tls-key") or None)
    return context
