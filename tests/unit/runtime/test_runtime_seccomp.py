"""Seccomp: profiles become programs; a small interpreter says what those decide."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantry.containers.spec import seccomp as docker
from gantry.oci import codec
from gantry.oci.runtime_spec import Seccomp, SeccompArg, SeccompSyscall
from gantry.runtime import seccomp, seccomp_ranges
from gantry.runtime.errors import RuntimeFailure

ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0
X86_64, I386 = 0xC000003E, 0x40000003


def judge(code: bytes, number: int, args: tuple[int, ...] = (), arch: int = X86_64) -> int:
    """What classic BPF says about one call."""
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("IIQ6Q", number, arch, 0, *padded)
    accumulator = at = 0
    while True:
        operation, true, false, k = struct.unpack_from("HBBI", code, at * 8)
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("I", data, k)[0]
        elif operation == 0x06:
            return int(k)
        elif operation == 0x05:
            at += k
        elif operation == 0x54:
            accumulator &= k
        elif operation in (0x15, 0x25, 0x35):
            yes = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}[operation]
            at += true if yes else false
        else:
            raise AssertionError(hex(operation))


needs_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
READ, MKDIR, PERSONALITY = 0, 83, 135


def profile(**more: object) -> Seccomp:
    return Seccomp.unchecked({"default_action": "SCMP_ACT_ERRNO", **more})


def allow(*names: str, **more: object) -> SeccompSyscall:
    return SeccompSyscall.unchecked({"names": names, "action": "SCMP_ACT_ALLOW", **more})


@needs_x86
def test_an_allow_list() -> None:
    made = seccomp.compile_profile(profile(syscalls=(allow("read", "personality"),)))
    assert judge(made.code, READ) == ALLOW
    assert judge(made.code, MKDIR) == ERRNO | 1
    assert judge(made.code, 400) == ERRNO | 38  # above all that are named: no such call
    assert judge(made.code, READ, arch=I386) == KILL
    assert made.flags == 4


@needs_x86
def test_conditions() -> None:
    equal = SeccompArg(index=0, value=8, op="SCMP_CMP_EQ")
    made = seccomp.compile_profile(profile(syscalls=(allow("personality", args=(equal,)),)))
    assert judge(made.code, PERSONALITY, (8,)) == ALLOW
    assert judge(made.code, PERSONALITY, (9,)) == ERRNO | 1


@needs_x86
def test_errno_values() -> None:
    made = seccomp.compile_profile(
        profile(
            default_action="SCMP_ACT_ALLOW",
            syscalls=(SeccompSyscall(names=("mkdir",), action="SCMP_ACT_ERRNO", errno_ret=28),),
        )
    )
    assert judge(made.code, MKDIR) == ERRNO | 28
    assert judge(made.code, 999) == ALLOW


def test_flags() -> None:
    assert seccomp.compile_profile(profile(flags=())).flags == 0
    assert seccomp.compile_profile(profile(flags=("SECCOMP_FILTER_FLAG_LOG",))).flags == 2
    with pytest.raises(RuntimeFailure):
        seccomp.compile_profile(profile(flags=("NONESUCH",)))


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "_memory", {})
    wanted = profile(syscalls=(allow("read"),))
    first = seccomp.program(wanted, str(tmp_path / "cache"))
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(seccomp, "_memory", {})
    monkeypatch.setattr(seccomp, "compile_profile", None)  # not called again
    assert seccomp.program(wanted, str(tmp_path / "cache")) == first
    assert seccomp.by_path(f"{tmp_path}/cache/{first.key}") == first


def test_a_cache_that_lies_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = profile(syscalls=(allow("read"),))
    first = seccomp.program(wanted, str(tmp_path / "cache"))
    monkeypatch.setattr(seccomp, "_memory", {})
    file = tmp_path / "cache" / f"{first.key}.bpf"
    if not file.exists():
        seccomp.program(wanted, str(tmp_path / "cache"))
    data = file.read_bytes()
    for bad in (data[:-8], b"", data[:60] + bytes(8) + data[68:]):
        file.write_bytes(bad)
        with pytest.raises(RuntimeFailure):
            monkeypatch.setattr(seccomp, "_memory", {})
            seccomp.by_path(f"{tmp_path}/cache/{first.key}")
    file.write_bytes(data)
    file.chmod(0o666)
    with pytest.raises(RuntimeFailure):
        seccomp.by_path(f"{tmp_path}/cache/{first.key}")


def test_different_profiles_have_different_keys() -> None:
    one = profile(syscalls=(allow("read"),))
    assert seccomp.key_of(one) == seccomp.key_of(profile(syscalls=(allow("read"),)))
    assert seccomp.key_of(one) != seccomp.key_of(profile(syscalls=(allow("write"),)))
    assert seccomp.key_of(one) != seccomp.key_of(profile(syscalls=(allow("read"),), flags=()))


# --- decisions as ranges -------------------------------------------------------------------


def uncompacted(monkeypatch: pytest.MonkeyPatch, wanted: Seccomp) -> bytes:
    with monkeypatch.context() as patch:
        patch.setattr(seccomp_ranges, "compact", bytes)
        return seccomp.compile_profile(wanted).code


def constants(code: bytes) -> set[int]:
    return {k for _, _, _, k in struct.iter_unpack("HBBI", code)}


ARGS = ((), (8,), (0xFFFFFFFF,), (1 << 33 | 8, 2), (0x7E020000, 0, 0), (40, 40, 40))


def assert_same(one: bytes, other: bytes, numbers: Iterable[int]) -> None:
    for arch in (X86_64, I386, 0xC00000B7, 0):
        for number in numbers:
            for args in ARGS:
                judged = judge(one, number, args, arch), judge(other, number, args, arch)
                assert judged[0] == judged[1], (hex(arch), number, args)


@needs_x86
def test_the_default_profile_is_a_quarter_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities in ((), ("CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_BPF")):
        raw = json.loads(bytes(docker.default(capabilities)))
        wanted = codec.decode(Seccomp, raw, "seccomp")
        before, after = uncompacted(monkeypatch, wanted), seccomp.compile_profile(wanted).code
        assert len(after) * 3 < len(before)
        numbers = {*range(520), *range(1 << 30, (1 << 30) + 560), (1 << 32) - 1}
        assert_same(before, after, numbers)


NAMES = "read write open clone personality socket mkdir keyctl bpf mount ioctl io_uring_setup"
conditions = st.builds(
    lambda index, value, second, op: SeccompArg(index=index, value=value, value_two=second, op=op),
    st.integers(0, 2),
    st.sampled_from((0, 2, 8, 40, 0x7E020000, 1 << 33 | 8)),
    st.sampled_from((0, 2, 0x7E020000)),
    st.sampled_from(sorted(seccomp.OPERATORS)),
)
rules = st.builds(
    lambda names, action, args: SeccompSyscall.unchecked(
        {"names": tuple(names), "action": action, "args": tuple(args)}
    ),
    st.lists(st.sampled_from(NAMES.split()), min_size=1, max_size=6),
    st.sampled_from(("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_LOG")),
    st.lists(conditions, max_size=3),
)


@needs_x86
@settings(deadline=None, max_examples=60)
@given(
    st.lists(rules, max_size=6),
    st.sampled_from(("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS")),
    st.lists(st.sampled_from(("SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64")), max_size=3),
)
def test_any_profile_decides_the_same(
    syscalls: list[SeccompSyscall], default: str, architectures: list[str]
) -> None:
    wanted = profile(
        default_action=default, syscalls=tuple(syscalls), architectures=tuple(architectures)
    )
    with pytest.MonkeyPatch.context() as patch:
        before = uncompacted(patch, wanted)
    after = seccomp.compile_profile(wanted).code
    near = {k + d for k in constants(before) | constants(after) for d in (-1, 0, 1)}
    assert_same(before, after, {k for k in near if 0 <= k < 1 << 32})


@needs_x86
def test_jumps_that_are_too_far_for_a_comparison() -> None:
    """More borders than eight bits of distance."""
    lines = [struct.pack("HBBI", 0x20, 0, 0, 0)]
    for number in range(0, 1800, 2):
        lines += [struct.pack("HBBI", 0x15, 0, 1, number), struct.pack("HBBI", 6, 0, 0, number)]
    program = b"".join([*lines, struct.pack("HBBI", 6, 0, 0, 7)])
    shorter = seccomp_ranges.compact(program)
    assert all(judge(program, n) == judge(shorter, n) for n in range(1802))


@pytest.mark.parametrize(
    "program",
    [
        b"",
        struct.pack("HBBI", 0x15, 0, 0, 1),  # compares what was never loaded
        struct.pack("HBBI", 0x20, 0, 0, 0),  # ends without a decision
        struct.pack("HBBIHBBI", 0x20, 0, 0, 0, 0x45, 0, 0, 1),  # bits of a number
        struct.pack("HBBIHBBI", 0x61, 0, 0, 0, 6, 0, 0, 1),  # index register
    ],
)
def test_what_is_unforeseen_stays_as_it_is(program: bytes) -> None:
    assert seccomp_ranges.compact(program) == program
