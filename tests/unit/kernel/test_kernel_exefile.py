"""A process whose executable becomes another file while it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gantry
from gantry.kernel import contexts

SOURCE = Path(gantry.__file__).parent.parent

# One with a library of its own is small and copied, one that is a single file is mapped again.
INTERPRETERS = sorted({os.path.realpath(path) for path in (sys.executable, "/usr/bin/python3")
                       if os.path.exists(path)})  # fmt: skip

SCRIPT = f"""
import sys
sys.path.insert(0, {str(SOURCE)!r})
import os
old = os.readlink("/proc/self/exe")
from gantry.kernel import exefile, syscalls
if old not in open("/proc/self/maps").read().split():
    sys.exit("nothing to show")
try:
    exefile.become(syscalls.sealed_memfd("other", b""))
except OSError as error:
    if error.errno == 1 or "MAP_SIZE" in error.strerror:
        sys.exit(77)
    raise
assert os.readlink("/proc/self/exe") == "/memfd:other (deleted)"
assert old not in open("/proc/self/maps").read().split()
"""
AFTER = """
# Python's own data and code are what they were: types, small integers, allocator, imports.
import json, decimal, gc, subprocess
for _ in range(3):
    assert json.loads(json.dumps([str(i) for i in range(20000)]))[-1] == "19999"
    gc.collect()
assert str(decimal.Decimal(1) / 3).startswith("0.333")
pid = os.fork()
if not pid:
    os._exit(os.readlink("/proc/self/exe") != "/memfd:other (deleted)")
assert os.waitpid(pid, 0)[1] == 0
assert subprocess.run(["true"]).returncode == 0
try:
    os.execv("/proc/self/exe", ["x"])
except OSError as error:
    assert error.errno == 8, error
else:
    raise AssertionError
"""


@pytest.mark.skipif(not contexts.available, reason="needs glibc")
@pytest.mark.parametrize("python", INTERPRETERS)
def test_it_lets_go_of_its_file_and_goes_on(python: str) -> None:
    version = subprocess.run([python, "-V"], capture_output=True, text=True).stdout
    if version < "Python 3.11":
        pytest.skip(version)
    done = subprocess.run([python, "-I", "-c", SCRIPT + AFTER], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("needs CAP_SYS_ADMIN, and a kernel with CONFIG_CHECKPOINT_RESTORE")
    assert done.returncode == 0, done.stderr


def test_functions_in_a_row() -> None:
    if not contexts.available:
        pytest.skip("needs glibc")
    import ctypes

    libc = ctypes.CDLL(None)
    text = ctypes.create_string_buffer(b"abcdef")
    at = ctypes.addressof(text)
    contexts.in_a_row((libc.memset, at, ord("x"), 3), (libc.memcpy, at + 4, at, 2))
    assert text.value == b"xxxdxx"
