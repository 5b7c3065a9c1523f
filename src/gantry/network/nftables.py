"""nf_tables: whole rulesets by libnftables, single elements by netlink messages.

Rules are text, written once at start; libnftables parses them (ctypes, Debian's
libnftables1). Elements of sets and maps come and go with every container, so they are
packed by hand: libnftables reads a whole interval set back before it adds to it, which
would make a container's start slower with every port already published.

Each call is one transaction: all or nothing. Sources: libnftables(3), libnftables-json(5),
linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from gantry.network.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Counter,
    attr,
    attributes,
    nested,
    text,
)

_HDR = struct.Struct("=IHHII")
_NFGEN = struct.Struct("=BBH")
_NETLINK_NETFILTER = 12
_NFNL_SUBSYS_NFTABLES = 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWSETELEM, _GETSETELEM, _DELSETELEM, _GETTABLE = 12, 13, 14, 1
_GETGEN, _GEN_ID = 16, 1
_GETRULE, _RULE_TABLE, _RULE_CHAIN = 7, 1, 2
_GETCHAIN, _CHAIN_NAME, _CHAIN_POLICY = 4, 3, 5
_NFPROTO_INET, _NFPROTO_BRIDGE = 1, 7
_ELEM_LIST_TABLE, _ELEM_LIST_SET, _ELEM_LIST_ELEMENTS = 1, 2, 3
_LIST_ELEM = 1
_ELEM_KEY, _ELEM_DATA, _ELEM_TIMEOUT, _ELEM_KEY_END = 1, 2, 4, 10
_DATA_VALUE = 1
_TABLE_NAME = 1
_ELEMENTS_A_MESSAGE = 400  # an attribute is at most 64 KiB; an element at most 120 bytes

PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": 132}
FAMILIES = {"inet": _NFPROTO_INET, "bridge": _NFPROTO_BRIDGE, "ip": 2, "ip6": 10}


class NftablesError(OSError):
    """The kernel or libnftables refused; nothing was changed."""


# --- keys and values: fields of a concatenation, each padded to four bytes -----------------


def ip_field(address: str) -> bytes:
    return ip_address(address).packed


def proto_field(proto: str) -> bytes:
    return bytes((PROTOCOLS[proto], 0, 0, 0))


def port_field(port: int) -> bytes:
    return struct.pack(">Hxx", port)


def name_field(interface: str) -> bytes:
    return interface.encode().ljust(16, b"\0")


@dataclass(frozen=True, slots=True)
class Element:
    """An element of the set or map `set`.

    key_end: the other end of an interval set's element. timeout: seconds, 0 for none.
    """

    set: str
    key: bytes
    value: bytes = b""
    key_end: bytes = b""
    timeout: float = 0

    def packed(self) -> bytes:
        out = nested(_ELEM_KEY, attr(_DATA_VALUE, self.key))
        if self.key_end:
            out += nested(_ELEM_KEY_END, attr(_DATA_VALUE, self.key_end))
        if self.value:
            out += nested(_ELEM_DATA, attr(_DATA_VALUE, self.value))
        if self.timeout:
            out += attr(_ELEM_TIMEOUT, struct.pack(">Q", int(self.timeout * 1000)))
        return nested(_LIST_ELEM, out)

    def packed_key(self) -> bytes:
        out = nested(_ELEM_KEY, attr(_DATA_VALUE, self.key))
        if self.key_end:
            out += nested(_ELEM_KEY_END, attr(_DATA_VALUE, self.key_end))
        return nested(_LIST_ELEM, out)


class Elements:
    """Transactions on the elements of one table's sets.

    Not thread-safe; a call takes well under a millisecond, so the event loop makes it.
    """

    def __init__(self, table: str, family: str = "inet") -> None:
        self.table = table
        self._family = FAMILIES[family]
        self._sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        self._sock.setsockopt(socket.SOL_SOCKET, 32, 4 << 20)  # SO_SNDBUFFORCE
        self._sock.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
        self._sock.bind((0, 0))
        self._seq = 1

    def close(self) -> None:
        self._sock.close()

    def change(
        self, add: Iterable[Element] = (), remove: Iterable[Element] = (), *, strict: bool = True
    ) -> None:
        """Remove, then add, in one transaction. NftablesError, and nothing done, when one
        fails: an element to remove is missing, or one to add is there with another value.

        strict=False: elements that are already gone are passed over.
        """
        removals = list(remove)
        additions = list(add)
        while removals or additions:
            failed = self._transact(removals, additions)
            if failed is None:
                return
            code, index = failed
            if strict or code != errno.ENOENT or index >= len(removals):
                raise NftablesError(code, f"nftables table {self.table}: {os.strerror(code)}")
            # One message holds many elements and says only that one of them is missing.
            present = self._present({element.set for element in removals})
            kept = [element for element in removals if (element.set, element.key) in present]
            if len(kept) == len(removals):
                raise NftablesError(code, f"nftables table {self.table}: {os.strerror(code)}")
            removals = kept

    def _transact(
        self, removals: list[Element], additions: list[Element]
    ) -> tuple[int, int] | None:
        """None, or the first error: (errno, index of its first element in removals + additions)."""
        out = bytearray(self._message(_BATCH_BEGIN, 0, _NFGEN.pack(0, 0, socket.htons(10)), True))
        starts: dict[int, int] = {}
        at = 0
        for kind, flags, elements in (
            (_DELSETELEM, 0, removals),
            (_NEWSETELEM, NLM_F_CREATE, additions),
        ):
            for group in _groups(elements):
                packed = b"".join(
                    e.packed() if kind == _NEWSETELEM else e.packed_key() for e in group
                )
                payload = (
                    _NFGEN.pack(self._family, 0, 0)
                    + text(_ELEM_LIST_TABLE, self.table)
                    + text(_ELEM_LIST_SET, group[0].set)
                    + nested(_ELEM_LIST_ELEMENTS, packed)
                )
                out += self._message(kind, flags | NLM_F_ACK, payload)
                starts[self._seq] = at
                at += len(group)
        out += self._message(_BATCH_END, 0, _NFGEN.pack(0, 0, socket.htons(10)), True)
        Counter.round_trips += 1
        self._sock.send(out)
        failed: tuple[int, int] | None = None
        while starts:
            for kind, seq, data in self._receive():
                if kind != NLMSG_ERROR:
                    continue
                code = -struct.unpack_from("=i", data)[0]
                start = starts.pop(seq, None)
                if code and failed is None:
                    failed = (code, start or 0)
                if code and start is None:  # the batch as a whole was refused
                    return failed
        return failed

    def keys(self, name: str) -> list[tuple[bytes, bytes, bytes]]:
        """(key, key_end, value) of all elements of a set, [] if the set does not exist."""
        payload = (
            _NFGEN.pack(self._family, 0, 0)
            + text(_ELEM_LIST_TABLE, self.table)
            + text(_ELEM_LIST_SET, name)
        )
        found: list[tuple[bytes, bytes, bytes]] = []
        for data in self._dump(_GETSETELEM, payload):
            elements = dict(attributes(data[4:])).get(_ELEM_LIST_ELEMENTS, b"")
            for _kind, element in attributes(elements):
                parts = dict(attributes(element))
                found.append(
                    (
                        _value(parts.get(_ELEM_KEY, b"")),
                        _value(parts.get(_ELEM_KEY_END, b"")),
                        _value(parts.get(_ELEM_DATA, b"")),
                    )
                )
        return found

    def exists(self) -> bool:
        """Whether the table is there: another tool may have flushed the ruleset."""
        payload = _NFGEN.pack(self._family, 0, 0) + text(_TABLE_NAME, self.table)
        Counter.round_trips += 1
        self._sock.send(self._message(_GETTABLE, NLM_F_ACK, payload))
        while True:
            for kind, seq, data in self._receive():
                if seq == self._seq and kind == NLMSG_ERROR:
                    return bool(struct.unpack_from("=i", data)[0] == 0)

    def generation(self) -> int:
        """The ruleset's number: it changes with every change of anybody's."""
        Counter.round_trips += 1
        self._sock.send(self._message(_GETGEN, 0, _NFGEN.pack(0, 0, 0)))
        while True:
            for kind, seq, data in self._receive():
                if seq != self._seq:
                    continue
                if kind == NLMSG_ERROR:
                    return -1
                found = dict(attributes(data[4:])).get(_GEN_ID, b"")
                return int.from_bytes(found, "big")

    def rules(self) -> dict[str, int]:
        """How many rules each chain of the table has; chains without are not named."""
        payload = _NFGEN.pack(self._family, 0, 0) + text(_RULE_TABLE, self.table)
        found: dict[str, int] = {}
        for data in self._dump(_GETRULE, payload):
            chain = dict(attributes(data[4:])).get(_RULE_CHAIN, b"").rstrip(b"\0").decode()
            found[chain] = found.get(chain, 0) + 1
        return found

    def policy_drops(self, family: str, table: str, chain: str) -> bool:
        """Whether a base chain, of anybody's, has the policy "drop"."""
        payload = _NFGEN.pack(FAMILIES[family], 0, 0) + text(1, table) + text(_CHAIN_NAME, chain)
        Counter.round_trips += 1
        self._sock.send(self._message(_GETCHAIN, 0, payload))
        while True:
            for kind, seq, data in self._receive():
                if seq != self._seq:
                    continue
                if kind == NLMSG_ERROR:
                    return False
                policy = dict(attributes(data[4:])).get(_CHAIN_POLICY, b"\0\0\0\1")
                return int.from_bytes(policy, "big") == 0

    def _present(self, names: set[str]) -> set[tuple[str, bytes]]:
        return {(name, key) for name in names for key, _end, _value in self.keys(name)}

    def _message(self, kind: int, flags: int, payload: bytes, batch: bool = False) -> bytes:
        self._seq = (self._seq + 1) & 0xFFFFFFFF
        number = kind if batch else (_NFNL_SUBSYS_NFTABLES << 8) | kind
        size = 16 + len(payload)
        return _HDR.pack(size, number, flags | NLM_F_REQUEST, self._seq, 0) + payload

    def _dump(self, kind: int, payload: bytes) -> list[bytes]:
        message = self._message(kind, NLM_F_DUMP, payload)
        seq_wanted = self._seq
        Counter.round_trips += 1
        self._sock.send(message)
        answers: list[bytes] = []
        while True:
            for number, seq, data in self._receive():
                if seq != seq_wanted:
                    continue
                if number == NLMSG_DONE:
                    return answers
                if number == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data)[0]
                    if code in (0, errno.ENOENT):
                        return answers
                    raise NftablesError(code, f"nftables dump: {os.strerror(code)}")
                answers.append(data)

    def _receive(self) -> list[tuple[int, int, bytes]]:
        data = self._sock.recv(1 << 18)
        found: list[tuple[int, int, bytes]] = []
        at = 0
        while at + 16 <= len(data):
            size, kind, _flags, seq, _pid = _HDR.unpack_from(data, at)
            found.append((kind, seq, data[at + 16 : at + size]))
            at += (size + 3) & ~3
        return found


def _value(data: bytes) -> bytes:
    return dict(attributes(data)).get(_DATA_VALUE, b"")


def _groups(elements: list[Element]) -> list[list[Element]]:
    """Runs of elements of the same set, each small enough for one message."""
    groups: list[list[Element]] = []
    for element in elements:
        if not groups or groups[-1][0].set != element.set or len(groups[-1]) >= _ELEMENTS_A_MESSAGE:
            groups.append([])
        groups[-1].append(element)
    return groups


def run(script: str) -> str:
    """Carry out nft commands (the language of nft(8)) in one transaction; their output.

    NftablesError with libnftables' own words, and nothing changed, when one fails.
    OSError when libnftables is not installed.
    """
    lib = ctypes.CDLL("libnftables.so.1")
    lib.nft_ctx_new.restype = ctypes.c_void_p
    lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_error", "nft_ctx_buffer_output"):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
    lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
        getattr(lib, name).restype = ctypes.c_char_p
    context = lib.nft_ctx_new(0)
    if not context:
        raise NftablesError(errno.ENOMEM, "nft_ctx_new: cannot allocate memory")
    try:
        lib.nft_ctx_buffer_error(context)
        lib.nft_ctx_buffer_output(context)
        Counter.round_trips += 1
        if lib.nft_run_cmd_from_buffer(context, script.encode()) != 0:
            said = (lib.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace")
            first = said.strip().splitlines()[0] if said.strip() else "unknown error"
            raise NftablesError(errno.EINVAL, f"nftables: {first}")
        return bytes(lib.nft_ctx_get_output_buffer(context) or b"").decode(errors="replace")
    finally:
        lib.nft_ctx_free(context)
