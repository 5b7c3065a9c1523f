"""A plain user of the machine, with no rights and no home."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import gantry

USER: Final = 54321
PLAIN: Final = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]
"""The words that run what follows as the user."""


def _works(*words: str) -> bool:
    return subprocess.run([*PLAIN, *words], capture_output=True).returncode == 0


def cannot_unshare() -> bool:
    """Whether plain users may not make user namespaces here."""
    return not _works("unshare", "--user", "--map-root-user", "true")


def python() -> list[str]:
    """A Python that the user may execute, with gantry to import; [] when there is none."""
    version = "import sys; assert sys.version_info >= (3, 11); import gantry.runtime.main"
    for program in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin") or ""):
        words = ["env", f"PYTHONPATH={_source()}", program]
        if program and _works(*words, "-c", version):
            return words
    return []


@cache
def _source() -> str:
    """A copy of gantry where the user can read it: a checkout may be in somebody's home."""
    folder = Path(tempfile.mkdtemp(prefix="gantry-plain-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    compiled = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(gantry.__file__).parent, folder / "gantry", ignore=compiled)
    return str(folder)
