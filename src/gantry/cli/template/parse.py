"""From the text of a template to its nodes (Go's text/template/parse, without define)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gantry.cli.template.nodes import (
    Action,
    Branch,
    Jump,
    Node,
    Operand,
    Pipeline,
    TemplateError,
    Text,
)

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<raw>`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\.)+')
    |(?P<declare>:=)
    |(?P<assign>=)
    |(?P<pipe>\|)
    |(?P<left>\()
    |(?P<right>\))
    |(?P<comma>,)
    |(?P<variable>\$\w*)
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<dot>\.)
    |(?P<word>[^\W\d]\w*)
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.S)
_PLAIN = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_KEYWORDS = {"if", "with", "range", "end", "else", "break", "continue"}


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    where: str
    spaced: bool
    """Whitespace stands before it: `.A .B` are two operands, `.A.B` is one."""


def parse(source: str, functions: frozenset[str]) -> list[Node]:
    """The nodes of a template. Raises TemplateError, worded as Go words it."""
    return _Parser(source, functions).parse()


class _Parser:
    def __init__(self, source: str, functions: frozenset[str]) -> None:
        self._source = source
        self._functions = functions
        self._position = 0
        self._tokens: list[_Token] = []
        self._next = 0

    def parse(self) -> list[Node]:
        nodes, ending = self._nodes(top=True)
        if ending:
            raise self._error(f"unexpected {{{{{ending}}}}}")
        return nodes

    # -- text and actions ------------------------------------------------------------

    def _nodes(self, *, top: bool = False) -> tuple[list[Node], str]:
        """Nodes up to an `end` or `else` (which is returned) or the end of the source."""
        nodes: list[Node] = []
        while True:
            start = self._source.find("{{", self._position)
            text = self._source[self._position : start if start >= 0 else None]
            if start < 0:
                self._position = len(self._source)
                if text:
                    nodes.append(Text(text))
                if not top:
                    raise self._error("unexpected EOF")
                return nodes, ""
            if self._source.startswith("{{- ", start):
                text = text.rstrip(" \t\r\n")
            if text:
                nodes.append(Text(text))
            if not self._action(start):
                continue
            word = self._peek()
            keyword = word.text if word and word.kind == "word" else ""
            if keyword in ("end", "else"):
                return nodes, keyword
            nodes.append(self._statement(keyword))

    def _action(self, start: int) -> bool:
        """Reads the tokens of the action at `start`; False for a comment."""
        position = start + 2
        if self._source.startswith("- ", position):
            position += 2
        if self._source.startswith("/*", position):
            end = self._source.find("*/", position)
            close = self._source.find("}}", end)
            if end < 0 or close < 0:
                raise self._error("unclosed comment")
            self._after(close, trimmed=self._source[end + 2 : close].strip() == "-")
            return False
        self._tokens, self._next = [], 0
        spaced = False
        while True:
            trimmed = self._source.startswith(" -}}", position)
            if trimmed or self._source.startswith("}}", position):
                self._after(position + 2 if trimmed else position, trimmed=trimmed)
                return True
            match = _TOKEN.match(self._source, position)
            if match is None:
                if position >= len(self._source):
                    raise self._error("unclosed action", position)
                character = self._source[position]
                if character in "\"'`":
                    raise self._error("unterminated quoted string", position)
                raise self._error(f"unexpected {character!r} in command", position)
            kind = match.lastgroup or ""
            if kind != "space":
                self._tokens.append(_Token(kind, match.group(), self._where(position), spaced))
            elif self._source.startswith("-}}", match.end()):
                self._after(match.end() + 1, trimmed=True)
                return True
            spaced = kind == "space"
            position = match.end()

    def _after(self, close: int, *, trimmed: bool) -> None:
        position = close + 2
        if trimmed:
            while position < len(self._source) and self._source[position] in " \t\r\n":
                position += 1
        self._position = position

    def _statement(self, keyword: str) -> Node:
        if keyword in ("break", "continue"):
            return Jump(keyword)
        if keyword in ("if", "with", "range"):
            self._next += 1
            return self._branch(keyword)
        if keyword in ("define", "template", "block"):
            raise self._error(f"{{{{{keyword}}}}} is not supported here")
        pipe = self._pipeline("command")
        return Action(pipe)

    def _branch(self, keyword: str) -> Branch:
        branch = Branch(keyword, self._pipeline(keyword))
        branch.body, ending = self._nodes()
        if ending == "else":
            self._next += 1
            word = self._peek()
            if word and word.text in ("if", "with"):
                self._next += 1
                branch.otherwise = [self._branch(word.text)]
            else:
                branch.otherwise, ending = self._nodes()
                if ending == "else":
                    raise self._error("expected end; found {{else}}")
        return branch

    # -- pipelines -------------------------------------------------------------------

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _pipeline(self, context: str, closing: str = "") -> Pipeline:
        pipe = Pipeline()
        self._declaration(pipe, context)
        while True:
            command: list[Operand] = []
            while (token := self._peek()) and token.kind not in ("pipe", "right"):
                command.append(self._operand())
            if not command:
                raise self._error(f"missing value for {context}")
            pipe.commands.append(command)
            token = self._peek()
            if token and token.kind == "pipe":
                self._next += 1
                continue
            break
        token = self._peek()
        if closing:
            if not token:
                raise self._error("unclosed left paren")
            self._next += 1
        elif token:
            raise self._error("unexpected right paren")
        return pipe

    def _declaration(self, pipe: Pipeline, context: str) -> None:
        kinds = [token.kind for token in self._tokens[self._next : self._next + 4]]
        names: list[str] = []
        if kinds[:1] == ["variable"] and kinds[1:2] in (["declare"], ["assign"]):
            names = [self._tokens[self._next].text]
        elif kinds == ["variable", "comma", "variable", "declare"] and context == "range":
            names = [self._tokens[self._next].text, self._tokens[self._next + 2].text]
        if names:
            self._next += 2 * len(names)
            pipe.variables = tuple(names)
            pipe.declares = self._tokens[self._next - 1].kind == "declare"

    def _operand(self) -> Operand:
        token = self._tokens[self._next]
        self._next += 1
        text = token.text
        kind, name, pipe = "literal", "", None
        value: object = None
        if token.kind == "left":
            kind, pipe = "pipe", self._pipeline("parenthesized pipeline", ")")
        elif token.kind == "dot":
            kind = "dot"
        elif token.kind == "field":
            kind = "field"
        elif token.kind == "variable":
            kind, name = "variable", text
        elif token.kind == "string":
            value = _unquote(text[1:-1])
        elif token.kind == "raw":
            value = text[1:-1]
        elif token.kind == "char":
            value = ord(_unquote(text[1:-1]))
        elif token.kind == "number":
            value = _number(text)
        elif token.kind == "word":
            kind, value, name = self._word(text, token.where)
        else:
            raise self._error(f"unexpected {text!r} in operand")
        names = [text[1:]] if kind == "field" else []
        while (follower := self._peek()) and follower.kind == "field" and not follower.spaced:
            names.append(follower.text[1:])
            text += follower.text
            self._next += 1
        return Operand(kind, token.where, text, value, name, tuple(names), pipe)

    def _word(self, text: str, where: str) -> tuple[str, object, str]:
        if text in ("true", "false"):
            return "literal", text == "true", ""
        if text == "nil":
            return "nil", None, ""
        if text in _KEYWORDS:
            raise self._error(f"unexpected <{text}> in operand")
        if text not in self._functions:
            raise TemplateError(
                f'template: :{where.split(":", maxsplit=1)[0]}: function "{text}" not defined'
            )
        return "function", None, text

    # -- messages --------------------------------------------------------------------

    def _where(self, position: int) -> str:
        line = self._source.count("\n", 0, position) + 1
        column = position - (self._source.rfind("\n", 0, position) + 1)
        return f"{line}:{column}"

    def _error(self, message: str, position: int | None = None) -> TemplateError:
        at = self._position if position is None else position
        return TemplateError(f"template: :{self._where(at).split(':')[0]}: {message}")


def _unquote(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        for group in (1, 2, 3):
            if match.group(group):
                return chr(int(match.group(group), 16))
        return _PLAIN.get(match.group(4), match.group(4))

    return _ESCAPE.sub(replace, text)


def _number(text: str) -> int | float:
    try:
        return int(text.replace("_", ""), 0)
    except ValueError:
        return float(text)
