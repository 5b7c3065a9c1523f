"""The drivers that send elsewhere, by name: their options and senders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gantry.logs import fluentd, gelf, journald, syslog
from gantry.logs.sender import Sender, Source

COMMON: Final = frozenset(("tag", "labels", "labels-regex", "env", "env-regex"))
CACHE: Final = frozenset(("cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"))
"""Options of the local copy, which `docker logs` reads."""


def _fine(options: Mapping[str, str]) -> None:
    """Nothing to check."""


OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "syslog": syslog.OPTIONS,
    "gelf": gelf.OPTIONS,
    "fluentd": fluentd.OPTIONS,
    "journald": journald.OPTIONS,
}
CHECKS: Final[Mapping[str, Callable[[Mapping[str, str]], None]]] = {
    "syslog": syslog.check,
    "gelf": gelf.check,
    "fluentd": fluentd.check,
    "journald": _fine,
}
_SENDERS: Final[Mapping[str, Callable[[Source, Mapping[str, str]], Sender]]] = {
    "syslog": syslog.Syslog,
    "gelf": gelf.Gelf,
    "fluentd": fluentd.Fluentd,
    "journald": journald.Journald,
}


def sender(driver: str, source: Source, options: Mapping[str, str]) -> Sender:
    """InvalidParameter, OSError (certificates that cannot be read)."""
    return _SENDERS[driver](source, options)
