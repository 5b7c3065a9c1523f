"""Progress messages: the bar that clients of API 1.51 and older are given ready to print.

moby v28 `pkg/jsonmessage`, `JSONProgress.String`; later versions draw it on the client's side.
"""

from __future__ import annotations

from typing import Final

from gantry.api.backend import Json

_WIDTH: Final = 50
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def message(item: Json, version: int) -> Json:
    """One message of a progress stream as `version` has it."""
    detail = item.get("progressDetail")
    if version > 51 or not detail:
        return item
    return {**item, "progress": bar(detail.get("current", 0), detail.get("total", 0))}


def bar(current: int, total: int) -> str:
    """`[=====>   ]  1.2MB/12MB`."""
    if total <= 0:
        return f"{_size(current):>8}"
    done = min(int(current / total * 100) // 2, _WIDTH)
    counts = f"{_size(current):>8}" + (f"/{_size(total)}" if current <= total else "")
    return f"[{'=' * done}>{' ' * (_WIDTH - done)}] {counts}"


def _size(size: float) -> str:
    step = 0
    while size >= 1000 and step < len(_UNITS) - 1:
        size /= 1000
        step += 1
    return f"{size:.4g}{_UNITS[step]}"
