"""Which capabilities a container gets: Docker's fourteen, and what the user adds and drops."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

from gantry.kernel import capabilities as kernel
from gantry.kernel import procfs
from gantry.model.errors import InvalidParameter

DEFAULT: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
"""moby daemon/pkg/oci/caps/defaults.go."""


@functools.cache
def known() -> tuple[str, ...]:
    """All that this kernel has and this engine may give, in the order of their numbers."""
    bounding = int(procfs.status_field("self", "CapBnd"), 16)
    names = kernel.NAMES[: kernel.last() + 1]
    return tuple(name for number, name in enumerate(names) if bounding >> number & 1)


def normalise(names: Sequence[str] | None, field: str) -> list[str]:
    """Upper case with prefix, ALL as it is. InvalidParameter for unknown ones."""
    result = []
    for name in names or ():
        upper = name.upper()
        if upper != "ALL" and not upper.startswith("CAP_"):
            upper = "CAP_" + upper
        if upper != "ALL" and upper not in kernel.NAMES:
            raise InvalidParameter(f'invalid {field}: unknown capability: "{upper}"')
        result.append(upper)
    return result


def effective(
    add: Sequence[str] | None, drop: Sequence[str] | None, *, privileged: bool
) -> tuple[str, ...]:
    """The bounding, permitted and effective set (moby TweakCapabilities)."""
    if privileged:
        return known()
    added, dropped = normalise(add, "CapAdd"), normalise(drop, "CapDrop")
    if not added and not dropped:
        return DEFAULT
    if "ALL" in added:
        return tuple(name for name in known() if name not in dropped)
    if "ALL" in dropped:
        return tuple(dict.fromkeys(added))
    kept = [name for name in DEFAULT if name not in dropped]
    return tuple(dict.fromkeys([*kept, *added]))
