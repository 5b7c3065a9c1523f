"""Writes the file from which `boot.py` loads: `python -I -S codefile.py`."""

from __future__ import annotations

import importlib.util
import marshal
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader, ModuleSpec, SourceFileLoader
from types import CodeType
from typing import Final

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/gantry/runtime/")[0])

from gantry.runtime import boot

_IMPORT: Final = """
import sys
sys.path.insert(0, sys.argv[1])
from gantry.runtime import lean
lean.install()
import gantry.kernel.exefile
import gantry.runtime.main, gantry.runtime.commands.dispatch, gantry.runtime.commands.start
"""
# Nobody looks into these for a plain container. (What init looks into first must not be here:
# it imports nothing.)
_RARE: Final = frozenset(
    (
        "gantry.cgroups.stats",
        "gantry.cgroups.v1_stats",
        "gantry.runtime.console",
        "gantry.runtime.executor",
        "gantry.runtime.hooks",
        "gantry.runtime.notify",
        "gantry.runtime.seccomp",
        "gantry.runtime.userns",
    )
)
# C modules beneath lean.py's stand-ins, and some that only some containers need.
_ALSO: Final = ("_json", "_socket", "fcntl", "resource", "select", "termios")


def write() -> None:
    """Put the code of the packages into the file, and that of other modules that they use.

    A folder that cannot be written to is no error: it stays as it was.
    """
    order = _order()
    core: dict[str, CodeType | bytes | None] = {}
    index: boot.Index = {}
    pieces: list[bytes] = []

    def add(name: str, stamp: boot.Stamp, piece: bytes) -> None:
        index[name] = (stamp, sum(map(len, pieces)), len(piece))
        pieces.append(piece)

    for name in (*order, *_all(), *_ALSO):
        spec = importlib.util.find_spec(name)
        if spec is None or name in index:
            continue
        if isinstance(spec.loader, ExtensionFileLoader):
            add(name, _stamp(spec), b"")
        elif isinstance(spec.loader, SourceFileLoader):
            code = spec.loader.get_code(name)
            add(name, _stamp(spec), marshal.dumps(code))
            # A module that a package imports while it is not done itself has to wait for that.
            parent = name.rpartition(".")[0]
            if name in order and (not parent or parent in core):
                core[name] = pieces[-1] if name in _RARE else code
    add("", ("", 0, 0), marshal.dumps(list(core.values())))
    _replace(list(core), index, pieces)


def _order() -> list[str]:
    """What `run` loads, in the order in which it is done with each."""
    words = [sys.executable, "-I", "-S", "-X", "importtime", "-c", _IMPORT, boot.SOURCE]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stderr
    names = [line.rpartition("|")[2].strip() for line in told.splitlines()]
    first = names.index("gantry")  # before it is what every interpreter loads
    return [name for name in names[first:] if name != "__future__"]  # boot.py has one of its own


def _all() -> Iterator[str]:
    for package in boot.PACKAGES:
        for folder, _, files in os.walk(f"{boot.SOURCE}/{package.replace('.', '/')}"):
            for file in files:
                if file.endswith(".py"):
                    name = f"{folder}/{file}"[len(boot.SOURCE) + 1 : -3].replace("/", ".")
                    yield name.removesuffix(".__init__")


def _stamp(spec: ModuleSpec) -> boot.Stamp:
    assert spec.origin is not None
    found = os.stat(spec.origin)
    return spec.origin, found.st_mtime_ns, found.st_size


def _replace(core: list[str], index: boot.Index, pieces: list[bytes]) -> None:
    # A number has one size in marshal's form, whatever it is.
    begin = len(boot.HEAD) + 8 + len(marshal.dumps((boot.INTERPRETER, core, index)))
    moved = {name: (stamp, place + begin, size) for name, (stamp, place, size) in index.items()}
    table = marshal.dumps((boot.INTERPRETER, core, moved))
    data = boot.HEAD + len(table).to_bytes(8, "little") + table + b"".join(pieces)
    temporary = f"{boot.FILE}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(boot.FILE), exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, boot.FILE)
    except OSError:
        return


if __name__ == "__main__":
    write()
