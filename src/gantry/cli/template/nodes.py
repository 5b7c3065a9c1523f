"""The parts of a parsed template."""

from __future__ import annotations

from dataclasses import dataclass, field


class TemplateError(Exception):
    """Go's own wording, which scripts that check formats read."""


@dataclass(slots=True)
class Operand:
    """A value in an action.

    `kind`: "dot", "nil", "literal", "field", "variable", "function", "pipe". `names` is
    the chain of fields that follows (`.A.B`); `where` line and column for messages.
    """

    kind: str
    where: str
    text: str
    value: object = None
    name: str = ""
    names: tuple[str, ...] = ()
    pipe: Pipeline | None = None


@dataclass(slots=True)
class Pipeline:
    """`$a, $b := command | command`: each command is operands, the first may be a function."""

    commands: list[list[Operand]] = field(default_factory=list)
    variables: tuple[str, ...] = ()
    declares: bool = True


@dataclass(slots=True)
class Text:
    text: str


@dataclass(slots=True)
class Action:
    pipe: Pipeline


@dataclass(slots=True)
class Branch:
    """if, with, range: `otherwise` is the else part."""

    keyword: str
    pipe: Pipeline
    body: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Jump:
    """break or continue."""

    keyword: str


Node = Text | Action | Branch | Jump
