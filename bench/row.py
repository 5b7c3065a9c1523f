"""What a row of the table is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.engine import Engine


@dataclass(frozen=True)
class Row:
    """A measure.

    `measure(engine, quick)` makes one measurement; the runner calls it for both engines in
    turn, several times, and takes medians. `goal` is the ratio to get to, always stated as
    "times better than dockerd".
    """

    name: str
    unit: str
    goal: float
    measure: Callable[[Engine, bool], float]
    more_is_better: bool = False
    rounds: int = 5
    fresh: bool = False
    """Whether each measurement wants an engine that has done nothing before."""
    limit: float | None = None
    """What is measured of our engine alone, and must be at most this."""

    def ratio(self, ours: float, theirs: float) -> float:
        """Return how many times better than `theirs` our value is."""
        better, worse = (ours, theirs) if self.more_is_better else (theirs, ours)
        return better / worse if worse else float("inf")
