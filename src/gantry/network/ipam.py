"""Addresses: which subnets networks get, and which addresses their endpoints get.

Addresses go up one after another and start again at the bottom only when the top is
reached, so that one just given back is not at once somebody else's. Host and broadcast
addresses, the gateway and the auxiliary ones are never given out.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from gantry.model.errors import Conflict, InvalidParameter, System

Network: TypeAlias = IPv4Network | IPv6Network


class AddressPool:
    """The addresses of one subnet.

    range: the part that automatic choice takes from ("" all). taken: never given out
    (gateway, auxiliary addresses).
    """

    def __init__(self, subnet: str, *, range: str = "", taken: Iterable[str] = ()) -> None:
        self.subnet: Network = ip_network(subnet)
        choice = ip_network(range) if range else self.subnet
        low, high = int(choice[0]), int(choice[-1])
        first, last = int(self.subnet[0]), int(self.subnet[-1])
        spare = self.subnet.max_prefixlen - self.subnet.prefixlen
        if spare >= 2:
            low = max(low, first + 1)
            if self.subnet.version == 4:
                high = min(high, last - 1)
        self._low, self._high = low, high
        self._next = low
        self._used: set[int] = {int(ip_address(address)) for address in taken}

    def __len__(self) -> int:
        return len(self._used)

    def allocate(self) -> str:
        """The next free address. System, with Docker's text, when there is none."""
        used, low, high = self._used, self._low, self._high
        value = self._next
        if len(used) > high - low and all(n in used for n in range(low, high + 1)):
            raise System("no available IPv4 addresses on this network's address pools")
        for _ in range(high - low + 1):
            if value > high:
                value = low
            if value not in used:
                used.add(value)
                self._next = value + 1
                return str(type(self.subnet[0])(value))
            value += 1
        raise System("no available addresses on this network's address pools")

    def claim(self, address: str) -> None:
        """Take this very address. InvalidParameter outside the subnet, Conflict if taken."""
        value = ip_address(address)
        if value not in self.subnet:
            raise InvalidParameter(
                f"invalid address {address}: It does not belong to any of this network's subnets"
            )
        if int(value) in self._used:
            raise Conflict("Address already in use")
        self._used.add(int(value))

    def release(self, address: str) -> None:
        """Give back; nothing happens if it was not given out."""
        self._used.discard(int(ip_address(address)))
