"""What is wrong with an archive."""

from __future__ import annotations

from gantry.model.errors import InvalidParameter


class ArchiveError(InvalidParameter):
    """The archive is malformed, cut off, or would write outside its folder."""


class NeedsParents(Exception):
    """A layer cannot be applied by itself: an entry of it leads through the layers below.

    The caller applies it again once those are there (see `apply.apply_layer`).
    """
