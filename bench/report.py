"""The table and the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.row import Row


@dataclass(frozen=True)
class Result:
    """Medians of one row."""

    row: Row
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """How many times better ours is."""
        return self.row.ratio(self.ours, self.theirs)


def number(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def markdown(results: list[Result], about: str) -> str:
    """Return the page for docs/bench.md."""
    lines = [
        "# gantryd beside dockerd",
        "",
        about,
        "",
        "| measure | dockerd | gantryd | times better | goal |",
        "|---|---:|---:|---:|---:|",
    ]
    for one in results:
        unit = one.row.unit
        if one.row.limit is not None:
            lines.append(
                f"| {one.row.name} | | {number(one.ours)} {unit} | | at most {one.row.limit:g} |"
            )
            continue
        lines.append(
            f"| {one.row.name} | {number(one.theirs)} {unit} | {number(one.ours)} {unit} "
            f"| **{one.ratio:.1f}×** | {one.row.goal:g}× |"
        )
    lines += ["", "![how many times better, by measure](bench.svg)", ""]
    return "\n".join(lines)


def svg(results: list[Result]) -> str:
    """Return a bar chart of the ratios on a logarithmic scale, each with its goal as a mark."""
    results = [one for one in results if one.row.limit is None]
    left, width, step, top = 330, 420, 34, 64
    most = max([one.ratio for one in results] + [one.row.goal for one in results] + [2.0])
    doublings = math.ceil(math.log2(most))
    height = top + step * len(results) + 16

    def place(ratio: float) -> float:
        return left + max(0.0, math.log2(ratio)) * width / doublings

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{height}" '
        f'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<text x="12" y="24" font-weight="bold">gantryd, times better than dockerd '
        "(black line: the goal)</text>",
    ]
    for power in range(doublings + 1):
        x = place(2.0**power)
        parts += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{height - 12}" stroke="#dddddd"/>',
            f'<text x="{x:.1f}" y="{top - 14}" text-anchor="middle" fill="#777777">'
            f"{2**power}×</text>",
        ]
    for index, one in enumerate(results):
        y = top + index * step
        end, goal = place(one.ratio), place(one.row.goal)
        colour = "#2f7d5b" if one.ratio >= one.row.goal else "#b0722a"
        beside = max(end, goal if goal - end < 50 else end) + 8
        parts += [
            f'<text x="{left - 10}" y="{y + 17}" text-anchor="end">{escape(one.row.name)}</text>',
            f'<rect x="{left}" y="{y + 3}" width="{end - left:.1f}" height="20" fill="{colour}"/>',
            f'<line x1="{goal:.1f}" x2="{goal:.1f}" y1="{y}" y2="{y + 26}" stroke="#222222" '
            'stroke-width="2"/>',
            f'<text x="{beside:.1f}" y="{y + 17}">{one.ratio:.1f}×</text>',
        ]
    parts.append("</svg>\n")
    return "\n".join(parts)
