"""Why a text is not one JSON document, in the words of Go's encoding/json.

Runs only after the fast parser has refused a body: clients and people see these texts in
Docker's 400 answers ("invalid character 'x' looking for beginning of value").
"""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 10000
SPACE: Final = " \t\r\n"
ESCAPES: Final = '"\\/bfnrt'
LITERALS: Final = ("true", "false", "null")


class _Stop(Exception):
    """The scan ended with this text."""


def syntax_error(text: str) -> str:
    """The message of a 400 answer, "" when the text is one well-formed document."""
    scanner = _Scanner(text)
    try:
        scanner.document()
    except _Stop as stop:
        return f"invalid JSON: {stop}"
    if scanner.space() < len(text):
        return "unexpected content after JSON"
    return ""


def _quote(char: str) -> str:
    match char:
        case "'":
            return r"'\''"
        case '"':
            return "'\"'"
        case _ if char.isprintable():
            return f"'{char}'"
    return repr(char).replace('"', "'")


class _Scanner:
    """One pass over the text, without recursion: bodies may nest as deep as they like."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def space(self) -> int:
        """Skip white space; the new position."""
        text, at = self.text, self.at
        while at < len(text) and text[at] in SPACE:
            at += 1
        self.at = at
        return at

    def fail(self, where: str) -> _Stop:
        """The error at the present position."""
        if self.at >= len(self.text):
            return _Stop("unexpected EOF")
        byte = chr(self.text[self.at].encode()[0])  # Go looks at bytes
        return _Stop(f"invalid character {_quote(byte)} {where}")

    def peek(self) -> str:
        """The next character after white space, "" at the end."""
        self.space()
        return self.text[self.at : self.at + 1]

    def document(self) -> None:
        """One value."""
        closers: list[str] = []
        self.value(closers)
        while closers:
            closer = closers[-1]
            char = self.peek()
            if char == closer:
                self.at += 1
                closers.pop()
            elif char == ",":
                self.at += 1
                if closer == "}":
                    self.key("looking for beginning of object key string")
                self.value(closers)
            else:
                kind = "object key:value pair" if closer == "}" else "array element"
                raise self.fail(f"after {kind}")

    def value(self, closers: list[str]) -> None:
        """A value, or the beginning of a container with its first element."""
        while True:
            if len(closers) > MAX_DEPTH:
                raise _Stop("exceeded max depth")
            char = self.peek()
            if char == "{":
                self.at += 1
                if self.peek() == "}":
                    self.at += 1
                    return
                closers.append("}")
                self.key("looking for beginning of object key string")
            elif char == "[":
                self.at += 1
                if self.peek() == "]":
                    self.at += 1
                    return
                closers.append("]")
            else:
                self.scalar(char)
                return

    def key(self, where: str) -> None:
        """An object's key and the colon."""
        if self.peek() != '"':
            raise self.fail(where)
        self.string()
        if self.peek() != ":":
            raise self.fail("after object key")
        self.at += 1

    def scalar(self, char: str) -> None:
        """A string, number or literal."""
        if char == '"':
            self.string()
        elif char and (char.isdigit() or char == "-") and char.isascii():
            self.number()
        else:
            for literal in LITERALS:
                if char == literal[0]:
                    self.literal(literal)
                    return
            raise self.fail("looking for beginning of value")

    def literal(self, word: str) -> None:
        """true, false or null."""
        for expected in word:
            if self.text[self.at : self.at + 1] != expected:
                raise self.fail(f"in literal {word} (expecting {_quote(expected)})")
            self.at += 1

    def string(self) -> None:
        """A quoted string."""
        self.at += 1
        text = self.text
        while self.at < len(text):
            char = text[self.at]
            if char == '"':
                self.at += 1
                return
            if char == "\\":
                self.at += 1
                self.escape()
            elif char < " ":
                raise self.fail("in string literal")
            else:
                self.at += 1
        raise self.fail("")

    def escape(self) -> None:
        """What follows a backslash."""
        char = self.text[self.at : self.at + 1]
        if char == "u":
            self.at += 1
            for _ in range(4):
                digit = self.text[self.at : self.at + 1]
                if not digit or digit not in "0123456789abcdefABCDEF":
                    raise self.fail("in \\u hexadecimal character escape")
                self.at += 1
        elif char and char in ESCAPES:
            self.at += 1
        else:
            raise self.fail("in string escape code")

    def number(self) -> None:
        """-?int frac? exp?"""
        if self.text[self.at] == "-":
            self.at += 1
        first = self.text[self.at : self.at + 1]
        self.digits("in numeric literal", single=first == "0")
        if self.text[self.at : self.at + 1] == ".":
            self.at += 1
            self.digits("after decimal point in numeric literal")
        if self.text[self.at : self.at + 1] in ("e", "E"):
            self.at += 1
            if self.text[self.at : self.at + 1] in ("+", "-"):
                self.at += 1
            self.digits("in exponent of numeric literal")

    def digits(self, where: str, *, single: bool = False) -> None:
        """One or more digits."""
        start = self.at
        while self.text[self.at : self.at + 1] in tuple("0123456789"):
            self.at += 1
            if single:
                return
        if self.at == start:
            raise self.fail(where)
