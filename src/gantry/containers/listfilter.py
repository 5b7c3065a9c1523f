"""The filters of GET /containers/json (moby daemon/list.go)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from gantry.containers import portspec
from gantry.containers.core import Core
from gantry.containers.record import Container
from gantry.model.errors import GantryError, InvalidParameter

if TYPE_CHECKING:
    from gantry.containers.show import Views

Filters = Mapping[str, Sequence[str]]
Test = Callable[[Container], bool]

_ACCEPTED: Final = frozenset(
    (
        *("ancestor", "before", "exited", "id", "isolation", "label", "name", "status"),
        *("health", "since", "volume", "network", "is-task", "publish", "expose"),
    )
)
_STATES: Final = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_HEALTH: Final = ("none", "starting", "healthy", "unhealthy")


def select(
    core: Core,
    containers: Sequence[Container],
    *,
    everything: bool,
    limit: int,
    filters: Filters,
    views: Views,
) -> Sequence[Container]:
    """Those of `containers` (newest first) that are asked for. InvalidParameter."""
    for key in filters:
        if key not in _ACCEPTED:
            raise InvalidParameter(f"invalid filter '{key}'")
    if filters.get("status"):
        everything = True
    containers = _between(core, containers, filters)
    tests = _tests(core, filters, views)
    found: list[Container] = []
    for container in containers:
        if not container.state.running and not everything and limit <= 0:
            continue
        if all(test(container) for test in tests):
            found.append(container)
            if 0 < limit <= len(found):
                break
    return found


def _between(core: Core, containers: Sequence[Container], filters: Filters) -> Sequence[Container]:
    """`before` and `since` cut the list, newest first, at the named container."""
    result = list(containers)
    for name in filters.get("before", ()):
        pivot = core.table.get(name)
        result = result[result.index(pivot) + 1 :] if pivot in result else []
    for name in filters.get("since", ()):
        pivot = core.table.get(name)
        if pivot in result:
            result = result[: result.index(pivot)]
    return result


def _tests(core: Core, filters: Filters, views: Views) -> list[Test]:
    tests: list[Test] = []
    values = {key: list(value) for key, value in filters.items() if value}
    if "name" in values:
        patterns = [_pattern(text) for text in values["name"]]
        tests.append(lambda c: any(p.search(c.name) or p.search(f"/{c.name}") for p in patterns))
    if "id" in values:
        tests.append(lambda c: any(c.id.startswith(text) for text in values["id"]))
    if "label" in values:
        tests.append(lambda c: labelled(c.record.config.labels, values["label"]))
    if "status" in values:
        _check("status", values["status"], _STATES)
        tests.append(lambda c: c.state.status in values["status"])
    if "health" in values:
        _check("health", values["health"], _HEALTH)
        tests.append(lambda c: _health_of(c) in values["health"])
    if "exited" in values:
        codes = {_code(text) for text in values["exited"]}
        tests.append(
            lambda c: (
                not c.state.running and bool(c.state.started_at) and c.state.exit_code in codes
            )
        )
    if "volume" in values:
        tests.append(lambda c: _has_volume(c, values["volume"]))
    if "ancestor" in values:
        images = _ancestors(core, values["ancestor"])
        tests.append(lambda c: c.record.image in images)
    if "network" in values:
        tests.append(lambda c: _on_network(c, values["network"], views))
    for key in ("publish", "expose"):
        if key in values:
            wanted = _ports(key, values[key])
            field = "PublicPort" if key == "publish" else "PrivatePort"
            tests.append(_port_test(wanted, field, views))
    if truth(filters, "is-task", False):
        tests.append(lambda c: False)  # no task of a swarm is ever here
    return tests


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error:
        return re.compile(re.escape(text))


def _check(key: str, values: Iterable[str], known: Sequence[str]) -> None:
    for value in values:
        if value not in known:
            allowed = ", ".join(known)
            what = "value for state" if key == "status" else "value for health"
            raise InvalidParameter(
                f"invalid filter '{key}={value}': invalid {what} ({value}): must be one of"
                f" {allowed}"
            )


def _code(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidParameter(
            f"invalid filter 'exited={text}': strconv.Atoi: parsing \"{text}\": invalid syntax"
        ) from None


def labelled(labels: Mapping[str, str], wanted: Iterable[str]) -> bool:
    """All of `wanted` ("key" or "key=value") are among `labels`."""
    for text in wanted:
        key, equals, value = text.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def truth(filters: Filters, key: str, default: bool) -> bool:
    """A filter that is true or false (moby Args.GetBoolOrDefault). InvalidParameter."""
    values = filters.get(key)
    if values is None:
        return default
    no, yes = (bool(set(values) & set(words)) for words in (("0", "false"), ("1", "true")))
    if no == yes:
        given = f"=[{' '.join(values)}]" if values else ""
        raise InvalidParameter(f"invalid filter '{key}{given}'")
    return yes


def _health_of(container: Container) -> str:
    health = container.state.health
    return health.status if health is not None else "none"


def _has_volume(container: Container, wanted: Iterable[str]) -> bool:
    have: set[str] = set()
    for mount in container.record.mounts:
        have.update((mount.name or mount.source, mount.destination))
    return any(text in have for text in wanted)


def _ancestors(core: Core, names: Iterable[str]) -> set[str]:
    """The images of these names and all that were made from them here."""
    found: set[str] = set()
    for name in names:
        try:
            image = core.images.resolve(name)
        except GantryError:
            continue
        found.add(image.id)
        found.update(core.images.children(image.id))
    return found


def _on_network(container: Container, wanted: Iterable[str], views: Views) -> bool:
    networks = views.networks(container)
    return any(
        text in networks
        or any(e.network_id and e.network_id.startswith(text) for e in networks.values())
        for text in wanted
    )


def _ports(key: str, texts: Iterable[str]) -> set[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    for text in texts:
        if ":" in text:
            raise InvalidParameter(f"filter for '{key}' should not contain ':': {text}")
        try:
            first, last, protocol = portspec.span(text)
        except ValueError as error:
            raise InvalidParameter(f"error while looking up for {key} {text}: {error}") from None
        found.update((number, protocol) for number in range(first, last + 1))
    return found


def _port_test(wanted: set[tuple[int, str]], field: str, views: Views) -> Test:
    def test(container: Container) -> bool:
        rows = views.ports_list(container)
        return any((row.get(field), row["Type"]) in wanted for row in rows)

    return test
