"""What every command is given: the global flags, read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gantry.model.record import Record
from gantry.runtime.commands.flags import Arguments, WrongCount
from gantry.runtime.commands.log import Log
from gantry.runtime.errors import RuntimeFailure

if TYPE_CHECKING:
    from gantry.runtime.container import Container


class Context(Record):
    """root: the state folder. root_given: whether --root was on the command line."""

    root: str
    root_given: bool
    systemd_cgroup: bool
    rootless: str
    log: Log

    def container(self, arguments: Arguments) -> Container:
        """The container that the first word names."""
        from gantry.runtime.container import Container

        container_id = arguments.rest[0] if arguments.rest else ""
        if not container_id:
            raise RuntimeFailure("container id cannot be empty")
        return Container.load(container_id, self.root)


def exactly(command: str, arguments: Arguments, count: int) -> None:
    """runc's complaint about the number of words."""
    if len(arguments.rest) != count:
        raise WrongCount(f'gantry-runc: "{command}" requires exactly {count} argument(s)')


def at_least(command: str, arguments: Arguments, count: int) -> None:
    """As `exactly`, for a minimum."""
    if len(arguments.rest) < count:
        raise WrongCount(f'gantry-runc: "{command}" requires a minimum of {count} argument(s)')


def at_most(command: str, arguments: Arguments, count: int) -> None:
    """As `exactly`, for a maximum."""
    if len(arguments.rest) > count:
        raise WrongCount(f'gantry-runc: "{command}" requires a maximum of {count} argument(s)')


def default_root() -> str:
    """/run/gantry-runc, or a folder of the user's own for a plain user."""
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() != 0 and runtime_dir:
        return f"{runtime_dir}/gantry-runc"
    return "/run/gantry-runc"


def rooted(path: str) -> str:
    """--root as an absolute path; "/" itself is refused."""
    absolute = os.path.abspath(path)
    if absolute == "/":
        raise RuntimeFailure("Option --root argument should not be set to /")
    return absolute
