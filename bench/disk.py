"""A fresh file system for each engine's data.

ext4 leaves inodes that were deleted in the last minutes alone and looks for others, one by
one: on a disk where somebody has just deleted ten thousand files, making files is ten times
slower. So an engine does not pay for what the other one, or a test run before, has removed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.engine import Engine

_SIZE = 16 << 30


def give(engine: Engine) -> None:
    """Mount a file system on a sparse file at the data root; the engine's end unmounts it."""
    file = engine.root / "disk.img"
    with file.open("wb") as disk:
        disk.truncate(_SIZE)
    engine.data_root.mkdir()
    try:
        _mount(file, engine.data_root)
    except subprocess.CalledProcessError as error:
        print(f"bench: no disk of its own for {engine.kind}: {error.stderr}", file=sys.stderr)


def settle() -> None:
    """Before a measurement: what others have left to be written is no part of it."""
    os.sync()


def _mount(file: Path, target: Path) -> None:
    """Direct I/O: what is on it is in memory once, as with a real disk, not twice."""
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", str(file))
    device = _run("losetup", "--find", "--show", "--direct-io=on", str(file)).strip()
    try:
        _run("mount", "-o", "noinit_itable", device, str(target))
    finally:
        _run("losetup", "--detach", device)  # goes with the mount


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
