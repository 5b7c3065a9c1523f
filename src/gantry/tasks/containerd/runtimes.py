"""Which runtime of containerd's runs a task: what `runtimes` in daemon.json and --runtime say.

Our own and those with a path are programs with runc's command line: they run under containerd's
runc shim. Those with a type are containerd's ("io.containerd.kata.v2"), with the options that
daemon.json has for them (moby daemon/runtime_unix.go).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from gantry.ipc.protobuf import Value, encode
from gantry.model.errors import InvalidParameter, System
from gantry.model.task import TaskSpec
from gantry.tasks.containerd.api import Any

RUNC_SHIM: Final = "io.containerd.runc.v2"
_OWN: Final = "gantry"

# containerd.runc.v1.Options: names as daemon.json has them, in small letters.
_RUNC: Final[Mapping[str, int]] = {
    "nopivotroot": 1, "nonewkeyring": 2, "shimcgroup": 3, "iouid": 4, "iogid": 5,
    "binaryname": 6, "root": 7, "criupath": 8, "systemdcgroup": 9, "criuimagepath": 10,
    "criuworkpath": 11,
}  # fmt: skip
# runtimeoptions.v1.Options: for every other shim.
_OTHER: Final[Mapping[str, int]] = {"typeurl": 1, "configpath": 2, "configbody": 3}


class Runtimes:
    """root: where runc-like programs keep their state. scripts: a folder for wrappers, from
    which programs may be executed (/run often is not)."""

    def __init__(self, root: str, scripts: str) -> None:
        self._root = root
        self._scripts = scripts

    def of(self, spec: TaskSpec) -> tuple[str, Any | None]:
        """containerd's name of a task's runtime, and its options. InvalidParameter, System."""
        name, options = spec.runtime_type or RUNC_SHIM, dict(spec.runtime_options)
        if not spec.runtime_type:
            own = spec.runtime == _OWN
            options["BinaryName"] = (
                own_program() if own else self._program(spec.runtime, spec.runtime_args)
            )
        if name != RUNC_SHIM:
            return name, _encoded("runtimeoptions.v1.Options", _OTHER, options) if options else None
        given = {key.lower() for key in options}
        if "root" not in given:
            options["Root"] = self._root
        if "systemdcgroup" not in given:
            options["SystemdCgroup"] = spec.systemd_cgroup
        if spec.restore:
            options["CriuImagePath"] = spec.restore
        return name, _encoded("containerd.runc.v1.Options", _RUNC, options)

    def _program(self, path: str, args: Sequence[str]) -> str:
        """The program; with arguments of its own, a script that calls it with them."""
        if not args:
            return path
        text = f'#!/bin/sh\nexec {shlex.join([path, *args])} "$@"\n'
        script = os.path.join(self._scripts, hashlib.sha256(text.encode()).hexdigest()[:16])
        if not os.path.exists(script):
            os.makedirs(self._scripts, 0o711, exist_ok=True)
            with open(f"{script}.new", "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(f"{script}.new", 0o755)
            os.rename(f"{script}.new", script)
        return script


def own_program() -> str:
    """Our own runtime as a program: gantry-runc, beside this interpreter or in PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), "gantry-runc")
    found = beside if os.access(beside, os.X_OK) else shutil.which("gantry-runc")
    if not found:
        raise System("gantry-runc is not installed: choose another runtime (--default-runtime)")
    return found


def _encoded(type_url: str, numbers: Mapping[str, int], options: Mapping[str, object]) -> Any:
    fields: list[tuple[int, Value]] = []
    for key, value in options.items():
        number = numbers.get(key.lower())
        if number is None or not isinstance(value, str | int):
            raise InvalidParameter(f"invalid runtime option {key}: {value!r}")
        fields.append((number, value))
    return Any(type_url, encode(fields))
