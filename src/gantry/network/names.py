"""The names that the endpoints of one network have: what the embedded DNS answers from."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

_HEX = frozenset("0123456789abcdef")
_SHORT = 12  # digits of an id that are a container's name, too


class Names:
    """Names → addresses, and back. Names are case-insensitive; several endpoints may share
    one (Docker's --network-alias), whose addresses are then all answered.

    version: changes with every change, so that answers may be kept until then.
    """

    def __init__(self, network: str) -> None:
        self.network = network
        self.version = 0
        self._by_name: dict[str, dict[str, tuple[str, str]]] = {}
        self._by_address: dict[str, str] = {}
        self._endpoints: dict[str, tuple[tuple[str, ...], str, str]] = {}

    def add(self, endpoint_id: str, names: Iterable[str], ipv4: str, ipv6: str) -> None:
        """The first name is the one that the addresses resolve back to."""
        self.remove(endpoint_id)
        given = tuple(dict.fromkeys(names))
        self._endpoints[endpoint_id] = (given, ipv4, ipv6)
        for name in given:
            self._by_name.setdefault(name.lower(), {})[endpoint_id] = (ipv4, ipv6)
        for address in filter(None, (ipv4, ipv6)):
            if given:
                self._by_address[address] = given[0]
        self.version += 1

    def remove(self, endpoint_id: str) -> None:
        """Idempotent."""
        known = self._endpoints.pop(endpoint_id, None)
        if known is None:
            return
        names, ipv4, ipv6 = known
        for name in names:
            holders = self._by_name.get(name.lower(), {})
            holders.pop(endpoint_id, None)
            if not holders:
                self._by_name.pop(name.lower(), None)
        for address in filter(None, (ipv4, ipv6)):
            if names and self._by_address.get(address) == names[0]:
                del self._by_address[address]
        self.version += 1

    def lookup(self, name: str, version: int) -> list[str] | None:
        """Addresses of IP `version`; None when nobody has the name (an empty list: somebody
        has, but no such address)."""
        holders = self._by_name.get(name.lower())
        if holders is None:
            return None
        place = 0 if version == 4 else 1
        return list(dict.fromkeys(pair[place] for pair in holders.values() if pair[place]))

    def linked(self, target: str, version: int) -> list[str] | None:
        """Like `lookup`, for the container that a link names: by its name, or by the whole or
        the beginning of its id."""
        found = self.lookup(target, version)
        if found is not None or not set(target.lower()) <= _HEX:
            return found
        short = target[:_SHORT].lower()
        fit = [n for n in self._by_name if len(n) == _SHORT and n.startswith(short)]
        fit = [name for name in fit if set(name) <= _HEX]
        return self.lookup(fit[0], version) if len(fit) == 1 else None

    def reverse(self, address: str) -> str:
        """ "name.network" of an address, "" when unknown."""
        name = self._by_address.get(address)
        return f"{name}.{self.network}" if name else ""


def pointed_at(name: str) -> str:
    """The address that a PTR query's name stands for, "" if it is none."""
    lower = name.lower().rstrip(".")
    try:
        if lower.endswith(".in-addr.arpa"):
            return str(ip_address(".".join(reversed(lower[:-13].split(".")))))
        if lower.endswith(".ip6.arpa"):
            digits = "".join(reversed(lower[:-9].split(".")))
            if len(digits) == 32:
                return str(ip_address(bytes.fromhex(digits)))
    except ValueError:
        pass
    return ""
