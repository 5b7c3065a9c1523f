"""The device list as an eBPF program of the cgroup (v2 has no devices controller).

The program (BPF_PROG_TYPE_CGROUP_DEVICE) gets {access << 16 | type, major, minor} and
returns 1 to allow. Rules count from the last to the first: what matches first from the end
decides, letter by letter, which is what writing devices.allow and devices.deny means.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from typing import Final

from gantry.kernel import libc, syscalls
from gantry.model.resources import DeviceRule

_PROG_LOAD: Final = 5
_PROG_ATTACH: Final = 8
_PROG_DETACH: Final = 9
_PROG_GET_FD_BY_ID: Final = 13
_PROG_QUERY: Final = 16
_TYPE_CGROUP_DEVICE: Final = 15
_ATTACH_CGROUP_DEVICE: Final = 6
_F_ALLOW_MULTI: Final = 2

_TYPES: Final = {"b": 1, "c": 2}
_ACCESS: Final = {"m": 1, "r": 2, "w": 4}

# Opcodes (Linux instruction set, bpf_insn).
_LDX_W: Final = 0x61
_AND32: Final = 0x54
_RSH32: Final = 0x74
_MOV32_X: Final = 0xBC
_MOV64_K: Final = 0xB7
_JNE_K: Final = 0x55
_JEQ_K: Final = 0x15
_EXIT: Final = 0x95


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, off, imm)


def program(rules: Sequence[DeviceRule]) -> bytes:
    """The instructions for a rule list. What no rule matches is denied, unless the first
    rule (after the last that speaks of all) says otherwise."""
    head = (
        _insn(_LDX_W, 2, 1, 0)  # r2 = type
        + _insn(_AND32, 2, imm=0xFFFF)
        + _insn(_LDX_W, 3, 1, 0)  # r3 = access
        + _insn(_RSH32, 3, imm=16)
        + _insn(_LDX_W, 4, 1, 4)  # r4 = major
        + _insn(_LDX_W, 5, 1, 8)  # r5 = minor
    )
    start = 0
    default = True  # before any rule, a cgroup v1 list allows everything
    for index, rule in enumerate(rules):
        if _is_all(rule):
            start, default = index + 1, rule.allow
    body = b"".join(_block(rule) for rule in reversed(rules[start:]))
    return head + body + _insn(_MOV64_K, 0, imm=int(default)) + _insn(_EXIT)


def _is_all(rule: DeviceRule) -> bool:
    return rule.type in ("", "a")


def _block(rule: DeviceRule) -> bytes:
    """One rule: tests that jump over the rest when it does not match, then its say.

    r3 holds the letters asked for that no later rule has decided. A denial of any of them
    is final; an allowance strikes out its own, and is final when none is left.
    """
    access = 0
    for letter in rule.access or "rwm":
        access |= _ACCESS.get(letter, 0)
    flat = [_insn(_JNE_K, 2, imm=_TYPES[rule.type])]
    if rule.major is not None and rule.major >= 0:
        flat.append(_insn(_JNE_K, 4, imm=rule.major))
    if rule.minor is not None and rule.minor >= 0:
        flat.append(_insn(_JNE_K, 5, imm=rule.minor))
    if rule.allow:
        flat += [_insn(_AND32, 3, imm=~access & 7), _insn(_JNE_K, 3, imm=0)]
    else:
        flat += [_insn(_MOV32_X, 1, 3), _insn(_AND32, 1, imm=access), _insn(_JEQ_K, 1, imm=0)]
    total = len(flat) + 2
    code = b""
    for index, insn in enumerate(flat):
        if insn[0] in (_JNE_K, _JEQ_K):
            insn = insn[:2] + struct.pack("<h", total - index - 1) + insn[4:]
        code += insn
    return code + _insn(_MOV64_K, 0, imm=int(rule.allow)) + _insn(_EXIT)


def load(code: bytes) -> int:
    """BPF_PROG_LOAD; the program's fd. OSError: not permitted (rootless), or no BPF here."""
    buffer = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache")
    attr = struct.pack(
        "IIQQIIQII16sII",
        _TYPE_CGROUP_DEVICE,
        len(code) // 8,
        ctypes.addressof(buffer),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
        b"gantry",
        0,
        0,
    )
    return syscalls.bpf(_PROG_LOAD, attr)


def attached(cgroup: int) -> list[int]:
    """Ids of the device programs on a cgroup (its fd)."""
    ids = (ctypes.c_uint32 * 64)()
    attr = ctypes.create_string_buffer(
        struct.pack("IIIIQII", cgroup, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), 64, 0)
    )
    libc.syscall("bpf", _PROG_QUERY, attr, 32)
    count = struct.unpack_from("I", attr.raw, 24)[0]
    return list(ids[:count])


def attach(folder: str, rules: Sequence[DeviceRule]) -> None:
    """Make `rules` the device filter of a cgroup; the one that was there before goes after."""
    cgroup = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        old = attached(cgroup)
        fd = load(program(rules))
        try:
            syscalls.bpf(
                _PROG_ATTACH, struct.pack("IIII", cgroup, fd, _ATTACH_CGROUP_DEVICE, _F_ALLOW_MULTI)
            )
        finally:
            os.close(fd)
        # New first, old away afterwards: both filter for a moment, neither not at all.
        for number in old:
            program_fd = syscalls.bpf(_PROG_GET_FD_BY_ID, struct.pack("III", number, 0, 0))
            try:
                syscalls.bpf(
                    _PROG_DETACH, struct.pack("IIII", cgroup, program_fd, _ATTACH_CGROUP_DEVICE, 0)
                )
            finally:
                os.close(program_fd)
    finally:
        os.close(cgroup)
