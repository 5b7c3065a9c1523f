"""Values of storage options, as Docker reads them."""

from __future__ import annotations

import re
from typing import Final

from gantry.model.errors import InvalidParameter

_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?\s*", re.IGNORECASE)
_UNITS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_size(text: str, *, least: int = 0, name: str = "") -> int:
    """Bytes of "10G", "1.5m", "1048576" (units of 1024). InvalidParameter."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidParameter(f"invalid size: '{text}'")
    size = int(float(match[1]) * 1024 ** _UNITS[match[2].lower()])
    if size < 1 or size < least:
        raise InvalidParameter(
            f"invalid size: '{text}'"
            if size < 1
            else f"btrfs: storage size cannot be less than {name}"
        )
    return size


def parse_options(options: list[str], prefix: str, known: frozenset[str]) -> dict[str, str]:
    """`dm.basesize=10G` → {"basesize": "10G"}; only `known` names. InvalidParameter.

    Options of other drivers ("zfs.fsname" for overlay2) are refused, as dockerd does.
    """
    found: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise InvalidParameter(f"Unable to parse key/value option: '{option}'")
        key = key.lower()
        name = key.removeprefix(prefix + ".")
        if not key.startswith(prefix + ".") or name not in known:
            raise InvalidParameter(f"{prefix}: unknown option {key}")
        found[name] = value
    return found
