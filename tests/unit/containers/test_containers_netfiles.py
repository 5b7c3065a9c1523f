"""Files that a container has mounted, written by the host: never waiting for the container."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gantry.containers import netfiles
from gantry.containers.rootfs import Unsure, read_file
from gantry.model.network import Sandbox


@contextmanager
def leased(path: Path) -> Iterator[None]:
    """What root in a container can do to a file of its own."""
    before = signal.signal(signal.SIGIO, lambda *_: None)
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def sandbox(hosts: bytes) -> Sandbox:
    return Sandbox(None, "web", hosts=hosts, resolv_conf=b"nameserver 127.0.0.11\n")


def test_in_place(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    netfiles.prepare(str(folder), "web", sandbox(b"first\n"))
    with (folder / "hosts").open() as mounted:
        netfiles.refresh(str(folder), sandbox(b"second\n"))
        netfiles.refresh(str(folder), sandbox(b""))  # nothing to say
        assert mounted.read() == "second\n"
    assert (folder / "hostname").read_text() == "web\n"


def test_a_lease_holds_up_nobody(tmp_path: Path) -> None:
    netfiles.prepare(str(tmp_path), "web", sandbox(b"first\n"))
    with leased(tmp_path / "hosts"):
        netfiles.refresh(str(tmp_path), sandbox(b"second\n"))
        assert os.stat(tmp_path / "hosts").st_size == len("first\n")
    with leased(tmp_path / "hosts"):
        netfiles.prepare(str(tmp_path), "web", sandbox(b"third\n"))
        assert (tmp_path / "hosts").read_bytes() == b"third\n"


def test_no_symlink_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "hosts").symlink_to(tmp_path / "elsewhere")
    netfiles.prepare(str(tmp_path), "web", sandbox(b"hosts\n"))
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_a_leased_passwd_is_looked_at_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0::/:\n")
    with leased(tmp_path / "passwd"), pytest.raises(Unsure):
        read_file([str(tmp_path)], "passwd")
