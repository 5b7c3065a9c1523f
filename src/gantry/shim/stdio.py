"""A process's standard streams: pipes or a terminal, its log, its attachments."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Callable
from socket import socket

from gantry.model.task import StdioSpec
from gantry.shim.attachment import Attachment
from gantry.shim.logfile import Log
from gantry.shim.loop import READ, Loop, would_block
from gantry.shim.pipes import OurFds
from gantry.shim.stdin import Stdin

READ_SIZE = 1 << 16


class ProcessIO:
    """The streams of a process that runs. Takes over `fds`, reads until their end.

    on_end is called once, when every output has ended and is in the log; on_stdin_end, if
    given, when the process's input has been closed.
    """

    def __init__(
        self,
        loop: Loop,
        spec: StdioSpec,
        fds: OurFds,
        log: Log,
        *,
        spill_folder: str,
        on_end: Callable[[], None],
        on_stdin_end: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._spec = spec
        self._log = log
        self._spill_folder = spill_folder
        self._on_end = on_end
        self._stdin = Stdin(loop, self._stdin_room, on_stdin_end)
        self._console = fds.console
        self._attachments: list[Attachment] = []
        self._held = False
        self._over = False
        self.activity = 0
        if fds.console >= 0:
            self._outputs = {fds.console: 1}  # fd → stream
            self._stdin.open(fcntl.fcntl(fds.console, fcntl.F_DUPFD_CLOEXEC, 0))
        else:
            self._outputs = {fds.stdout: 1, fds.stderr: 2}
            self._outputs.pop(-1, None)  # a terminal in somebody else's hands has one output
            if fds.stdin >= 0:
                self._stdin.open(fds.stdin)
        for fd in self._outputs:
            loop.watch(fd, READ, self._reader(fd))

    @property
    def idle(self) -> bool:
        """Whether no attachment is left."""
        return not self._attachments

    @property
    def ended(self) -> bool:
        """Whether all output was read."""
        return self._over

    def attach(self, sock: socket, wants: tuple[bool, bool, bool]) -> None:
        """A further client, at the other end of `sock`, which is taken over."""
        stdin = wants[0] and (self._spec.open_stdin or self._spec.terminal)
        attachment = Attachment(
            self._loop,
            sock,
            (stdin, wants[1], wants[2]),
            raw=self._spec.terminal,
            on_input=self._input,
            on_room=self._room,
            on_gone=self._gone,
            spill_folder=self._spill_folder,
        )
        self._attachments.append(attachment)
        if self._over:
            attachment.end()

    def resize(self, rows: int, columns: int) -> None:
        """A new terminal size (ioctl TIOCSWINSZ); nothing without a terminal."""
        if self._console >= 0:
            fcntl.ioctl(self._console, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def drain(self) -> None:
        """Read what is there now, without waiting for more."""
        for fd in list(self._outputs):
            for _ in range(64):
                if fd not in self._outputs or not self._output(fd):
                    break

    def finish(self) -> None:
        """End all: close outputs that are still open, let attachments run out. Idempotent."""
        if self._over:
            return
        self._over = True
        for fd in list(self._outputs):
            self._drop_output(fd)
        self._stdin.close()
        self._log.finish()
        for attachment in list(self._attachments):
            attachment.end()
        self._on_end()

    def close(self) -> None:
        """Drop everything at once."""
        self.finish()
        for attachment in list(self._attachments):
            attachment.close()

    def _reader(self, fd: int) -> Callable[[int], None]:
        def ready(_events: int) -> None:
            self._output(fd)

        return ready

    def _output(self, fd: int) -> bool:
        """One read; false when there was nothing or it was the last one."""
        stream = self._outputs[fd]
        try:
            data = os.read(fd, READ_SIZE)
        except OSError as error:
            if would_block(error):
                return False
            data = b""  # EIO: the terminal's other side is closed by all
        if not data:
            self._drop_output(fd)
            if not self._outputs:
                self.finish()
            return False
        self.activity += 1
        self._log.write(stream, data)
        if self._attachments:
            for attachment in list(self._attachments):
                attachment.send(stream, data)
            if any(attachment.full for attachment in self._attachments):
                self._hold()
        return True

    def _drop_output(self, fd: int) -> None:
        del self._outputs[fd]
        self._loop.unwatch(fd)
        if fd == self._console:
            self._console = -1
        os.close(fd)

    def _hold(self) -> None:
        if not self._held:
            self._held = True
            for fd in self._outputs:
                self._loop.unwatch(fd)  # a hang-up would be reported even for mask 0
            self._loop.later(1.0, self._cut_off)

    def _cut_off(self) -> None:
        """While the container waits: look for clients that take nothing any more."""
        if self._held:
            for attachment in list(self._attachments):
                if attachment.stalled:
                    attachment.close()
            self._room()
        if self._held:
            self._loop.later(1.0, self._cut_off)

    def _room(self) -> None:
        if self._held and not any(attachment.full for attachment in self._attachments):
            self._held = False
            for fd in self._outputs:
                self._loop.watch(fd, READ, self._reader(fd))

    def _gone(self, attachment: Attachment) -> None:
        if attachment in self._attachments:
            self._attachments.remove(attachment)
        if attachment.stdin and self._spec.stdin_once and not self._spec.terminal:
            self._stdin.end()
        self._room()

    def _input(self, attachment: Attachment, data: bytes) -> bool:
        if data:
            return self._stdin.write(data)
        if self._spec.stdin_once and not self._spec.terminal:
            self._stdin.end()
        return True

    def _stdin_room(self) -> None:
        for attachment in list(self._attachments):
            attachment.resume_input()
