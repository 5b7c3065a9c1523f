"""Where gantry-runc begins: its modules come from one file.

A command loads some eighty modules. To find, open, read and check each of them takes the
interpreter longer than to run them; so what `__pycache__` holds one by one is kept once more
in one file beside it (`codefile.py` writes it). A module from there is believed only while
its source has the size and the time of change that it had, as for any .pyc; otherwise it is
imported as ever, and the file is written anew when the command is done.

This is run as a program: `python -I -S boot.py COMMAND …`.
"""

import gc
import posix  # `os` comes later, with stand-ins for what it is made of (lean.py)
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, ExtensionFileLoader, SourceFileLoader
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType
    from typing import Final, TypeAlias

    Stamp: TypeAlias = tuple[str, int, int]
    """A source or a library, its time of change and its size."""
    Index: TypeAlias = dict[str, tuple[Stamp, int, int]]
else:
    ModuleType, Final = type(sys), object

gc.disable()  # a command is over before there is anything to collect

SOURCE: Final = __file__.rpartition("/gantry/runtime/")[0]
PACKAGES: Final = ("gantry.runtime", "gantry.cgroups", "gantry.mounts")
"""The file has all modules of these, and what they load of others."""
FILE: Final = f"{SOURCE}/gantry/runtime/__pycache__/gantry-runc.{sys.implementation.cache_tag}"
HEAD: Final = MAGIC_NUMBER + b"runc"
"""What the file begins with. Then: the size of the index, the index, all codes."""
INTERPRETER: Final = f"{sys.version} {sys.base_prefix}"
_STARTING: Final = frozenset(("run", "create", "exec", "restore"))


class Codes:
    """What is in the file; finds and loads modules by importlib's protocols.

    stale: something was not to be had.
    """

    def __init__(self) -> None:
        # Of each module its stamp, and its code's place and size (0: it is a library). Under
        # "" are the codes of the core: what `run` loads, each after those that it imports.
        self._index: Index = {}
        self._core: list[str] = []
        self._written = 0
        try:
            head = self._piece(0, len(HEAD) + 8)
            if head.startswith(HEAD):
                size = int.from_bytes(head[-8:], "little")
                interpreter, core, index = loads(self._piece(len(head), size))
                if interpreter == INTERPRETER:
                    self._core, self._index = core, index
        except OSError:
            pass
        self.stale = not self._index

    def _piece(self, place: int, size: int) -> bytes:
        """From the file. OSError: it is not there, or is another one meanwhile."""
        # Opened each time: fds that the caller means for the container follow right after
        # stderr, and must not be taken for one that was left open here.
        fd = posix.open(FILE, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            written = posix.fstat(fd).st_mtime_ns
            self._written = self._written or written
            if written != self._written:
                raise FileNotFoundError
            return posix.pread(fd, size, place)
        finally:
            posix.close(fd)

    def code(self, name: str) -> "CodeType":
        """A module's."""
        stamp, place, size = self._index[name]
        try:
            return loads(self._piece(place, size))  # type: ignore[no-any-return]
        except OSError:
            code = SourceFileLoader(name, stamp[0]).get_code(name)
            assert code is not None
            return code

    def preload(self, *, execute: bool) -> None:
        """Make all modules of the core without a search for each, and execute those that all
        containers need (`execute`), or each when somebody looks into it."""
        stamps = [self._index[name][0] for name in self._core]
        if not all(map(_fresh, stamps)):
            self.stale = True
            return
        codes: list[CodeType | bytes] = [b""] * len(stamps)
        if execute and stamps:
            try:
                codes = loads(self._piece(*self._index[""][1:]))
            except OSError:
                return
        for name, stamp, code in zip(self._core, stamps, codes, strict=True):
            if name in sys.modules:
                continue
            spec = self._spec(name, stamp)
            module = sys.modules[name] = _CoreModule(name)
            module.__spec__, module.__file__ = spec, stamp[0]
            parent, _, child = name.rpartition(".")
            module.__package__ = parent
            if spec.submodule_search_locations:
                module.__path__ = spec.submodule_search_locations
                module.__package__ = name
            if type(code) is bytes:
                # Kept here: inside of a container nobody may open the file any more.
                module.__dict__["_later"] = code
            else:
                exec(code, module.__dict__)
            if parent:
                setattr(sys.modules[parent], child, module)
            if name == "gantry.runtime.lean":
                module.install()  # type: ignore[operator]  # a module's function

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: object = None
    ) -> ModuleSpec | None:
        known = self._index.get(name)
        if known is None:
            self.stale |= name.startswith(PACKAGES)
            return None
        stamp, _, size = known
        if not _fresh(stamp):
            self.stale = True
            return None
        return self._spec(name, stamp, library=not size)

    def _spec(self, name: str, stamp: "Stamp", *, library: bool = False) -> ModuleSpec:
        file = stamp[0]
        loader = ExtensionFileLoader(name, file) if library else self
        spec = ModuleSpec(name, loader, origin=file)  # type: ignore[arg-type]  # a protocol
        spec.has_location = True
        if file.endswith("/__init__.py"):
            spec.submodule_search_locations = [file[:-12]]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """The usual one."""

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code(module.__name__), module.__dict__)


class _CoreModule(ModuleType):
    """Executed at the first look into it, if it was not before."""

    def __getattr__(self, name: str) -> object:
        code: bytes | None = self.__dict__.pop("_later", None)
        if code is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if code:
            exec(loads(code), self.__dict__)
        else:
            assert self.__spec__ is not None and isinstance(self.__spec__.loader, Codes)
            self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _fresh(stamp: "Stamp") -> bool:
    file, changed, size = stamp
    try:
        found = posix.stat(file)
    except OSError:
        return False
    return found.st_mtime_ns == changed and found.st_size == size


def _main() -> None:
    sys.path.insert(0, SOURCE)
    # Each module asks for its `annotations`, and none looks at them.
    future = sys.modules["__future__"] = ModuleType("__future__")
    vars(future)["annotations"] = None
    codes = Codes()
    sys.meta_path.insert(0, codes)
    starting = not _STARTING.isdisjoint(sys.argv)
    if starting and posix.geteuid() != 0:
        # Before the time that the rest takes: a plain user's command executes itself again.
        from gantry.runtime import sealed

        try:
            if not sealed.is_sealed():
                sealed.seal(sys.argv[1:])
        except OSError:
            pass  # `run` tries again, and says why
    codes.preload(execute=starting)
    from gantry.runtime import lean

    lean.install()
    from gantry.runtime.main import finish, run

    status = run(sys.argv[1:])
    if codes.stale and posix.access(FILE.rpartition("/")[0], posix.W_OK):
        _write()
    finish(status)


def _write() -> None:
    """Have the file written, by a process that is nobody's but its own."""
    null = [(posix.POSIX_SPAWN_OPEN, fd, "/dev/null", posix.O_RDWR, 0) for fd in (0, 1, 2)]
    words = [sys.executable, "-I", "-S", f"{SOURCE}/gantry/runtime/codefile.py"]
    try:
        posix.waitpid(posix.posix_spawn(sys.executable, words, posix.environ, file_actions=null), 0)
    except OSError:
        return


if __name__ == "__main__":
    _main()
