"""The `local` driver: folders under the data root, and what mount(2) can put there.

On disk: <root>/<name>/_data; what is being removed has a name that no volume can have.
With options (type, device, o: as mount(8) takes them) the device is mounted on _data while
a container uses the volume.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Container
from typing import Final

from gantry.archive.removal import remove_tree
from gantry.kernel.mountapi import MS_BIND, MS_REC, MS_REMOUNT
from gantry.kernel.syscalls import mount, umount2
from gantry.model.errors import InvalidParameter, System
from gantry.mounts.options import parse

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_KNOWN: Final = ("type", "o", "device", "size")
_NEEDS: Final = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_DETACH: Final = 2
_ASIDE: Final = ".removed."


def check_name(name: str) -> None:
    """InvalidParameter with Docker's text."""
    if len(name) == 1:
        raise InvalidParameter(
            "volume name is too short, names should be at least two alphanumeric characters"
        )
    if _NAME.fullmatch(name) is None:
        raise InvalidParameter(
            f'"{name}" includes invalid characters for a local volume name, only'
            ' "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host'
            " directory, use absolute path"
        )


def check_options(options: dict[str, str] | None) -> None:
    """InvalidParameter for what the driver does not know or cannot do."""
    for key in options or {}:
        if key not in _KNOWN:
            raise InvalidParameter(f'invalid option: "{key}"')
    if options and options.get("size") not in (None, "", "0"):
        raise InvalidParameter("quota size requested but no quota support")
    for key, needed in _NEEDS.items():
        for other in needed:
            if options and key in options and other not in options:
                raise InvalidParameter(f'missing required option: "{other}"')


class LocalDriver:
    """Folders of volumes below `root`. Blocking."""

    def __init__(self, root: str) -> None:
        self.root = root
        os.makedirs(root, mode=0o701, exist_ok=True)

    def path(self, name: str) -> str:
        """Where the files are (`Mountpoint`)."""
        return os.path.join(self.root, name, "_data")

    def create(self, name: str) -> None:
        """The folders; what is there stays."""
        try:
            os.makedirs(os.path.join(self.root, name), mode=0o701, exist_ok=True)
            if not os.path.isdir(self.path(name)):
                os.mkdir(self.path(name), 0o755)
        except OSError as error:
            raise System(
                f"error while creating volume root path '{self.path(name)}': {error.strerror}"
            ) from None

    def set_aside(self, name: str) -> str:
        """Put the files out of the way, to be deleted or put back: the place, "" for none."""
        place = f"{_ASIDE}{os.urandom(4).hex()}.{name}"
        try:
            os.rename(os.path.join(self.root, name), os.path.join(self.root, place))
        except FileNotFoundError:
            return ""
        except OSError as error:
            path = os.path.join(self.root, name)
            raise System(f"error removing volume path '{path}': {error}") from error
        return place

    def put_back(self, place: str) -> None:
        """Undo `set_aside`."""
        name = place.removeprefix(_ASIDE).partition(".")[2]
        os.rename(os.path.join(self.root, place), os.path.join(self.root, name))

    def delete(self, place: str) -> None:
        """Delete what was set aside. Idempotent."""
        path = os.path.join(self.root, place)
        try:
            remove_tree(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise System(f"error removing volume path '{path}': {error}") from error

    def recover(self, known: Container[str]) -> None:
        """After a crash: what was set aside is put back if its volume is still known, else
        deleted; of volumes that never were, the empty folders go. Files stay."""
        for entry in os.listdir(self.root):
            name = entry.removeprefix(_ASIDE).partition(".")[2] if entry[0] == "." else entry
            if entry.startswith(_ASIDE):
                if name in known and not os.path.lexists(os.path.join(self.root, name)):
                    self.put_back(entry)
                else:
                    self.delete(entry)
            elif name not in known:
                with contextlib.suppress(OSError):
                    os.rmdir(self.path(name))
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.join(self.root, name))

    def mount(self, name: str, options: dict[str, str]) -> None:
        """Mount the options' device on _data."""
        target = self.path(name)
        device, kind = options["device"], options["type"]
        words = [word for word in options.get("o", "").split(",") if word]
        if kind in ("nfs", "cifs"):
            words = _resolved(words)
        parsed = parse(words)
        flags = parsed.mount_flags()
        if parsed.bind:
            flags |= MS_BIND | (MS_REC if parsed.recursive else 0)
        data = ",".join(parsed.data)
        try:
            mount(device, target, kind or None, flags, data)
            if parsed.bind and parsed.readonly:
                mount("", target, None, flags | MS_REMOUNT)
        except OSError as error:
            how = (f", flags: {flags:#x}" if flags else "") + (f", data: {data}" if data else "")
            raise System(
                f"error while mounting volume '{target}': failed to mount local volume: mount"
                f" {device}:{target}{how}: {_reason(error)}"
            ) from error

    def unmount(self, name: str) -> None:
        """Undo `mount`. Idempotent."""
        try:
            umount2(self.path(name), _DETACH)
        except OSError as error:
            if os.path.ismount(self.path(name)):
                raise System(f"cannot unmount volume {name}: {error}") from error


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()


def _resolved(options: list[str]) -> list[str]:
    """Network file systems take addresses, not names, in addr=."""
    import socket

    words = []
    for word in options:
        key, _, value = word.partition("=")
        if key == "addr":
            try:
                value = socket.gethostbyname(value)
            except OSError as error:
                raise System(
                    f"error resolving passed in network volume address: {error}"
                ) from error
            word = f"addr={value}"
        words.append(word)
    return words
