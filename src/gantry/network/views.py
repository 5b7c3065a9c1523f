"""Networks as the Engine API shows them, and the filters of its lists.

Shapes are those of the latest version (moby api/types/network); `api` adapts older ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gantry.model.errors import InvalidParameter
from gantry.model.network import EndpointState, NetworkRecord
from gantry.network.catalog import PREDEFINED

Json = dict[str, Any]
Filters = Mapping[str, Sequence[str]]

_LIST = ("dangling", "driver", "id", "label", "name", "scope", "type")
_MOST = (1 << 64) - 1  # clients read these numbers as uint64
_PRUNE = ("label", "label!", "until")


def summary(record: NetworkRecord) -> Json:
    """One row of GET /networks."""
    return {
        "Name": record.name,
        "Id": record.id,
        "Created": record.created,
        "Scope": record.scope,
        "Driver": record.driver,
        "EnableIPv4": record.enable_ipv4,
        "EnableIPv6": record.enable_ipv6,
        "IPAM": {
            "Driver": record.ipam_driver,
            "Options": dict(record.ipam_options) if record.ipam_options is not None else None,
            "Config": _ipam_config(record),
        },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": record.ingress,
        "ConfigFrom": {"Network": record.config_from},
        "ConfigOnly": record.config_only,
        "Options": dict(record.options),
        "Labels": dict(record.labels),
    }


def _ipam_config(record: NetworkRecord) -> list[Json] | None:
    if record.driver in ("host", "null") and not record.config_only:
        return None
    rows: list[Json] = []
    for pool in record.ipam:
        row: Json = {}
        for key, value in (
            ("Subnet", pool.subnet),
            ("IPRange", pool.ip_range),
            ("Gateway", pool.gateway),
        ):
            if value:
                row[key] = value
        if pool.aux:
            row["AuxiliaryAddresses"] = dict(pool.aux)
        rows.append(row)
    return rows


def detail(
    record: NetworkRecord,
    endpoints: Iterable[tuple[str, str, EndpointState]],
    status: Mapping[str, tuple[int, int]] | None,
    *,
    verbose: bool,
) -> Json:
    """GET /networks/{id}. endpoints: (container id, name, state).
    status: subnet → (addresses in use, addresses that are left)."""
    shown = summary(record)
    shown["Containers"] = {
        container: {
            "Name": name,
            "EndpointID": state.endpoint_id,
            "MacAddress": state.mac,
            "IPv4Address": f"{state.ip}/{state.prefix}" if state.ip else "",
            "IPv6Address": f"{state.ipv6}/{state.ipv6_prefix}" if state.ipv6 else "",
        }
        for container, name, state in endpoints
    }
    if verbose:
        shown["Services"] = {}
    if status is not None:
        shown["Status"] = {
            "IPAM": {
                "Subnets": {
                    subnet: {"IPsInUse": min(used, _MOST), "DynamicIPsAvailable": min(left, _MOST)}
                    for subnet, (used, left) in status.items()
                }
            }
        }
    return shown


class Filter:
    """The filters of list and prune. InvalidParameter with Docker's texts for bad ones."""

    def __init__(self, filters: Filters, *, prune: bool = False, now: datetime | None = None):
        for key in filters:
            if key not in (_PRUNE if prune else _LIST):
                raise InvalidParameter(f"invalid filter '{key}'")
        for kind in filters.get("type", ()):
            if kind not in ("builtin", "custom"):
                raise InvalidParameter(f"invalid filter: 'type'='{kind}'")
        self._filters = filters
        self._dangling: bool | None = True if prune else None
        values = filters.get("dangling", ())
        if len(values) > 1:
            raise InvalidParameter('got more than one value for filter key "dangling"')
        if values:
            if values[0] not in ("0", "1", "false", "true"):
                raise InvalidParameter(
                    'invalid value for filter \'dangling\', must be "true" (or "1"), or'
                    ' "false" (or "0")'
                )
            self._dangling = values[0] in ("1", "true")
        until = filters.get("until", ())
        if len(until) > 1:
            raise InvalidParameter("more than one until filter specified")
        self._until = parse_until(until[0], now or datetime.now(UTC)) if until else None

    def matches(self, record: NetworkRecord, in_use: bool) -> bool:
        filters = self._filters
        for key, value in (("driver", record.driver), ("scope", record.scope)):
            if filters.get(key) and value not in filters[key]:
                return False
        for key, value in (("name", record.name), ("id", record.id)):
            if filters.get(key) and not any(_fits(p, value) for p in filters[key]):
                return False
        if not all(_has_label(record.labels, wanted) for wanted in filters.get("label", ())):
            return False
        unwanted = filters.get("label!", ())
        if unwanted and all(_has_label(record.labels, wanted) for wanted in unwanted):
            return False
        predefined = record.name in PREDEFINED
        if self._dangling is not None and self._dangling == (predefined or in_use):
            return False
        kinds = filters.get("type", ())
        if kinds and ("builtin" if predefined else "custom") not in kinds:
            return False
        return self._until is None or record.created <= self._until


def _fits(pattern: str, value: str) -> bool:
    """Docker's loose match: the value itself, or a regular expression found in it."""
    try:
        return pattern == value or re.search(pattern, value) is not None
    except re.error:
        return False


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_until(text: str, now: datetime) -> str:
    """A moment as the records write it: from Unix seconds, a Go duration before `now`, or
    RFC 3339. InvalidParameter otherwise."""
    try:
        if re.fullmatch(r"\d+(\.\d+)?", text):
            moment = datetime.fromtimestamp(float(text), UTC)
        elif re.fullmatch(f"(?:{_DURATION.pattern})+", text):
            seconds = sum(float(n) * _UNITS[unit] for n, unit in _DURATION.findall(text))
            moment = now - timedelta(seconds=seconds)
        else:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.astimezone()
    except (ValueError, OverflowError) as error:
        raise InvalidParameter(f'failed to parse value as time or duration: "{text}"') from error
    moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond:06d}000Z"
