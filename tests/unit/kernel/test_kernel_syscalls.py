"""The calls that need no rights."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gantry.kernel import syscalls


def test_errors_name_the_call_and_the_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        syscalls.openat2(-100, str(tmp_path / "none"), os.O_PATH)
    assert caught.value.strerror == "openat2: no such file or directory"
    assert caught.value.filename == str(tmp_path / "none")


def test_openat2_stays_in_its_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "root/link").symlink_to("../secret")
    root = os.open(tmp_path / "root", os.O_PATH)
    try:
        with pytest.raises(FileNotFoundError):
            syscalls.openat2(root, "link", os.O_RDONLY, resolve=syscalls.RESOLVE_IN_ROOT)
        with pytest.raises(OSError) as caught:
            syscalls.openat2(root, "link", os.O_RDONLY, resolve=syscalls.RESOLVE_BENEATH)
        assert caught.value.errno == errno.EXDEV
    finally:
        os.close(root)


def test_everything_is_close_on_exec(tmp_path: Path) -> None:
    fd = syscalls.openat2(-100, str(tmp_path), os.O_PATH)
    try:
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_a_sealed_memfd_cannot_be_changed() -> None:
    fd = syscalls.sealed_memfd("test", b"content")
    try:
        assert os.pread(fd, 100, 0) == b"content"
        with pytest.raises(OSError) as caught:
            os.pwrite(fd, b"x", 0)
        assert caught.value.errno == errno.EPERM
        with pytest.raises(OSError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def test_pidfd_sends_signals() -> None:
    pid = os.fork()
    if pid == 0:
        while True:
            os.read(os.pipe()[0], 1)
    fd = syscalls.pidfd_open(pid)
    try:
        syscalls.pidfd_send_signal(fd, 9)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == 9
    finally:
        os.close(fd)


def test_capget_is_what_proc_says() -> None:
    effective, permitted, inheritable = syscalls.capget()
    text = Path("/proc/self/status").read_text()
    fields = dict(line.split(":\t") for line in text.splitlines() if line.startswith("Cap"))
    assert effective == int(fields["CapEff"], 16)
    assert permitted == int(fields["CapPrm"], 16)
    assert inheritable == int(fields["CapInh"], 16)


def test_execve_keeps_the_environment_as_given() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        try:
            syscalls.execve(b"/usr/bin/env", [b"env"], [b"B=2", b"A=1", b"B=3"])
        finally:
            os._exit(1)
    os.close(write)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(read, 100) == b"B=2\nA=1\nB=3\n"
    os.close(read)


def test_fstatfs_and_namespaces() -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        assert syscalls.fstatfs_type(fd) == syscalls.NSFS_MAGIC
        assert syscalls.ns_type(fd) == syscalls.CLONE_NEWNET
    finally:
        os.close(fd)
