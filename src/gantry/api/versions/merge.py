"""Additions to an answer for older clients, as moby's `daemon/internal/compat` makes them."""

from __future__ import annotations

from collections.abc import Mapping

from gantry.api.backend import Json


def add_missing(target: Json, extra: Mapping[str, object]) -> None:
    """Add keys that are absent (or null), recursively; what is there stays."""
    for key, value in extra.items():
        present = target.get(key)
        if isinstance(value, Mapping) and isinstance(present, dict):
            add_missing(present, value)
        elif present is None:
            target[key] = dict(value) if isinstance(value, Mapping) else value
