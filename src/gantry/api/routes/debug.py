"""/debug: how many requests, tasks and objects there are, while the engine runs."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from typing import Final

from gantry.api.call import Call
from gantry.api.router import Route
from gantry.http.reply import Sendable


async def variables(call: Call) -> Sendable:
    """GET /debug/vars: Go's expvar has cmdline and memstats; these are their counterparts."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return call.json(
        {
            "cmdline": sys.argv,
            "memstats": {"Sys": usage.ru_maxrss * 1024, "NumGC": gc.get_stats()[2]["collections"]},
            "tasks": len(asyncio.all_tasks()),
        }
    )


ROUTES: Final = [Route("GET", "/debug/vars", variables)]
