"""A foreground session: this process' stdio joined to a container's, in one poll loop.

Order of a run (see `commands.run`): attach, register the wait, start, then `Session.run`
until the engine closes the stream or the user detaches.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

from gantry.cli import terminal
from gantry.client.engine import Engine, Hijacked, segment
from gantry.client.errors import ApiError, Unreachable
from gantry.client.frames import STDERR, SYSTEM_ERROR, Demultiplexer

_FORWARDED = [
    "HUP",
    "INT",
    "QUIT",
    "TERM",
    "USR1",
    "USR2",
    "CONT",
    "TSTP",
    "ALRM",
    "VTALRM",
    "PROF",
    "IO",
    "PWR",
    "WINCH",
]
_RESIZE_RETRY = 0.02


@dataclass(frozen=True, slots=True)
class Wiring:
    """Which of our streams are joined, and how: `keys` are the detach keys."""

    stdin: bool
    stdout: bool = True
    stderr: bool = True
    tty: bool = False
    keys: bytes = terminal.DEFAULT_DETACH_KEYS


class Signals:
    """Signals as bytes of a pipe, so that one poll waits for them too."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @contextmanager
    def caught(self, names: list[str]) -> Iterator[None]:
        before = {}
        wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for name in names:
            number = signal.Signals[f"SIG{name}"]
            before[number] = signal.signal(number, _ignore)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(self.read_end)
            os.close(self._write_end)

    def arrived(self) -> list[str]:
        try:
            numbers = os.read(self.read_end, 256)
        except BlockingIOError:
            return []
        return [signal.Signals(number).name.removeprefix("SIG") for number in numbers]


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The wakeup pipe has what is needed; a handler must exist for it to be written."""


class Session:
    """Joins stdio to `stream` until the engine ends it or the user detaches.

    `on_signal` gets names to pass on (None: signals act on this process as usual),
    `on_resize` gets rows and columns; `done` is a descriptor that becomes readable when
    the container has ended (matters where no output is attached).
    """

    def __init__(
        self,
        stream: Hijacked,
        wiring: Wiring,
        *,
        on_signal: Callable[[str], None] | None = None,
        on_resize: Callable[[int, int], None] | None = None,
        done: int = -1,
    ) -> None:
        self._stream = stream
        self._wiring = wiring
        self._on_signal = on_signal
        self._on_resize = on_resize
        self._done = done
        self._demultiplexer = Demultiplexer()
        self._escape = _escape_filter(wiring)
        self._resizes_left = 0
        self._signals = Signals()
        self._input_open = wiring.stdin

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Signals are caught from here on: enter before the container is started."""
        caught = list(_FORWARDED) if self._on_signal else []
        if self._on_resize and "WINCH" not in caught:
            caught.append("WINCH")
        with self._signals.caught(caught):
            yield

    def run(self) -> bool:
        """True when the stream has ended, False when the user detached."""
        sys.stdout.flush()
        with ExitStack() as stack:
            if self._wiring.stdin and self._wiring.tty and terminal.is_terminal(0):
                stack.enter_context(terminal.raw(0))
            if self._on_resize:
                self._resizes_left = 10
                self._resize()
            if not self._wiring.stdin:
                self._stream.close_write()
            return self._loop()

    def _loop(self) -> bool:
        poll = select.poll()
        poll.register(self._stream.fileno(), select.POLLIN)
        poll.register(self._signals.read_end, select.POLLIN)
        if self._input_open:
            poll.register(0, select.POLLIN)
        wants_output = self._wiring.stdout or self._wiring.stderr
        if self._done >= 0 and not wants_output:
            poll.register(self._done, select.POLLIN)
        while True:
            if self._stream.pending():
                ready = [self._stream.fileno()]
            else:
                timeout = _RESIZE_RETRY * 1000 if self._resizes_left else None
                ready = [descriptor for descriptor, _ in poll.poll(timeout)]
            if not ready and self._resizes_left:
                self._resize()
            if self._signals.read_end in ready:
                self._handle_signals()
            if 0 in ready and self._input_open:
                if self._input():
                    return False
                if not self._input_open:
                    poll.unregister(0)
                    if not wants_output and self._done < 0:
                        return True
            if self._done in ready:
                return True
            if self._stream.fileno() in ready and not self._output():
                return True

    def _output(self) -> bool:
        data = self._stream.recv()
        if not data:
            return False
        if self._wiring.tty:
            write_all(1, data)
            return True
        for stream, payload in self._demultiplexer.feed(data):
            if stream == SYSTEM_ERROR:
                text = payload.decode("utf-8", "replace")
                raise ApiError(500, f"error from daemon in stream: {text}")
            wanted = self._wiring.stderr if stream == STDERR else self._wiring.stdout
            if wanted:
                write_all(2 if stream == STDERR else 1, payload)
        return True

    def _input(self) -> bool:
        """Passes on what was typed; True when that were the detach keys."""
        try:
            data = os.read(0, 65536)
        except OSError:
            data = b""
        if not data:
            self._input_open = False
            self._stream.close_write()
            return False
        detached = False
        if self._escape:
            data, detached = self._escape.feed(data)
        if data:
            try:
                self._stream.send(data)
            except OSError:
                self._input_open = False
        return detached

    def _handle_signals(self) -> None:
        for name in self._signals.arrived():
            if name == "WINCH" and self._on_resize:
                self._resizes_left = 10
                self._resize()
            elif self._on_signal:
                self._on_signal(name)

    def _resize(self) -> None:
        rows, columns = terminal.size()
        self._resizes_left -= 1
        if not (rows or columns) or self._on_resize is None:
            self._resizes_left = 0
            return
        try:
            self._on_resize(rows, columns)
        except (ApiError, Unreachable):
            return
        self._resizes_left = 0


def _escape_filter(wiring: Wiring) -> terminal.EscapeFilter | None:
    if wiring.stdin and wiring.tty:
        return terminal.EscapeFilter(wiring.keys)
    return None


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def forward_to(engine: Engine, container: str) -> Callable[[str], None]:
    """Passes signals on to a container; one that has ended meanwhile does not mind."""

    def forward(name: str) -> None:
        try:
            engine.post(f"/containers/{segment(container)}/kill", {"signal": name})
        except (ApiError, Unreachable):
            pass

    return forward


def resize_of(engine: Engine, path: str) -> Callable[[int, int], None]:
    """`path` is /containers/ID or /exec/ID."""

    def resize(rows: int, columns: int) -> None:
        engine.post(f"{path}/resize", {"h": rows, "w": columns})

    return resize
