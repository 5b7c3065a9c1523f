"""How gantry-runc comes by its code: one file, stand-ins, two stages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gantry

SOURCE = Path(gantry.__file__).parent.parent
BARE = [os.path.realpath(sys.executable), "-I", "-S"]


def lean(script: str, *words: str) -> str:
    """The output of a program that has the stand-ins."""
    begin = "from __future__ import annotations\n"
    begin += f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
    begin += "from gantry.runtime import lean; lean.install()\n"
    done = subprocess.run([*BARE, "-c", begin + script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the stand-ins ----------------------------------------------------------------------

DOCUMENTS = (
    "{}",
    ' {"a": [1, 2.5, -3e7, true, false, null], "ü": "\\u00fc\\n\\ud83d\\ude00"}\r\n',
    '"x"',
    "[NaN, Infinity]",
    "1" * 400,
    '{"a": 1, "a": 2}',
    "\ufeff{}",
    "",
    "{",
    "[1, 2",
    '{"a" 1}',
    "[1] 2",
    "nul",
    '"a\nb"',
)


@pytest.mark.parametrize("text", DOCUMENTS)
def test_json_is_read_as_ever(text: str) -> None:
    def outcome() -> str:
        try:
            return repr(json.loads(text))
        except ValueError as error:
            return f"{type(error).__name__}: {error}"

    script = """
import json
try:
    print(repr(json.loads(sys.argv[1])))
except ValueError as error:
    print(f"{type(error).__name__}: {error}")
"""
    assert lean(script, text) == outcome() + "\n"


@pytest.mark.parametrize("options", [{}, {"ensure_ascii": False}, {"separators": (",", ":")},
                                     {"indent": 2}, {"indent": "\t"}])  # fmt: skip
def test_json_is_written_as_ever(options: dict[str, object]) -> None:
    value: dict[str, object] = {
        "a": [1, 2.5, True, None, (), {}],
        "ü": 'x"\n\\é😀',
        "n": {"m": -(10**30)},
    }
    wanted = json.dumps(value, **options)  # type: ignore[arg-type]  # any of its options
    script = f"import json; print(ascii(json.dumps({value!r}, **{options!r})))"
    assert lean(script) == ascii(wanted) + "\n"


def test_names_of_a_tuple() -> None:
    script = """
from typing import NamedTuple

class Point(NamedTuple):
    x: int
    y: int = 7
    def sum(self) -> int:
        return self.x + self.y

p = Point(1)
assert p == (1, 7) and p.y == 7 and p.sum() == 8 and Point(x=2, y=3) == (2, 3)
assert p._replace(y=9) == (1, 9) and p._asdict() == {"x": 1, "y": 7} and Point._fields == ("x", "y")
for words, names in (((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})):
    try:
        Point(*words, **names)
    except TypeError:
        continue
    raise AssertionError((words, names))
"""
    lean(script)


def test_what_is_not_stood_in_for_is_the_real_one_s() -> None:
    script = """
import collections, functools, json, signal, socket, typing
assert signal.Signals.SIGTERM.name == "SIGTERM"
assert socket.AddressFamily.AF_UNIX == socket.AF_UNIX
assert typing.get_origin(typing.Optional[int]) is typing.Union
assert json.JSONDecodeError.__mro__[1] is ValueError
assert collections.Counter("aab")["a"] == 2
assert functools.lru_cache(lambda: 3)() == 3
import subprocess, re, enum, dataclasses
with socket.socket(socket.AF_UNIX) as sock:
    assert sock.fileno() > 2
"""
    lean(script)


def test_what_is_abstract_is_asked_of_the_real_ones() -> None:
    script = """
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
Alias = Callable[[object, str], object]
assert isinstance({}, Mapping) and isinstance({}, MutableMapping) and not isinstance([], Mapping)
assert isinstance([], Sequence) and isinstance(iter(()), Iterator) and isinstance(len, Callable)
assert issubclass(dict, Mapping) and not issubclass(int, Sequence)
import os
from collections.abc import Sized
assert isinstance([], Sized)
"""
    lean(script)


def test_the_environment_is_a_mapping_as_ever() -> None:
    script = """
import os
assert "PATH" in os.environ and "NOTHING" not in os.environ
assert os.environ.get("NOTHING") is None and os.environ.get("NOTHING", "x") == "x"
os.environ["A"] = "1"
os.environ.update({"B": "2"})
os.environ["EMPTY"] = ""
assert "EMPTY" in os.environ
assert dict(os.environ)["A"] == {**os.environ}["A"] == os.environ.copy()["A"] == "1"
assert ("B", "2") in os.environ.items() and "2" in os.environ.values()
assert set(os.environ) == set(os.environ.keys()) and os.environ.setdefault("C", "3") == "3"
assert os.environ.pop("B") == "2" and os.environ.pop("B", None) is None
try:
    os.environ.pop("B")
except KeyError:
    pass
else:
    raise AssertionError
import subprocess
assert subprocess.run(["sh", "-c", "echo $A$B$C"], capture_output=True).stdout == b"13\\n"
assert isinstance(os.environ, __import__("collections").abc.MutableMapping)
"""
    lean(script)


CONTEXTS = """
from contextlib import ExitStack, contextmanager, suppress
said = []

@contextmanager
def noted(name, quiet=False):
    said.append(name)
    try:
        yield name
    except KeyError:
        if not quiet:
            raise
    finally:
        said.append("/" + name)

def failing(error):
    raise error

with noted("a") as value, suppress(ValueError):
    failing(ValueError())
with noted("b", quiet=True):
    failing(KeyError("b"))
for error in (KeyError("c"), OSError(3), StopIteration("d")):
    try:
        with noted("c"):
            failing(error)
    except BaseException as found:
        said.append(found is error)
    try:
        with ExitStack() as stack:
            stack.callback(said.append, "last")
            stack.enter_context(noted("d", quiet=True))
            stack.push(lambda kind, *_: said.append(kind.__name__))
            failing(error)
    except BaseException as found:
        said.append(found is error)
with ExitStack() as stack:
    stack.callback(said.append, "kept")
    taken = stack.pop_all()
said.append("now")
taken.close()
taken.close()
try:
    with ExitStack() as stack:
        stack.callback(said.append, "all the same")
        stack.callback(failing, OSError(4, "four"))
        stack.push(lambda *found: said.append(found == (None, None, None)))
except OSError as found:
    said.append(found.errno)
with ExitStack() as outer:
    outer.push(suppress(OSError))
    outer.callback(failing, OSError(5, "five"))
    failing(KeyError("replaced"))
for steps in (lambda: (_ for _ in ()), lambda: (_ for _ in (1, 2))):
    try:
        with contextmanager(steps)():
            said.append("in")
    except RuntimeError as found:
        said.append(str(found))
print(said, noted.__name__)
"""


def test_contexts_end_as_ever() -> None:
    assert lean(CONTEXTS) == subprocess.run(
        [sys.executable, "-c", CONTEXTS], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip


def test_c_is_called_as_ever() -> None:
    script = """
import ctypes, errno
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_size_t, c_uint64, c_void_p
assert (ctypes.sizeof(c_int), ctypes.sizeof(c_long), ctypes.sizeof(c_uint64)) == (4, 8, 8)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.open(b"/nonexistent", 0) == -1 and ctypes.get_errno() == errno.ENOENT
assert not hasattr(libc, "no_such_function") and libc.open is libc.open
assert libc["open"] is not libc["open"] and libc["open"](b"/nonexistent", 0) == -1
libc.strlen.argtypes, libc.strlen.restype = [c_char_p], c_size_t
assert libc.strlen(b"four") == 4
buffer = ctypes.create_string_buffer(b"text", 16)
assert (buffer.value, len(buffer)) == (b"text", 16)
assert len(ctypes.create_string_buffer(b"text")) == 5 and len(ctypes.create_string_buffer(7)) == 7
class Pair(ctypes.Structure):
    _fields_ = (("one", c_int), ("two", c_void_p))
pair = Pair(one=1)
assert ctypes.sizeof(pair) == 16 and ctypes.addressof(pair) > 0
called = []
back = ctypes.PYFUNCTYPE(None)(lambda: called.append(1))
back()
assert called and ctypes.cast(back, c_void_p).value
assert POINTER(c_int)(c_int(3)).contents.value == 3
assert ctypes.string_at(b"abc", 2) == b"ab"  # the real one's
"""
    lean(script)


# --- the file ---------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the package that tests can change."""
    compiled = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCE / "gantry", tmp_path / "gantry", ignore=compiled)
    return tmp_path


def boot(source: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*BARE, str(source / "gantry/runtime/boot.py"), *words]
    return subprocess.run(command, capture_output=True, text=True)


def file_of(source: Path) -> Path:
    return source / f"gantry/runtime/__pycache__/gantry-runc.{sys.implementation.cache_tag}"


def loaded(source: Path, *words: str) -> list[str]:
    """The modules of a command, in order."""
    command = [*BARE, "-X", "importtime", str(source / "gantry/runtime/boot.py"), *words]
    told = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()
    return [line.rpartition("|")[2].strip() for line in told if line.startswith("import time:")]


def test_the_file_is_made_at_the_first_command_and_stays(source: Path) -> None:
    (source / "gantry/runtime/__pycache__").mkdir()
    assert boot(source, "--version").returncode == 0
    first = file_of(source).stat()
    for words in (["--version"], ["features"], ["list"], ["state", "x"], ["run", "-b", "/x", "x"]):
        boot(source, "--root", str(source / "state"), *words)
    again = file_of(source).stat()
    assert (first.st_ino, first.st_mtime_ns) == (again.st_ino, again.st_mtime_ns)


def test_a_changed_source_counts_at_once(source: Path) -> None:
    (source / "gantry/runtime/__pycache__").mkdir()
    boot(source, "--version")
    changed = source / "gantry/runtime/commands/info.py"
    changed.write_text(changed.read_text().replace('"gantry-runc version', '"changed version'))
    assert boot(source, "--version").stdout.startswith("changed version")
    before = file_of(source).stat().st_mtime_ns
    assert boot(source, "--version").stdout.startswith("changed version")
    assert file_of(source).stat().st_mtime_ns == before
    # One of those that are made without a search.
    errors = source / "gantry/runtime/commands/start.py"
    errors.write_text(errors.read_text().replace("config.json not found", "nothing found"))
    for _ in range(2):
        assert "nothing found" in boot(source, "run", "-b", str(source), "x").stderr


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 64])
def test_another_s_file_is_not_believed(source: Path, content: bytes) -> None:
    (source / "gantry/runtime/__pycache__").mkdir()
    file_of(source).write_bytes(content)
    assert boot(source, "--version").returncode == 0
    assert len(file_of(source).read_bytes()) > 100_000


def test_another_interpreter_s_file_is_not_believed(source: Path) -> None:
    (source / "gantry/runtime/__pycache__").mkdir()
    boot(source, "--version")
    data = file_of(source).read_bytes()
    version = sys.version.encode()
    assert version in data
    file_of(source).write_bytes(data.replace(version, version[:-1] + b"?"))
    assert boot(source, "--version").returncode == 0
    assert version in file_of(source).read_bytes()


def test_without_a_place_for_the_file(source: Path) -> None:
    (source / "gantry/runtime/__pycache__").write_text("not a folder")
    assert boot(source, "--version").returncode == 0


def test_a_start_loads_nothing_dear(source: Path) -> None:
    (source / "gantry/runtime/__pycache__").mkdir()
    boot(source, "--version")
    for words in (["run", "-b", "/x", "x"], ["state", "x"], ["delete", "-f", "x"]):
        names = loaded(source, "--root", str(source / "state"), *words)
        dear = {"_collections_abc", "collections", "contextlib", "ctypes", "dataclasses", "enum",
                "functools", "importlib", "inspect", "json", "re", "select", "signal", "socket",
                "subprocess", "types", "typing"}  # fmt: skip
        assert dear.isdisjoint(names), dear & set(names)
