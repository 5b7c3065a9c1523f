"""Interfaces made in one visit: a veth into a bridge, its other end in a sandbox, ready.

Everything here blocks for a few milliseconds and runs on the `Namespaces` worker.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from ipaddress import ip_address

from gantry.network import netlink
from gantry.network.netns import Namespaces


@dataclass(frozen=True, slots=True)
class Interface:
    """A container's interface.

    host_name: the veth's end in the host (of others: its name while it is made). name: in
    the sandbox. master: index of the bridge. index: wanted interface index in the sandbox,
    0 for any. ipv4, ipv6: "address/prefix" or "". gateway4, gateway6: default routes by
    them, "" for none; on_link4, on_link6: default routes without a gateway.
    """

    host_name: str
    name: str
    master: int
    mac: str = ""
    mtu: int = 0
    index: int = 0
    ipv4: str = ""
    ipv6: str = ""
    gateway4: str = ""
    gateway6: str = ""
    on_link4: bool = False
    on_link6: bool = False
    link_local: tuple[str, ...] = ()
    isolated: bool = False
    sysctls: tuple[tuple[str, str], ...] = ()  # ("net.ipv4.conf.IFNAME.forwarding", "1")


def veth_name() -> str:
    return "veth" + secrets.token_hex(4)[:7]


def random_mac() -> str:
    return "02:42:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(4))


def mac_for(ipv4: str) -> str:
    """Docker's way to a MAC until v27: an address that comes back brings its MAC along,
    so that no neighbour's ARP cache is ever wrong."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in ip_address(ipv4).packed)


def new_sandbox(namespaces: Namespaces, interface: Interface | None) -> int:
    """A namespace with lo up, and `interface` in it if given: its fd."""

    def fill(fd: int) -> None:
        with netlink.Socket() as inside:
            inside.do(netlink.set_link(1, up=True))
            if interface is not None:
                _plug(namespaces.host, inside, fd, interface)

    fd, _ = namespaces.create(fill)
    return fd


def plug(namespaces: Namespaces, netns_fd: int, interface: Interface) -> None:
    """Put `interface` into an existing sandbox; on failure nothing of it stays."""
    host = namespaces.host

    def fill() -> None:
        with netlink.Socket() as inside:
            _plug(host, inside, netns_fd, interface)

    namespaces.inside(netns_fd, fill)


def _plug(host: netlink.Socket, inside: netlink.Socket, fd: int, interface: Interface) -> None:
    veth = netlink.add_veth(
        interface.host_name,
        interface.name,
        fd,
        master=interface.master,
        peer_mac=interface.mac,
        peer_index=interface.index,
        mtu=interface.mtu,
    )
    port = netlink.set_bridge_port(interface.host_name, hairpin=True, isolated=interface.isolated)
    host.batch((veth, port))
    try:
        configure(inside, interface)
    except BaseException:
        with contextlib.suppress(OSError):
            host.do(netlink.delete_link(name=interface.host_name))
        raise


def configure(inside: netlink.Socket, interface: Interface) -> None:
    """Addresses, sysctls, up, default routes; the calling thread is in the sandbox."""
    index = interface.index
    if not index:
        found = netlink.link(inside, interface.name)
        assert found is not None, f"no interface {interface.name}"
        index = found.index
    has6 = interface.ipv6 or any(":" in address for address in interface.link_local)
    try:
        write_sysctl(
            f"net.ipv6.conf.{interface.name}.disable_ipv6", "0" if has6 else "1", required=True
        )
    except FileNotFoundError:
        pass  # a kernel without IPv6
    except OSError as error:
        if not has6:
            raise OSError(
                error.errno,
                f"failed to disable IPv6 on container's interface {interface.name}:"
                f" {error.strerror}",
            ) from error
    for key, value in interface.sysctls:
        write_sysctl(key.replace("IFNAME", interface.name), value, required=True)
    messages = [_address(index, address) for address in (interface.ipv4, interface.ipv6) if address]
    messages.append(netlink.set_link(index, up=True))
    for gateway in (interface.gateway4, interface.gateway6):
        if gateway:
            messages.append(netlink.add_route(index, gateway=gateway))
    for version, on_link in ((4, interface.on_link4), (6, interface.on_link6)):
        if on_link:
            messages.append(netlink.add_route(index, version=version))
    inside.batch(messages)


def _address(index: int, address: str) -> netlink.Message:
    plain, _, prefix = address.partition("/")
    return netlink.add_address(index, plain, int(prefix), broadcast=":" not in plain)


def write_sysctl(name: str, value: str, *, required: bool = False) -> None:
    """Write a sysctl of the calling thread's namespace; a kernel without it is no error
    unless `required`."""
    path = "/proc/sys/" + name.replace(".", "/")
    try:
        with open(path, "w") as file:
            file.write(value)
    except OSError:
        if required:
            raise


def read_sysctl(name: str) -> str:
    """Its value, "" when this kernel has none."""
    try:
        with open("/proc/sys/" + name.replace(".", "/")) as file:
            return file.read().strip()
    except OSError:
        return ""


def room_for_neighbours(count: int) -> None:
    """Let the kernel know so many neighbours: its table is one for all namespaces, and drops
    entries beyond 1,024 as it comes. Only ever upwards; a daemon that is not in the machine's
    first network namespace cannot say."""
    for family in ("ipv4", "ipv6"):
        for level, factor in ((1, 1), (2, 4), (3, 8)):
            name = f"net.{family}.neigh.default.gc_thresh{level}"
            present = read_sysctl(name)
            if present and int(present) < count * factor:
                write_sysctl(name, str(count * factor))


def set_mac(namespaces: Namespaces, netns_fd: int, name: str, mac: str) -> None:
    """Change an interface's MAC address; a veth's may change while it is up."""

    def change() -> None:
        with netlink.Socket() as inside:
            inside.do(netlink.set_link(0, by_name=name, mac=mac))

    namespaces.inside(netns_fd, change)


def unplug(namespaces: Namespaces, netns_fd: int, name: str) -> None:
    """Delete an interface of a sandbox. Idempotent."""

    def delete() -> None:
        with netlink.Socket() as inside:
            inside.do(netlink.delete_link(name=name))

    namespaces.inside(netns_fd, delete)
