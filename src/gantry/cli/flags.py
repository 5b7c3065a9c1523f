"""Command-line flags with Docker's grammar (that of pflag): parsing only, no meaning.

`--name value`, `--name=value`, `-n value`, `-nvalue`, `-it`, `--rm=false`, `--`; flags
may follow arguments unless the command passes its arguments on (run, exec, create).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["bool", "string", "int", "list", "map", "bytes", "decimal", "duration", "filter"]
Value = bool | str | int | float | list[str]

_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `aliases` are other long names of the same flag (not shown in help)."""

    name: str
    help: str
    kind: Kind = "bool"
    short: str = ""
    default: Value | None = None
    aliases: tuple[str, ...] = ()
    hidden: bool = False
    placeholder: str = ""
    optional_value: str = ""
    """What the flag means without `=value` (a string flag that needs none)."""

    @property
    def many(self) -> bool:
        return self.kind in ("list", "map", "filter")

    @property
    def label(self) -> str:
        """How messages call it: `-n, --last`."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


class FlagError(Exception):
    """The command line does not parse; the message is pflag's."""


class Options:
    """The values of a command's flags, each with its default where it was not given."""

    def __init__(self, flags: Sequence[Flag]) -> None:
        self._flags = {flag.name: flag for flag in flags}
        self._given: dict[str, Value] = {}

    def put(self, flag: Flag, text: str) -> None:
        value = convert(flag, text)
        if flag.many:
            held = self._given.setdefault(flag.name, [])
            assert isinstance(held, list)
            held.append(str(value))
        else:
            self._given[flag.name] = value

    def changed(self, name: str) -> bool:
        """The user gave it, whatever the value."""
        return name in self._given

    def has(self, name: str) -> bool:
        """The command knows this flag."""
        return name in self._flags

    def on(self, name: str) -> bool:
        value = self._given.get(name, self._flags[name].default)
        return bool(value)

    def text(self, name: str) -> str:
        value = self._given.get(name, self._flags[name].default)
        return "" if value is None else str(value)

    def number(self, name: str) -> int:
        value = self._given.get(name, self._flags[name].default)
        return value if isinstance(value, int) else 0

    def real(self, name: str) -> float:
        value = self._given.get(name, self._flags[name].default)
        return float(value) if isinstance(value, int | float) else 0.0

    def many(self, name: str) -> list[str]:
        value = self._given.get(name)
        return list(value) if isinstance(value, list) else []

    def filters(self, name: str = "filter") -> dict[str, list[str]]:
        """`-f key=value` as the API's `filters` wants it."""
        found: dict[str, list[str]] = {}
        for item in self.many(name):
            key, _, value = item.partition("=")
            found.setdefault(key.strip().lower(), []).append(value.strip())
        return found


def parse(
    flags: Sequence[Flag], arguments: Sequence[str], *, interspersed: bool = True
) -> tuple[Options, list[str]]:
    """The options and the arguments that are left. Raises FlagError."""
    options = Options(flags)
    long = {name: flag for flag in flags for name in (flag.name, *flag.aliases)}
    short = {flag.short: flag for flag in flags if flag.short}
    left: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if word == "--":
            left += queue
            break
        if len(word) < 2 or word[0] != "-":
            left.append(word)
            if not interspersed:
                left += queue
                break
        elif word.startswith("--"):
            _long(long, options, word, queue)
        else:
            _short(short, options, word, queue)
    return options, left


def _long(known: dict[str, Flag], options: Options, word: str, queue: list[str]) -> None:
    name, equals, value = word[2:].partition("=")
    if not name:
        raise FlagError(f"bad flag syntax: {word}")
    flag = known.get(name)
    if flag is None:
        raise FlagError(f"unknown flag: --{name}")
    if equals:
        options.put(flag, value)
    elif flag.kind == "bool":
        options.put(flag, "true")
    elif flag.optional_value:
        options.put(flag, flag.optional_value)
    elif queue:
        options.put(flag, queue.pop(0))
    else:
        raise FlagError(f"flag needs an argument: --{name}")


def _short(known: dict[str, Flag], options: Options, word: str, queue: list[str]) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = known.get(letter)
        if flag is None:
            raise FlagError(f"unknown shorthand flag: '{letter}' in {word}")
        if letters.startswith("="):
            options.put(flag, letters[1:])
            return
        if flag.kind == "bool":
            options.put(flag, "true")
        elif flag.optional_value and not letters:
            options.put(flag, flag.optional_value)
        elif letters:
            options.put(flag, letters)
            return
        elif queue:
            options.put(flag, queue.pop(0))
        else:
            raise FlagError(f"flag needs an argument: '{letter}' in {word}")


def convert(flag: Flag, text: str) -> Value:
    """A flag's text as its kind's value: bytes and ints int, durations nanoseconds."""
    try:
        if flag.kind == "bool":
            if text not in _TRUE | _FALSE:
                raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
            return text in _TRUE
        if flag.kind == "int":
            return _integer(text)
        if flag.kind == "filter":
            if "=" not in text:
                raise ValueError("bad format of filter (expected name=value)")
            return text
        if flag.kind in ("bytes", "decimal", "duration"):
            from gantry.cli import units

            if flag.kind == "bytes":
                return -1 if text == "-1" else units.parse_bytes(text)
            if flag.kind == "decimal":
                return units.parse_decimal(text)
            return units.parse_duration(text)
    except ValueError as error:
        raise FlagError(f'invalid argument "{text}" for "{flag.label}" flag: {error}') from error
    return text


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
