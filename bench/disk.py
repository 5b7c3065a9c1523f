"""A fresh file system for each engine's data.

ext4 leaves inodes that were deleted in the last minutes alone and looks for others, one by
one: on a disk where somebody has just deleted ten thousand files, making files is ten times
slower. So an engine does not pay for what the other one, or a test run before, has removed.
"""

from __future__ import annotations

import subprocess
import sys

from tests.support.engine import Engine

_SIZE = 16 << 30


def give(engine: Engine) -> None:
    """Mount a file system on a sparse file at the data root; the engine's end unmounts it."""
    file = engine.root / "disk.img"
    with file.open("wb") as disk:
        disk.truncate(_SIZE)
    engine.data_root.mkdir()
    make = ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", str(file)]
    mount = ["mount", "-o", "loop,noinit_itable", str(file), str(engine.data_root)]
    for command in (make, mount):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            print(f"bench: no disk of its own for {engine.kind}: {done.stderr}", file=sys.stderr)
            return
