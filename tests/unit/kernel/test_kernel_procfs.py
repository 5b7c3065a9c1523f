"""Parsing /proc."""

from __future__ import annotations

import os

import pytest

from gantry.kernel import capabilities, procfs


def test_mountinfo_with_escapes_and_optional_fields() -> None:
    (mount,) = procfs.parse_mountinfo(
        r"36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 shared:3 - ext3 /dev/root rw,a=b"
    )
    assert mount.mount_point == "/mnt 2\\x"
    assert mount.root == "/mnt1"
    assert mount.optional == ("master:1", "shared:3")
    assert mount.options == ("rw", "noatime")
    assert (mount.fstype, mount.source) == ("ext3", "/dev/root")
    assert mount.super_options == ("rw", "a=b")


def test_mountinfo_without_optional_fields() -> None:
    (mount,) = procfs.parse_mountinfo("22 27 0:21 / /proc rw,relatime - proc proc rw\n\nbroken\n")
    assert mount.optional == ()
    assert mount.fstype == "proc"


def test_stat_of_a_command_with_parentheses() -> None:
    fields = " ".join(str(n) for n in range(4, 60))
    found = procfs.parse_stat(f"42 (a ) (b) S 1 {fields}")
    assert (found.pid, found.comm, found.state, found.ppid) == (42, "a ) (b", "S", 1)
    assert found.start_time == 21


def test_this_process() -> None:
    found = procfs.stat(os.getpid())
    assert found.ppid == os.getppid()
    assert found.start_time > 0
    assert procfs.status_field("self", "Pid") == str(os.getpid())
    assert procfs.status_field("self", "NoSuchField") == ""


def test_no_such_process() -> None:
    with pytest.raises(OSError):
        procfs.stat(2**22 + 1)


def test_capability_names_are_the_kernel_s_numbers() -> None:
    assert capabilities.NUMBERS["CAP_CHOWN"] == 0
    assert capabilities.NUMBERS["CAP_SYS_ADMIN"] == 21
    assert capabilities.NUMBERS["CAP_CHECKPOINT_RESTORE"] == 40
    value, unknown = capabilities.bits(["CAP_CHOWN", "CAP_KILL", "CAP_NONESUCH"])
    assert value == 1 | 1 << 5
    assert unknown == ("CAP_NONESUCH",)
