"""What a plain user can do, and the two helpers that do the rest (newuidmap(1))."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gantry.oci.runtime_spec import IDMapping
from gantry.runtime.errors import RuntimeFailure


def map_ids(pid: int, uids: Sequence[IDMapping], gids: Sequence[IDMapping]) -> None:
    """Write the maps of `pid` without rights over the host.

    A single id, the caller's own, needs nobody's help; the kernel then wants setgroups
    denied. Any other map is for the helpers, which ask /etc/subuid and /etc/subgid.
    """
    if _own(uids, os.geteuid()) and _own(gids, os.getegid()):
        _write(pid, "setgroups", "deny")
        _write(pid, "gid_map", f"{gids[0].container_id} {gids[0].host_id} 1\n")
        _write(pid, "uid_map", f"{uids[0].container_id} {uids[0].host_id} 1\n")
        return
    _helper("newgidmap", pid, gids)
    _helper("newuidmap", pid, uids)


def _own(mappings: Sequence[IDMapping], number: int) -> bool:
    return len(mappings) == 1 and mappings[0].size == 1 and mappings[0].host_id == number


def _write(pid: int, name: str, text: str) -> None:
    path = f"/proc/{pid}/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise RuntimeFailure(f"rootless: write {path}: {os.strerror(error.errno or 0).lower()}")


def _helper(name: str, pid: int, mappings: Sequence[IDMapping]) -> None:
    words = [
        str(n)
        for mapping in mappings
        for n in (mapping.container_id, mapping.host_id, mapping.size)
    ]
    import subprocess  # loads threading, whose at-fork hook would dirty 400 KiB of each shim

    try:
        done = subprocess.run([name, str(pid), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RuntimeFailure(f"rootless: {name} is not installed (Debian: uidmap)")
    if done.returncode != 0:
        raise RuntimeFailure(f"rootless: {name} failed: {done.stderr.strip()}")


def can_set_groups(gids: Sequence[IDMapping]) -> bool:
    """Whether setgroups(2) is allowed in a namespace that was mapped like this."""
    return os.geteuid() == 0 or not _own(gids, os.getegid())
