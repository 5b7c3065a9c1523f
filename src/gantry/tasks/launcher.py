"""The launcher process as the daemon has it: started when needed, again when it died."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Sequence
from typing import NamedTuple

from gantry.ipc.channel import send_some
from gantry.ipc.launcher import MODULES, SHIM, STARTER
from gantry.model.errors import System
from gantry.tasks.launch import SHIMS, Interpreter, Launched

SPARE = 2
"""Shims forked ahead (0.3 MiB each): a start then waits for no fork but the container's own."""


class NewShim(NamedTuple):
    """Our ends of a shim that was just forked: its control socket, and the one by which a
    starter gives it its container (None: it has its own starter)."""

    control: socket.socket
    hand: socket.socket | None

    def let_go(self) -> None:
        """No starter will give it anything any more."""
        if self.hand is not None:
            self.hand.close()

    def close(self) -> None:
        """It ends."""
        self.control.close()
        self.let_go()


class Launcher:
    """python: the interpreter it runs on, None for ours. scratch: a folder for its rehearsal,
    which it makes and removes. module: what it forks. generation: launchers so far.

    It and what it forks may open as many files as this process when the `Launcher` was made:
    what the daemon raises for itself later is not for containers."""

    def __init__(self, python: str | None, scratch: str, module: str = SHIMS) -> None:
        self._scratch = scratch
        self._module = module
        self._python = python
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._interpreter: Interpreter | None = None
        self._launched: Launched | None = None
        self._starting = asyncio.Lock()
        self._answer: asyncio.Future[bytes] | None = None
        self._spare: list[NewShim] = []
        self._refilling = False
        self._closed = False
        self.generation = 0

    @property
    def alive(self) -> bool:
        """Whether a launcher runs, as far as is known."""
        return self._launched is not None

    @property
    def has_starters(self) -> bool:
        """Whether `fork_starter` is of use with the launcher that runs now."""
        return self._launched is not None and self._launched.starters

    @property
    def pid(self) -> int:
        """The launcher's pid, 0 when none runs."""
        return 0 if self._launched is None else self._launched.process.pid

    async def warm(self) -> socket.socket:
        """The socket to a launcher that is ready. System: none can be started."""
        if self._launched is not None:
            return self._launched.socket
        async with self._starting:
            if self._launched is None:
                self._launched = await asyncio.to_thread(self._launch)
                self.generation += 1
                loop = asyncio.get_running_loop()
                loop.add_reader(self._launched.socket, self._readable, self._launched)
            return self._launched.socket

    async def fork(self) -> NewShim:
        """A new shim."""
        return self._spare.pop() if self._spare else await self._fork()

    async def fork_starter(self) -> socket.socket:
        """Our end of the socket to a new starter."""
        ours, theirs = socket.socketpair()
        try:
            await self._ask(STARTER, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    async def refill(self) -> None:
        """Have shims forked ahead of the next starts; nothing when none can be had now."""
        if self._refilling:
            return
        self._refilling = True
        try:
            while len(self._spare) < SPARE and not self._closed:
                self._spare.append(await self._fork())
        except System:
            return  # the next start says why
        finally:
            self._refilling = False

    async def _fork(self) -> NewShim:
        await self.warm()
        pairs = [socket.socketpair() for _ in range(2 if self.has_starters else 1)]
        shim = NewShim(pairs[0][0], pairs[1][0] if len(pairs) > 1 else None)
        try:
            await self._ask(SHIM, [theirs.fileno() for _, theirs in pairs])
        except BaseException:
            shim.close()
            raise
        finally:
            for _, theirs in pairs:
                theirs.close()
        return shim

    async def _ask(self, what: bytes, fds: Sequence[int]) -> None:
        for _ in range(3):
            sock = await self.warm()
            try:
                await _send(sock, what, fds)
                return
            except OSError:
                self._ended()  # it had died without our noticing
        raise System("the launcher does not stay alive")

    async def modules(self) -> Sequence[str]:
        """What the launcher has imported."""
        sock = await self.warm()
        self._answer = asyncio.get_running_loop().create_future()
        await _send(sock, MODULES, [])
        return (await self._answer).decode().split()

    def close(self) -> None:
        """End it; shims go on, spare ones end."""
        self._closed = True
        self._ended()
        while self._spare:
            self._spare.pop().close()
        if self._interpreter is not None:
            self._interpreter.close()
            self._interpreter = None

    def _launch(self) -> Launched:
        if self._interpreter is None:
            self._interpreter = Interpreter(self._python)
        return self._interpreter.launch(self._scratch, self._module, files=self._files)

    def _readable(self, launched: Launched) -> None:
        try:
            data = launched.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data and launched is self._launched:
            self._ended()
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(data)

    def _ended(self) -> None:
        launched, self._launched = self._launched, None
        if launched is not None:
            asyncio.get_running_loop().remove_reader(launched.socket)
            launched.close()


async def _send(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """One byte; when hundreds of starts are queued there, wait for room."""
    try:
        send_some(sock, data, fds)
        return
    except BlockingIOError:
        pass
    copies = [os.dup(fd) for fd in fds]
    loop = asyncio.get_running_loop()
    room: asyncio.Future[None] = loop.create_future()

    def attempt() -> None:
        if room.done():
            return
        try:
            send_some(sock, data, copies)
        except BlockingIOError:
            return
        except OSError as error:
            room.set_exception(error)
        else:
            room.set_result(None)

    loop.add_writer(sock, attempt)
    try:
        await room
    finally:
        loop.remove_writer(sock)
        for fd in copies:
            os.close(fd)
