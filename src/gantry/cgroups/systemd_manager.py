"""systemd's manager: units made, changed and stopped over D-Bus (org.freedesktop.systemd1(5)).

Whose systemd: the machine's for root, the user's own for everybody else. root without a bus
talks to the machine's systemd by its own socket: nothing has to run but systemd.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote

from gantry.cgroups.dbus import Connection, DBusError, Value, Variant
from gantry.kernel.procfs import outer_uid

_SERVICE: Final = "org.freedesktop.systemd1"
_MANAGER: Final = "org.freedesktop.systemd1.Manager"
_PATH: Final = "/org/freedesktop/systemd1"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
PRIVATE: Final = "/run/systemd/private"
SYSTEM_BUS: Final = "/run/dbus/system_bus_socket"

Property = tuple[str, Variant]


def _socket_of(address: str) -> str:
    """The first unix socket of a D-Bus address list, "" when there is none."""
    for entry in address.split(";"):
        kind, _, rest = entry.partition(":")
        if kind != "unix":
            continue
        for pair in rest.split(","):
            key, _, value = pair.partition("=")
            if key in ("path", "abstract"):
                return ("@" if key == "abstract" else "") + unquote(value)
    return ""


def _address(user: bool) -> tuple[str, bool]:
    """(socket, whether a bus is there). OSError ENOENT: no systemd is known here."""
    if user:
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        given = _socket_of(os.environ.get("DBUS_SESSION_BUS_ADDRESS", ""))
        if given or (runtime and os.path.exists(f"{runtime}/bus")):
            return given or f"{runtime}/bus", True
        if runtime and os.path.exists(f"{runtime}/systemd/private"):
            return f"{runtime}/systemd/private", False
        raise OSError(errno.ENOENT, "no systemd of the user's: neither DBUS_SESSION_BUS_ADDRESS "
                      "nor a bus in XDG_RUNTIME_DIR")  # fmt: skip
    given = _socket_of(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", ""))
    if given:
        return given, True
    if os.path.exists(PRIVATE):
        return PRIVATE, False
    if os.path.exists(SYSTEM_BUS):
        return SYSTEM_BUS, True
    raise OSError(
        errno.ENOENT, "systemd not running on this host, cannot use systemd cgroups manager"
    )


class Manager:
    """A connection to systemd. Use it as a context manager.

    user: the user's own systemd. Every method raises OSError (DBusError: systemd's own words).
    """

    def __init__(self, *, user: bool) -> None:
        address, bus = _address(user)
        self._connection = Connection(address, uid=outer_uid(), bus=bus)
        self._version = 0

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.__exit__()

    def _call(self, member: str, signature: str = "", *arguments: Value) -> list[Value]:
        return self._connection.call(_SERVICE, _PATH, _MANAGER, member, signature, *arguments)

    def property(self, name: str) -> str:
        """One of the manager's own properties, as text."""
        (found,) = self._connection.call(_SERVICE, _PATH, _PROPERTIES, "Get", "ss", _MANAGER, name)
        return str(found.value) if isinstance(found, Variant) else str(found)

    def version(self) -> int:
        """systemd's version ("v252.38-1~deb12u1" → 252); 0 when it does not say."""
        if not self._version:
            try:
                text = self.property("Version").strip('"').removeprefix("v")
            except DBusError:
                return 0
            digits = text[: next((i for i, c in enumerate(text) if not c.isdigit()), len(text))]
            self._version = int(digits or "0")
        return self._version

    def start(self, unit: str, properties: Sequence[Property]) -> None:
        """Start a transient unit and wait until it is there."""
        self._call("Subscribe")
        try:
            self._start(unit, properties)
        except DBusError as error:
            if not error.name.endswith(".UnitExists"):
                raise
            # One that failed before holds its name until it is reset (as runc).
            self._reset(unit)
            self._start(unit, properties)

    def _start(self, unit: str, properties: Sequence[Property]) -> None:
        (job,) = self._call(
            "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", properties, []
        )
        result = self._connection.wait_signal("JobRemoved", 1, job)
        if result[3] != "done":
            self._reset(unit)
            raise OSError(errno.EIO, f"error creating systemd unit `{unit}`: got `{result[3]}`")

    def change(self, unit: str, properties: Sequence[Property]) -> None:
        """Change a unit's properties until it ends."""
        self._call("SetUnitProperties", "sba(sv)", unit, True, properties)

    def attach(self, unit: str, below: str, pid: int) -> None:
        """Have systemd move a process into a unit (or the cgroup `below` it)."""
        self._call("AttachProcessesToUnit", "ssau", unit, below, [pid])

    def stop(self, unit: str) -> None:
        """Stop a unit and wait until it is gone. One that is not there is fine."""
        self._call("Subscribe")
        try:
            (job,) = self._call("StopUnit", "ss", unit, "replace")
            self._connection.wait_signal("JobRemoved", 1, job)
        except DBusError as error:
            if not error.name.endswith(".NoSuchUnit"):
                raise
        self._reset(unit)

    def _reset(self, unit: str) -> None:
        try:
            self._call("ResetFailedUnit", "s", unit)
        except DBusError:
            return  # it has not failed: then nothing holds its name
