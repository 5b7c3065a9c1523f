"""The daemon's locks and pid file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from gantry.daemon import roots
from gantry.model.errors import Conflict, System


def test_two_never_share_a_root(tmp_path: Path) -> None:
    with contextlib.ExitStack() as first:
        roots.lock(str(tmp_path), first)
        with (
            contextlib.ExitStack() as second,
            pytest.raises(Conflict, match=f"another gantryd is using {tmp_path}"),
        ):
            roots.lock(str(tmp_path), second)
    with contextlib.ExitStack() as again:
        roots.lock(str(tmp_path), again)


def test_pidfile(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "x.pid"
    with contextlib.ExitStack() as stack:
        roots.write_pidfile(str(path), stack)
        assert path.read_text() == str(os.getpid())
    assert not path.exists()
    path.write_text("not a number")
    with contextlib.ExitStack() as stack:
        roots.write_pidfile(str(path), stack)  # whoever wrote that is no daemon
    path.write_text("1")
    with contextlib.ExitStack() as stack:
        roots.write_pidfile(str(path), stack)  # pid 1 lives, but is no gantryd
    blocked = tmp_path / "file"
    blocked.write_text("")
    with contextlib.ExitStack() as stack, pytest.raises(System, match="can't write pid file"):
        roots.write_pidfile(str(blocked / "x.pid"), stack)


def test_roots(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    roots.prepare(str(root), 0o710)
    assert root.stat().st_mode & 0o777 == 0o710
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(System, match="unable to make"):
        roots.prepare(str(blocked / "c"), 0o710)
