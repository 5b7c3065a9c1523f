"""`aufs`: no kernel of these days has it. What is left is to say so."""

from __future__ import annotations

from typing import NoReturn

from gantry.model.errors import System


def open_aufs(root: str) -> NoReturn:
    """System, always: images of an aufs engine have to be saved there and loaded here."""
    raise System(
        "driver not supported: aufs: this kernel has no aufs, and the driver is gone from Docker"
        f" since version 24; save the images with the old engine and load them here ({root})"
    )
