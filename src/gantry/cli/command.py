"""What a command is, and what it is given to work with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gantry.cli.flags import Flag, Options

if TYPE_CHECKING:
    from gantry.cli.config import Config
    from gantry.client.engine import Engine


class ExitStatus(Exception):
    """End with this status; `message`, if any, goes to stderr first."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class UsageError(Exception):
    """The command line is wrong: the message is followed by how it should be."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its grammar, its help and the function behind it.

    `usage` is what stands after the command's own name (`[OPTIONS] CONTAINER`); `least`
    and `most` count arguments. `examples` are (command line, what it does).
    """

    summary: str
    usage: str
    run: Callable[[App, Options, list[str]], int | None]
    flags: Sequence[Flag] = ()
    least: int = 0
    most: int | None = 0
    interspersed: bool = True
    details: str = ""
    examples: Sequence[tuple[str, str]] = ()
    hidden: bool = False


@dataclass(slots=True)
class App:
    """A running command's surroundings: output, the engine, the user's configuration."""

    path: str
    connect: Callable[[App], Engine]
    host: str = ""
    context: str = ""
    debug: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _engine: Engine | None = None
    _config: Config | None = None

    @property
    def engine(self) -> Engine:
        """The engine, connected to at the first use."""
        if self._engine is None:
            self._engine = self.connect(self)
        return self._engine

    @property
    def config(self) -> Config:
        if self._config is None:
            from gantry.cli.config import load

            self._config = load(self.environment)
        return self._config

    def out(self, text: str) -> None:
        """A line to standard output."""
        sys.stdout.write(text + "\n")

    def write(self, text: str) -> None:
        sys.stdout.write(text)

    def err(self, text: str) -> None:
        """A line to standard error; what is still buffered for stdout goes first."""
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def each(
        self, names: Sequence[str], action: Callable[[str], object], *, echo: bool = True
    ) -> int:
        """Does `action` for each name, prints those that went well, errors at the end."""
        from gantry.model.errors import GantryError

        errors = []
        for name in names:
            try:
                action(name)
            except GantryError as error:
                errors.append(str(error))
            else:
                if echo:
                    self.out(name)
        for message in errors:
            self.err(message)
        return 1 if errors else 0
