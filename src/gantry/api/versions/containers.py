"""Containers: what older clients expect of list, inspect, events of their life."""

from __future__ import annotations

from typing import Final

import msgspec

from gantry.api.backend import Json
from gantry.api.versions.merge import add_missing

NOT_USER_DEFINED: Final = frozenset({"bridge", "host", "none", "default"})
KEPT_ROWS: Final = 4096

BRIDGE_FIELDS: Final = (
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
)
"""Fields of the default bridge's endpoint that stood in NetworkSettings itself."""

BRIDGE_LEFT: Final[Json] = {
    "Bridge": "",
    "HairpinMode": False,
    "LinkLocalIPv6Address": "",
    "LinkLocalIPv6PrefixLen": 0,
    "SecondaryIPAddresses": None,
    "SecondaryIPv6Addresses": None,
    "EndpointID": "",
    "Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "MacAddress": "",
}
"""What 1.51 and older always have in NetworkSettings."""


class Rows:
    """Rows of GET /containers/json for older versions.

    The backend keeps a row's bytes while the container does not change, so a translated row
    is kept by the bytes it was made from: a listing costs a dictionary access a row.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bytes], bytes] = {}

    def translate(self, rows: list[bytes] | tuple[bytes, ...], version: int) -> list[bytes]:
        """Rows of the latest shape as `version` has them."""
        if version >= 52:
            return list(rows)
        level = 48 if version >= 48 else 46 if version >= 46 else 24
        kept = self._kept
        found = []
        for row in rows:
            key = (level, row)
            old = kept.get(key)
            if old is None:
                if len(kept) >= KEPT_ROWS:
                    kept.clear()
                old = kept[key] = msgspec.json.encode(old_row(msgspec.json.decode(row), level))
            found.append(old)
        return found


def old_row(row: Json, version: int) -> Json:
    """A parsed row of the latest shape as an older version has it."""
    row = dict(row)
    if version < 52:
        row.pop("Health", None)
    if version < 48:
        row.pop("ImageManifestDescriptor", None)
    host = row.get("HostConfig")
    if version < 46 and isinstance(host, dict):
        row["HostConfig"] = {key: value for key, value in host.items() if key != "Annotations"}
    return row


def inspect(answer: Json, version: int) -> Json:
    """GET /containers/{name}/json; the backend's dict is not changed."""
    answer = dict(answer)
    settings = dict(answer.get("NetworkSettings") or {})
    if version >= 52:
        answer["NetworkSettings"] = {
            key: value for key, value in settings.items() if key not in BRIDGE_LEFT
        }
        config = answer.get("Config")
        if isinstance(config, dict) and "MacAddress" in config:
            answer["Config"] = {k: v for k, v in config.items() if k != "MacAddress"}
        return answer
    networks: Json = dict(settings.get("Networks") or {})
    config = dict(answer.get("Config") or {})
    if version < 45:
        short = str(answer.get("Id", ""))[:12]
        for name, endpoint in networks.items():
            if name in NOT_USER_DEFINED or name.startswith("container:") or not endpoint:
                continue
            aliases = [*(endpoint.get("Aliases") or []), short, config.get("Hostname", "")]
            networks[name] = endpoint | {"Aliases": list(dict.fromkeys(aliases))}
    if version < 48:
        answer.pop("ImageManifestDescriptor", None)
    bridge = networks.get("bridge")
    if bridge:
        add_missing(settings, {key: bridge.get(key) for key in BRIDGE_FIELDS})
    add_missing(settings, BRIDGE_LEFT)
    settings["Networks"] = networks
    answer["NetworkSettings"] = settings
    config.setdefault("OnBuild", None)  # left out when empty since 1.52
    answer["Config"] = config
    host = answer.get("HostConfig")
    if version < 42 and isinstance(host, dict):
        answer["HostConfig"] = {"KernelMemory": 0, "KernelMemoryTCP": 0} | host
    storage = answer.pop("Storage", None)
    if storage and not answer.get("GraphDriver"):
        name = ((storage.get("RootFS") or {}).get("Snapshot") or {}).get("Name", "")
        answer["GraphDriver"] = {"Name": name, "Data": None}
    return answer
