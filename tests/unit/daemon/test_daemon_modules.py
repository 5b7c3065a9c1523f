"""What an idle engine has in memory: not what it needs only to talk to others."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("aiohttp", "attr", "email", "html", "idna", "multidict", "requests", "yarl")


def test_an_engine_starts_without_a_web_framework() -> None:
    code = (
        "import sys, uvloop, gantry.daemon.main, gantry.daemon.engine;"
        f"print(*sorted(set({HEAVY}) & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
