"""A process that attends to one container's streams, for as long as there is anything of it.

What a shim and a keeper have in common: the loop, the daemons they answer, children of their
own that compress logs, and when they may go.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from gantry.ipc.frames import Message
from gantry.model.task import ExitStatus
from gantry.shim import forking, handover, worker
from gantry.shim.folder import Folder
from gantry.shim.handover import Handover
from gantry.shim.loop import Loop
from gantry.shim.peers import Peers, Reply
from gantry.shim.running import Endings, Running

FOLDER_SECONDS = 2.0
"""Between looks for the folder."""

CLIENT_SECONDS = 0.5
"""Between looks whether clients have what they are owed."""


def attend(
    kind: Callable[[socket.socket, Handover], Attendant],
    control: int,
    woken: tuple[bytes, list[int]] | None,
) -> None:
    """Be one of `kind`, woken with a handover (None: there was none) beside its control socket.

    Its last words go to its folder.
    """
    if woken is None:
        return
    made = handover.unpack(*woken)
    try:
        kind(socket.socket(fileno=control), made).serve()
    except BaseException:
        forking.last_words(Folder(made.folder))
        raise


class Attendant:
    """folder: by which daemons find it."""

    def __init__(self, folder: str) -> None:
        self.folder = Folder(folder)
        self._loop = Loop(self.child_ended)
        self._helpers: dict[int, Callable[[], None]] = {}
        self._peers = Peers(self._loop, self._answer, self._leave_when_done)
        self._endings = Endings(self._loop, self._tell)
        self._deleted = False

    def serve(self) -> None:
        """Until the container is deleted and every client has what it is owed."""
        self._loop.children()  # who ended before the loop was there to hear of it
        self._loop.run()

    def turn(self) -> None:
        """Serve what is ready now (for rehearsals)."""
        self._loop.turn(0)

    def close(self) -> None:
        """Let go of everything (for rehearsals): one that is over just exits."""
        self._peers.close()
        for process in self._all():
            process.io.close()
        self._loop.close()

    # -- of each kind ---------------------------------------------------------------------

    def _all(self) -> Iterable[Running]:
        """The container's processes, the first one first."""
        raise NotImplementedError

    def _answer(self, message: Message) -> Reply:
        """Do one request."""
        raise NotImplementedError

    def _tell(self, name: str, status: ExitStatus) -> None:
        """A process has ended, and its output is complete."""
        raise NotImplementedError

    # -- the same for all -----------------------------------------------------------------

    def _fork(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        self._helpers[worker.fork(work)] = then

    def child_ended(self, pid: int, status: int) -> None:
        """A child was waited for."""
        helper = self._helpers.pop(pid, None)
        if helper is not None:
            helper()
            self._leave_when_done()

    def _output_ended(self) -> None:
        for process in list(self._all()):
            self._endings.look(process)

    def _look_for_folder(self) -> None:
        """A daemon finds us by our folder. Ended, alone and without it, nobody ever comes; but
        a slow client may still be owed output."""
        if self._idle() and not self._peers and not self.folder.exists():
            self._loop.stop()
        else:
            self._loop.later(FOLDER_SECONDS, self._look_for_folder)

    def _leave_when_done(self) -> None:
        """After delete: when every client has what it is owed."""
        if not self._deleted or self._helpers:
            return
        if self._idle() and not self._peers.pending:
            self._loop.stop()
        else:
            self._loop.later(CLIENT_SECONDS, self._leave_when_done)

    def _idle(self) -> bool:
        return all(process.io.idle for process in self._all())
