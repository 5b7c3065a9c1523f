"""One container's cgroup: what the runtime asks of it, whichever version it is.

Life: `create` (folders exist, limits hold), `attach` (processes are in it), any number of
`set`, `freeze`, `thaw`, `stats`, and at the end `destroy`. All of it blocks; all of it
raises OSError with the file's path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from gantry.model.resources import Resources

if TYPE_CHECKING:
    from gantry.cgroups.stats import Stats


class Cgroup(Protocol):
    """The contract; `v1.V1Cgroup`, `v2.V2Cgroup` and `systemd.SystemdCgroup` keep it."""

    @property
    def unit(self) -> str:
        """The systemd unit it is, "" when it is none."""

    def create(self, resources: Resources) -> None:
        """Make the folders and set the limits. A cgroup that has processes is refused."""

    def attach(self, pid: int, below: Mapping[str, str] = ...) -> None:
        """Move a process (all its threads) in.

        below: controller → a cgroup inside this one, for processes that go deeper.
        """

    def entrances(self, below: Mapping[str, str] = ...) -> tuple[str, ...]:
        """Files that a process with one thread, of the host's root, joins by writing "0" to.

        It is what `attach` does without the kernel's lock on all of the machine's forks,
        which costs its grace period. Empty: this kind has no such way, `attach` then. A
        cgroup.procs among them has that cost: the caller may write the pid there meanwhile.
        """

    def set(self, resources: Resources) -> None:
        """Set what is given, leave the rest."""

    def paths(self) -> dict[str, str]:
        """controller → folder ("" for the unified one), as state.json keeps them."""

    def pids(self) -> list[int]:
        """Every process in it and below it."""

    def freeze(self) -> None:
        """Stop all its processes; returns when they have stopped."""

    def thaw(self) -> None:
        """Let them go on."""

    def frozen(self) -> bool:
        """Whether it is frozen (or on its way there)."""

    def kill(self) -> bool:
        """SIGKILL to all, atomically; False where the kernel cannot (before 5.14)."""

    def stats(self) -> Stats:
        """What it has used so far."""

    def oom_kills(self) -> int:
        """How often the kernel killed for memory here."""

    def destroy(self) -> None:
        """Remove it. Not there is fine; with processes in it: OSError EBUSY."""
