"""The filters of GET /events (moby daemon/events/filter.go)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gantry.events.bus import Event, Matches

_OBJECTS: Final = (
    *("container", "daemon", "plugin", "network", "node"),
    *("secret", "service", "config", "volume"),
)
ACCEPTED: Final = frozenset((*_OBJECTS, "event", "image", "label", "scope", "type"))


def compile_filters(filters: Mapping[str, Sequence[str]]) -> Matches:
    """A predicate. Unknown filters are passed over, as moby does."""
    wanted = {key: list(values) for key, values in filters.items() if key in ACCEPTED}
    if not wanted:
        return lambda event: True

    def matches(event: Event) -> bool:
        return all(_match(key, values, event) for key, values in wanted.items())

    return matches


def _match(key: str, values: Sequence[str], event: Event) -> bool:
    attributes: Mapping[str, str] = event["Actor"]["Attributes"]
    if key == "event":
        # "exec_create: cmd" is found by "exec_create", "health_status: healthy" by its stem.
        action: str = event["Action"]
        return any(value in (action, action.partition(":")[0]) for value in values)
    if key == "type":
        return event["Type"] in values
    if key == "scope":
        return event["scope"] in values
    if key == "label":
        return all(_label(value, attributes) for value in values)
    if key == "image":
        names = {event["Actor"]["ID"], attributes.get("image", ""), attributes.get("name", "")}
        names |= {_untagged(name) for name in names}
        return event["Type"] in ("image", "container") and any(v in names for v in values)
    assert key in _OBJECTS, key
    # As Docker: `container=x` looks at ids and names of whatever kind the event is of.
    actor: str = event["Actor"]["ID"]
    name = attributes.get("name", "")
    return any(value and (name.startswith(value) or actor.startswith(value)) for value in values)


def _untagged(name: str) -> str:
    head, colon, tail = name.rpartition(":")
    return head if colon and "/" not in tail else name


def _label(wanted: str, attributes: Mapping[str, str]) -> bool:
    key, equals, value = wanted.partition("=")
    return key in attributes and (not equals or attributes[key] == value)
