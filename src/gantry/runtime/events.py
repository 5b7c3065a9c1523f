"""What a container uses, in the JSON of runc's `events` (types/events.go)."""

from __future__ import annotations

from gantry.cgroups.runc_stats import runc_stats
from gantry.cgroups.stats import Stats


def data(stats: Stats) -> dict[str, object]:
    """The `data` object of a stats event. Times are nanoseconds, sizes bytes."""
    return {**runc_stats(stats), "intel_rdt": {}, "network_interfaces": None}
