"""runc's command-line syntax: `-x`, `--xx`, `--xx=value`, `--xx value`; `-` counts like `--`.

A parser of our own, because importing the standard one costs as much as a container.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gantry.runtime.errors import RuntimeFailure

BOOL: Final = "bool"
STRING: Final = "string"
LIST: Final = "list"
INT: Final = "int"


class UsageError(RuntimeFailure):
    """The command line is wrong: runc prints its usage as well."""


class WrongCount(UsageError):
    """Too few words, or too many."""


class Arguments:
    """Parsed flags by their long names, and what is left."""

    def __init__(self, values: Mapping[str, str | bool | list[str]], rest: list[str]) -> None:
        self._values = values
        self.rest = rest

    def string(self, name: str, default: str = "") -> str:
        value = self._values.get(name, default)
        return value if isinstance(value, str) else default

    def flag(self, name: str) -> bool:
        return self._values.get(name) is True

    def strings(self, name: str) -> list[str]:
        value = self._values.get(name, [])
        return value if isinstance(value, list) else []

    def number(self, name: str, default: int = 0) -> int:
        text = self.string(name)
        return int(text) if text else default

    def given(self, name: str) -> bool:
        return name in self._values


def parse(
    words: Sequence[str], flags: Mapping[str, str], *, short: Mapping[str, str], stop_after: int
) -> Arguments:
    """Parse flags until `stop_after` positional words were seen (then all is positional).

    flags: long name → kind; short: one letter → long name. Flags may come between and
    after positional words, as urfave/cli allows; what is no flag there is a word ("-1").
    Raises UsageError.
    """
    values: dict[str, str | bool | list[str]] = {}
    rest: list[str] = []
    todo = list(reversed(words))
    while todo:
        word = todo.pop()
        if word == "--":
            rest.extend(reversed(todo))
            break
        if word == "-" or not word.startswith("-"):
            rest.append(word)
            if len(rest) >= stop_after:
                rest.extend(reversed(todo))
                break
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = short.get(name, name)
        kind = flags.get(name)
        if kind is None and rest:
            rest.append(word)
            continue
        if kind is None:
            raise UsageError(f"flag provided but not defined: -{name}")
        if kind == BOOL:
            values[name] = _boolean(name, value) if equals else True
            continue
        if not equals:
            if not todo:
                raise UsageError(f"flag needs an argument: -{name}")
            value = todo.pop()
        _store(values, name, kind, value)
    return Arguments(values, rest)


def _boolean(name: str, text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise UsageError(f'invalid boolean value "{text}" for -{name}: parse error')


def _store(values: dict[str, str | bool | list[str]], name: str, kind: str, value: str) -> None:
    if kind == LIST:
        found = values.setdefault(name, [])
        assert isinstance(found, list)
        found.append(value)
        return
    if kind == INT:
        try:
            int(value)
        except ValueError:
            raise UsageError(f'invalid value "{value}" for flag -{name}: parse error')
    values[name] = value
