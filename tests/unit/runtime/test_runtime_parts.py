"""Handshake, hooks, compiled filters: parts that need no rights."""

from __future__ import annotations

import os
import struct
import sys
import time
from pathlib import Path

import pytest

from gantry.oci.runtime_spec import Hook, Seccomp, SeccompArg, SeccompSyscall
from gantry.runtime import handshake, hooks, seccomp
from gantry.runtime.errors import RuntimeFailure
from gantry.runtime.init import no_imports


def test_messages_and_an_fd() -> None:
    ours, theirs = handshake.pair()
    read, write = os.pipe()
    theirs.send(handshake.CONSOLE, b"body", read)
    os.close(read)
    kind, body, fd = ours.receive()
    assert (kind, body) == (handshake.CONSOLE, b"body")
    assert fd is not None
    os.write(write, b"x")
    assert os.read(fd, 1) == b"x"
    assert not os.get_inheritable(fd)
    os.close(fd)
    os.close(write)
    theirs.close()
    assert ours.receive() == (b"", b"", None)
    ours.close()


def test_last_words_are_heard_though_ours_were_not() -> None:
    ours, theirs = handshake.pair()
    ours.send(handshake.GO)
    theirs.fail("the reason", 127)
    theirs.close()
    kind, body, _ = ours.receive()
    assert (kind, body[0], body[1:]) == (handshake.FAILED, 127, b"the reason")
    ours.send(handshake.GO)
    assert ours.receive()[0] == b""
    ours.close()


def test_hooks_get_the_state_and_their_environment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    hook = Hook(path="/bin/sh", args=("sh", "-c", f'cat > {out}; echo "$A" >> {out}'), env=("A=b",))
    hooks.run("prestart", [hook], b'{"id":"x"}\n')
    assert out.read_text() == '{"id":"x"}\nb\n'


def test_hooks_that_fail() -> None:
    shell = "/bin/sh"
    with pytest.raises(
        RuntimeFailure, match=r"prestart hook #1: exit status 3, stdout: , stderr: sorry"
    ):
        hooks.run(
            "prestart",
            [
                Hook(path=shell, args=("sh", "-c", "true")),
                Hook(path=shell, args=("sh", "-c", "echo sorry >&2; exit 3")),
            ],
            b"{}",
        )
    with pytest.raises(RuntimeFailure, match="signal: killed"):
        hooks.run("prestart", [Hook(path=shell, args=("sh", "-c", "kill -9 $$"))], b"{}")
    with pytest.raises(RuntimeFailure, match=r"/no/such: no such file|no such file.*: /no/such"):
        hooks.run("prestart", [Hook(path="/no/such")], b"{}")


def test_hooks_have_a_timeout() -> None:
    begin = time.monotonic()
    with pytest.raises(RuntimeFailure, match="timeout"):
        hooks.run(
            "prestart",
            [Hook(path="/bin/sh", args=("sh", "-c", "exec sleep 100"), timeout=1)],
            b"{}",
        )
    assert time.monotonic() - begin < 10


def test_no_import_after_the_fork() -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sys.modules.pop("this", None)
            try:
                with no_imports():
                    __import__("this")
            except RuntimeFailure:
                __import__("this")
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


# --- seccomp: the program, run by a small interpreter --------------------------------------

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
