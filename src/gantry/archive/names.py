"""Names in an archive: as paths below the root, and what they mean for layers."""

from __future__ import annotations

import os
from typing import Final

from gantry.archive.errors import ArchiveError

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
META: Final = b".wh..wh."


def clean(name: bytes) -> bytes:
    """A name as a path below the root, without `.`, `..` and needless slashes; b"" is the root.

    ArchiveError where `..` leads out, before any symlink is looked at.
    """
    name = name.strip(b"/")
    if not (name.startswith(b".") or b"/." in name or b"//" in name):
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise ArchiveError(f"invalid path: {show(name)} is outside of the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def show(name: bytes) -> str:
    return repr(os.fsdecode(name[:256]))
