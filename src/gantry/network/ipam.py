"""Addresses: which subnets networks get, and which addresses their endpoints get.

Vocabulary (libnetwork's): an IPAM driver leases *pools* (subnets) to networks, and
*addresses* of a pool to gateways and endpoints. `DefaultIpam` is the built-in one;
`NullIpam` is for networks without addresses; plugins are in `remote_ipam`.

Addresses go up one after another and start again at the bottom only when the top is
reached, so that one just given back is not at once somebody else's. Network and
broadcast address, the gateway and the auxiliary ones are never given out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Protocol, TypeAlias

from gantry.model.errors import Forbidden, InvalidParameter, NotFound, Unavailable

Network: TypeAlias = IPv4Network | IPv6Network

OVERLAP = "invalid pool request: Pool overlaps with other one on this address space"


class NoAddresses(Unavailable):
    """A pool is exhausted: the next pool of the network may have some."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A pool. id: the driver's name for it. data: what a plugin said of it (a gateway)."""

    id: str
    subnet: str
    data: Mapping[str, str] = field(default_factory=dict)


class Ipam(Protocol):
    """An IPAM driver. Errors are the taxonomy's, with Docker's texts."""

    async def request_pool(
        self,
        subnet: str,
        ip_range: str = "",
        *,
        options: Mapping[str, str] | None = None,
        v6: bool = False,
        exclude: Sequence[str] = (),
    ) -> Lease:
        """Lease `subnet`, or one of the driver's choice ("") that overlaps none of `exclude`.
        ip_range: the part of it that addresses are chosen from."""

    async def release_pool(self, pool_id: str) -> None:
        """Idempotent."""

    async def request_address(
        self, pool_id: str, address: str = "", options: Mapping[str, str] | None = None
    ) -> str:
        """ "address/prefix": the one asked for, or one of the driver's choice.

        NoAddresses: none is free. Forbidden: taken. InvalidParameter: outside the pool.
        """

    async def release_address(self, pool_id: str, address: str) -> None:
        """`address` without prefix. Idempotent."""


class AddressPool:
    """The addresses of one subnet.

    range: the part that automatic choice takes from ("" all). taken: never given out.
    beside: another network's pool in the same subnet: what one gives, the other does not.
    """

    def __init__(
        self,
        subnet: str,
        *,
        range: str = "",
        taken: Iterable[str] = (),
        beside: AddressPool | None = None,
    ) -> None:
        self.subnet: Network = ip_network(subnet)
        choice = ip_network(range) if range else self.subnet
        low, high = int(choice[0]), int(choice[-1])
        if self.subnet.max_prefixlen - self.subnet.prefixlen >= 2:
            # The network's own address (IPv6: the subnet routers' anycast one), and
            # IPv4's broadcast; a /31 or /32 has neither (RFC 3021).
            low = max(low, int(self.subnet[0]) + 1)
            if self.subnet.version == 4:
                high = min(high, int(self.subnet[-1]) - 1)
        self._low, self._high, self._next = low, high, low
        self._used: set[int] = beside._used if beside else set()
        self._pools: list[AddressPool] = beside._pools if beside else []
        self._pools.append(self)
        self._in_range = sum(low <= value <= high for value in self._used)
        for address in taken:
            self._take(int(ip_address(address)))

    @property
    def used(self) -> int:
        """Addresses given out, the reserved ones counted too (Docker's IPsInUse)."""
        return len(self._used) + self._reserved

    @property
    def _reserved(self) -> int:
        spare = self.subnet.max_prefixlen - self.subnet.prefixlen
        return (2 if self.subnet.version == 4 else 1) if spare >= 2 else 0

    @property
    def available(self) -> int:
        """Addresses that automatic choice still has."""
        return max(0, self._high - self._low + 1 - self._in_range)

    def allocate(self) -> str:
        """The lowest free address, as Docker. NoAddresses when there is none."""
        if not self.available:
            raise NoAddresses("no available addresses on this pool")
        value = self._next  # below it, all are used
        while value in self._used:
            value += 1
        self._take(value)
        self._next = value + 1
        return str(type(self.subnet[0])(value))

    def claim(self, address: str) -> None:
        """Take this very address. InvalidParameter outside the subnet, Forbidden if taken."""
        value = ip_address(address)
        if value not in self.subnet:
            raise InvalidParameter("requested address is out of range")
        if int(value) in self._used:
            raise Forbidden("Address already in use")
        self._take(int(value))

    def release(self, address: str) -> None:
        """Give back; nothing happens if it was not given out."""
        value = int(ip_address(address))
        if value in self._used:
            self._used.remove(value)
            for pool in self._pools:
                if pool._low <= value <= pool._high:
                    pool._in_range -= 1
                    pool._next = min(pool._next, value)

    def close(self) -> None:
        """The pool is nobody's any more; those beside it stay."""
        self._pools.remove(self)

    def _take(self, value: int) -> None:
        self._used.add(value)
        for pool in self._pools:
            pool._in_range += pool._low <= value <= pool._high


class DefaultIpam:
    """The built-in driver. `pools`: (base, prefix length) to cut subnets from."""

    def __init__(self, pools: Sequence[tuple[str, int]]) -> None:
        self._bases: dict[int, list[tuple[Network, int]]] = {4: [], 6: []}
        for base, size in pools:
            network = ip_network(base)
            if network.prefixlen > size:
                raise InvalidParameter(
                    f"the default address pool {base} is smaller than the subnets of"
                    f" size {size} it shall be cut into"
                )
            self._bases[network.version].append((network, size))
        self._leased: dict[str, AddressPool] = {}

    def pool(self, pool_id: str) -> AddressPool:
        """The addresses behind a lease. NotFound when there is no such lease."""
        found = self._leased.get(pool_id)
        if found is None:
            raise NotFound(f"cannot find address pool for poolID:{pool_id}")
        return found

    async def request_pool(
        self,
        subnet: str,
        ip_range: str = "",
        *,
        options: Mapping[str, str] | None = None,
        v6: bool = False,
        exclude: Sequence[str] = (),
    ) -> Lease:
        size = 0
        if subnet:
            wanted = ip_network(subnet)
            v6 = wanted.version == 6
            if not wanted.network_address.is_unspecified or (v6 and wanted.prefixlen == 128):
                # With a range, it is the user who keeps networks in one subnet apart.
                if _name(wanted, ip_range) in self._leased or (
                    not ip_range
                    and any(_overlap(wanted, pool.subnet) for pool in self._leased.values())
                ):
                    raise Forbidden(OVERLAP)
                return self._lease(wanted, ip_range)
            size = wanted.prefixlen  # 0.0.0.0/24: any subnet of that size
        if ip_range:
            raise InvalidParameter("invalid address subpool")
        return self._lease(self._choose(6 if v6 else 4, size, exclude), "")

    def _choose(self, version: int, size: int, exclude: Sequence[str]) -> Network:
        taken = [pool.subnet for pool in self._leased.values() if pool.subnet.version == version]
        for text in exclude:
            other = ip_network(text, strict=False)
            if other.version == version:
                taken.append(other)
        bases = [
            (base, size or own)
            for base, own in self._bases[version]
            if not size or base.prefixlen <= size <= base.max_prefixlen
        ]
        if not bases:
            raise InvalidParameter("invalid address pool")
        for base, length in bases:
            found = _first_free(base, length, taken)
            if found is not None:
                return found
        raise InvalidParameter("all predefined address pools have been fully subnetted")

    def _lease(self, subnet: Network, ip_range: str) -> Lease:
        beside = next((pool for pool in self._leased.values() if pool.subnet == subnet), None)
        name = _name(subnet, ip_range)
        self._leased[name] = AddressPool(str(subnet), range=ip_range, beside=beside)
        return Lease(name, str(subnet))

    async def release_pool(self, pool_id: str) -> None:
        pool = self._leased.pop(pool_id, None)
        if pool is not None:
            pool.close()

    async def request_address(
        self, pool_id: str, address: str = "", options: Mapping[str, str] | None = None
    ) -> str:
        pool = self.pool(pool_id)
        if address:
            pool.claim(address)
        else:
            address = pool.allocate()
        return f"{ip_address(address)}/{pool.subnet.prefixlen}"

    async def release_address(self, pool_id: str, address: str) -> None:
        pool = self._leased.get(pool_id)
        if pool is not None:
            pool.release(address)


class NullIpam:
    """The driver "null": pools without addresses (host, none, and what a plugin does itself)."""

    async def request_pool(
        self,
        subnet: str,
        ip_range: str = "",
        *,
        options: Mapping[str, str] | None = None,
        v6: bool = False,
        exclude: Sequence[str] = (),
    ) -> Lease:
        if subnet or ip_range:
            raise InvalidParameter(
                "null ipam driver does not handle specific address pool requests"
            )
        if v6:
            raise InvalidParameter(
                "null ipam driver does not handle IPv6 address pool pool requests"
            )
        return Lease("null/0.0.0.0/0", "0.0.0.0/0")

    async def release_pool(self, pool_id: str) -> None:
        pass

    async def request_address(
        self, pool_id: str, address: str = "", options: Mapping[str, str] | None = None
    ) -> str:
        return ""

    async def release_address(self, pool_id: str, address: str) -> None:
        pass


def _name(subnet: Network, ip_range: str) -> str:
    return f"{subnet}/{ip_range}" if ip_range else str(subnet)


def _overlap(one: Network, other: Network) -> bool:
    return (
        one.version == other.version
        and int(one[0]) <= int(other[-1])
        and int(other[0]) <= int(one[-1])
    )


def _first_free(base: Network, length: int, taken: Iterable[Network]) -> Network | None:
    """The first subnet of that prefix length in `base` that overlaps none of `taken`.

    Jumps over each taken range instead of trying the subnets one by one: an IPv6 base
    has more of them than anyone can count.
    """
    step = 1 << (base.max_prefixlen - length)
    start = int(base[0])
    for other in sorted(taken, key=lambda network: int(network[0])):
        first, last = int(other[0]), int(other[-1])
        if last < start:
            continue
        if first >= start + step:
            break
        start = (last // step + 1) * step
    if start + step - 1 > int(base[-1]):
        return None
    return ip_network((start, length)) if base.version == 6 else IPv4Network((start, length))
