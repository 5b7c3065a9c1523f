"""Rows for people and for scripts: tables, Go templates, JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gantry.cli.template.execute import Template
from gantry.cli.template.nodes import TemplateError

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Columns(Generic[Item]):
    """What one kind of row can show.

    `headers` names each column's heading, `values` computes it; `methods` take an
    argument (`.Label "x"`) and are not part of the JSON form.
    """

    type_name: str
    headers: Mapping[str, str]
    values: Mapping[str, Callable[[Item], object]]
    methods: Mapping[str, Callable[[Item, str], object]] = field(default_factory=dict)


class Row(Generic[Item]):
    """One item, seen through its columns (what a template gets as its dot)."""

    def __init__(self, columns: Columns[Item], item: Item) -> None:
        self.type_name = columns.type_name
        self._columns = columns
        self._item = item

    def field(self, name: str) -> object:
        if name in self._columns.methods:
            method = self._columns.methods[name]
            return lambda argument: method(self._item, argument)
        return self._columns.values[name](self._item)

    def to_json(self) -> dict[str, object]:
        values = self._columns.values
        return {name: values[name](self._item) for name in sorted(values)}


class _Header:
    def __init__(self, columns: Columns[Item]) -> None:
        self.type_name = columns.type_name
        self._columns = columns

    def field(self, name: str) -> object:
        if name in self._columns.methods:
            return _label_header
        return self._columns.headers[name]

    def to_json(self) -> object:
        return dict(self._columns.headers)


def _label_header(name: str) -> str:
    return name.rsplit(".", maxsplit=1)[-1].replace("-", " ").replace("_", " ")


def render(columns: Columns[Item], items: Iterable[Item], template: str) -> str:
    """The text for `--format template`: `table …`, `json` or a Go template.

    Raises TemplateError, worded as Docker's client words it.
    """
    table = template.startswith("table")
    if template == "json":
        template = "{{json .}}"
    if table:
        template = template[len("table") :]
    source = template.strip(" ").replace("\\t", "\t").replace("\\n", "\n")
    try:
        parsed = Template(source)
    except TemplateError as error:
        raise TemplateError(f"failed to parse template: {error}") from error
    try:
        lines = [parsed.execute(Row(columns, item)) for item in items]
        if not table:
            return "".join(line + "\n" for line in lines)
        header = parsed.execute(_Header(columns), header=True)
    except TemplateError as error:
        raise TemplateError(f"failed to execute template: {error}") from error
    return align([header, *lines])


def align(lines: Sequence[str], least: int = 10, padding: int = 3) -> str:
    """Tab-separated cells in columns, as Go's tabwriter sets them.

    A column is as wide as the widest cell of the neighbouring lines that have it; the
    last cell of a line is not padded.
    """
    rows = [line.split("\t") for text in lines for line in text.split("\n")]
    widths: list[list[int]] = [[0] * (len(row) - 1) for row in rows]
    blocks = [(0, 0, len(rows))]
    while blocks:
        column, line, last = blocks.pop()
        while line < last:
            if column >= len(rows[line]) - 1:
                line += 1
                continue
            start, width = line, least
            while line < last and column < len(rows[line]) - 1:
                width = max(width, wide(rows[line][column]) + padding)
                line += 1
            for number in range(start, line):
                widths[number][column] = width
            blocks.append((column + 1, start, line))
    out = []
    for row, row_widths in zip(rows, widths, strict=True):
        cells = [
            cell + " " * (width - wide(cell))
            for cell, width in zip(row[:-1], row_widths, strict=True)
        ]
        out.append("".join(cells) + row[-1] + "\n")
    return "".join(out)


def wide(text: str) -> int:
    """Cells on a terminal: East Asian characters take two."""
    if text.isascii():
        return len(text)
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def ellipsis(text: str, limit: int) -> str:
    """At most `limit` characters, the last an ellipsis where something was cut."""
    if len(text) <= limit:
        return text
    return text[: limit - 1] + "…" if limit > 1 else text[:limit]


def short_id(identifier: str) -> str:
    return identifier.rpartition(":")[2][:12]
