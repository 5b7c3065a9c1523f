"""A mount as a neutral value, after containerd's `core/mount`.

Snapshot drivers emit these, `mounts` applies them, the shim and the runtime carry
them across process boundaries. Standard library only.
"""

from __future__ import annotations

from typing import NamedTuple


class Mount(NamedTuple):
    """One mount(8)-like instruction.

    type: file system type as mount(2) takes it ("overlay", "bind", "btrfs", "tmpfs").
    source: device or folder; free text for virtual file systems.
    options: fstab-style words ("ro", "rbind", "lowerdir=/a:/b", "rprivate").
    target: path below the rootfs where it goes, "" for the rootfs itself.
    """

    type: str
    source: str
    options: tuple[str, ...] = ()
    target: str = ""
