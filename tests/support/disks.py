"""File systems on loop files, mounted for a test and gone after it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def disk(folder: Path, size: int, make: list[str], options: str = "loop") -> Iterator[Path]:
    """A mount point of a fresh file system made by `make` (a mkfs command line)."""
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not installed")
    image, point = folder / "disk.img", folder / "disk"
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([*make, str(image)], check=True, capture_output=True)
    point.mkdir()
    done = subprocess.run(
        ["mount", "-o", options, str(image), str(point)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)
        image.unlink()
