"""From a path to a route without regular expressions.

Every path of the Engine API is `/noun`, `/noun/verb`, `/noun/NAME`, `/noun/NAME/verb` or
`/noun/NAME/verb/REST`, where NAME may hold slashes (image references). So a look-up is
two or three dictionary accesses. Fixed paths win over names, as in Docker's order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gantry.http.reply import Sendable

if TYPE_CHECKING:
    from gantry.api.call import Call

Endpoint = Callable[["Call"], Awaitable[Sendable]]

NESTED: Final = ("checkpoints", "attach")
"""Verbs that something follows: /containers/NAME/checkpoints/REST, /containers/NAME/attach/ws."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path pattern with `{name}` and `{rest}`; `since` is the minor version
    from which it exists."""

    method: str
    pattern: str
    endpoint: Endpoint
    since: int = 0


class Router:
    """The table."""

    def __init__(self, routes: list[Route]) -> None:
        self._fixed: dict[str, Route] = {}
        self._verbs: dict[tuple[str, str, str], Route] = {}
        self._names: dict[tuple[str, str], Route] = {}
        self._nested: dict[tuple[str, str, str], Route] = {}
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        parts = route.pattern.strip("/").split("/")
        method, noun = route.method, parts[0]
        match parts[1:]:
            case ["{name}"]:
                self._names[method, noun] = route
            case ["{name}", verb]:
                self._verbs[method, noun, verb] = route
            case ["{name}", verb, _]:
                self._nested[method, noun, verb] = route
            case _:
                self._fixed[f"{method} {route.pattern}"] = route

    def find(self, method: str, path: str) -> tuple[Route, str, str] | None:
        """The route with what stands for {name} and {rest}; path without version, decoded."""
        route = self._fixed.get(f"{method} {path}")
        if route is not None:
            return route, "", ""
        _, _, tail = path.partition("/")
        noun, slash, tail = tail.partition("/")
        if not slash:
            return None
        name, slash, verb = tail.rpartition("/")
        if slash:
            route = self._verbs.get((method, noun, verb))
            if route is not None:
                return route, name, ""
            head, slash, middle = name.rpartition("/")
            if slash and middle in NESTED:
                route = self._nested.get((method, noun, middle))
                if route is not None:
                    return route, head, verb
        route = self._names.get((method, noun))
        if route is None or not tail:
            return None
        return route, tail, ""
