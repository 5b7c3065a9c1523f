"""Devices: nodes in the container's /dev and what its cgroup lets it do with them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from typing import Any, Final

from gantry.model.container import DeviceMapping, DeviceRequest
from gantry.model.errors import InvalidParameter

Json = dict[str, Any]


def _rule(allow: bool, major: int | None = None, minor: int | None = None) -> Json:
    if major is None:
        return {"allow": allow, "access": "rwm"}
    return {"allow": allow, "type": "c", "major": major, "minor": minor, "access": "rwm"}


DEFAULT_RULES: Final[tuple[Json, ...]] = (
    _rule(False),
    _rule(True, 1, 5),  # zero
    _rule(True, 1, 3),  # null
    _rule(True, 1, 9),  # urandom
    _rule(True, 1, 8),  # random
    _rule(True, 5, 0),  # tty
    _rule(True, 5, 1),  # console
    _rule(False, 10, 229),  # fuse
)
"""moby daemon/pkg/oci/defaults.go."""

EVERYTHING: Final[tuple[Json, ...]] = (_rule(True),)

_CGROUP_RULE: Final = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")
_MODE: Final = re.compile(r"[rwm]{1,3}")
_SKIPPED: Final = ("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console")


def check_rules(rules: Iterable[str] | None) -> list[Json]:
    """`--device-cgroup-rule` lines as spec rules. InvalidParameter with Docker's text."""
    found = []
    for text in rules or ():
        match = _CGROUP_RULE.fullmatch(text)
        if match is None:
            raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
        kind, major, minor, access = match.groups()
        found.append(
            {
                "allow": True,
                "type": kind,
                "major": -1 if major == "*" else int(major),
                "minor": -1 if minor == "*" else int(minor),
                "access": access,
            }
        )
    return found


def check_requests(requests: Iterable[DeviceRequest] | None) -> None:
    """GPUs and CDI devices need drivers that are not here."""
    for request in requests or ():
        wanted = "[" + " ".join(f"[{' '.join(c)}]" for c in request.capabilities or []) + "]"
        raise InvalidParameter(
            f'could not select device driver "{request.driver}" with capabilities: {wanted}'
        )


def mapped(mapping: DeviceMapping) -> tuple[list[Json], list[Json]]:
    """(nodes, rules) of one `--device`; a folder means all devices below it."""
    source = mapping.path_on_host
    target = mapping.path_in_container or source
    access = mapping.cgroup_permissions or "rwm"
    if _MODE.fullmatch(access) is None:
        raise InvalidParameter(f"invalid device mode: {access}")
    real = os.path.realpath(source)
    try:
        status = os.stat(real)
    except OSError as error:
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{source}":'
            f" {(error.strerror or '').lower()}"
        ) from None
    if _is_device(status):
        node = node_of(real, target, status)
        return [node], [_allow(node, access)]
    nodes = []
    if stat.S_ISDIR(status.st_mode):
        for folder, _, files in os.walk(real):
            for name in files:
                path = os.path.join(folder, name)
                try:
                    found = os.lstat(path)
                except OSError:
                    continue
                if _is_device(found):
                    inside = target + path[len(real) :]
                    nodes.append(node_of(path, inside, found))
    if not nodes:
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{source}":'
            " not a device node"
        )
    return nodes, [_allow(node, access) for node in nodes]


def of_the_host() -> list[Json]:
    """All device nodes of /dev, for privileged containers."""
    nodes, folders = [], ["/dev"]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name in _SKIPPED:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(entry.path)
            elif _is_device(status):
                nodes.append(node_of(entry.path, entry.path, status))
    return nodes


def number(path: str) -> tuple[int, int]:
    """(major, minor) of a device node, for I/O limits. InvalidParameter."""
    try:
        device = os.stat(path).st_rdev
    except OSError as error:
        raise InvalidParameter(f"stat {path}: {(error.strerror or '').lower()}") from None
    return os.major(device), os.minor(device)


def _is_device(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)


def node_of(path: str, target: str, status: os.stat_result) -> Json:
    """A node as the spec says it."""
    return {
        "path": target,
        "type": "c" if stat.S_ISCHR(status.st_mode) else "b",
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def _allow(node: Json, access: str) -> Json:
    return {
        "allow": True,
        "type": node["type"],
        "major": node["major"],
        "minor": node["minor"],
        "access": access,
    }
