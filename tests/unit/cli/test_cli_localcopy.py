"""cp's tars: whole trees there and back, and hostile ones stopped."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from gantry.cli.localcopy import Reader, pack, split_entry, unpack
from gantry.model.errors import GantryError


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> Reader:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return Reader(iter([buffer.getvalue()]))


def file(name: str, data: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member, data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o750
    return member, b""


def test_there_and_back(tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "big").write_bytes(os.urandom(700_001))
    (source / "empty").touch(mode=0o600)
    (source / "script").write_text("x")
    (source / "script").chmod(0o4755)
    (source / "link").symlink_to("../outside")
    os.utime(source / "script", (1_000_000, 1_000_000))
    target = tmp_path / "target"
    target.mkdir()
    unpack(Reader(pack(str(source), "src")), str(target), "src", "renamed", owners=False)
    copied = target / "renamed"
    assert (copied / "sub" / "big").read_bytes() == (source / "sub" / "big").read_bytes()
    assert os.readlink(copied / "link") == "../outside"
    assert (copied / "script").stat().st_mode & 0o7777 == 0o4755
    assert (copied / "script").stat().st_mtime == 1_000_000
    assert (copied / "empty").stat().st_mode & 0o7777 == 0o600


def test_a_file_that_shrinks_keeps_the_stream_whole(tmp_path: Path) -> None:
    source = tmp_path / "f"
    source.write_bytes(b"a" * (1 << 20))
    stream = pack(str(source), "f")
    pieces = [next(stream)]
    os.truncate(source, 10)
    pieces += list(stream)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
        assert [member.size for member in tar] == [1 << 20]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil"])
def test_entries_that_climb_are_refused(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(GantryError, match="leaves the folder"):
        unpack(archive(file(name)), str(inner), "", "", owners=False)
    assert not (tmp_path / "evil").exists()


def test_absolute_names_stay_inside(tmp_path: Path) -> None:
    unpack(archive(file("/etc/x")), str(tmp_path), "", "", owners=False)
    assert (tmp_path / "etc" / "x").read_bytes() == b"x"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside, inner = tmp_path / "outside", tmp_path / "inner"
    outside.mkdir()
    inner.mkdir()
    evil = archive(link("d", str(outside)), file("d/owned"))
    with pytest.raises(OSError, match="d"):
        unpack(evil, str(inner), "", "", owners=False)
    assert list(outside.iterdir()) == []


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path: Path) -> None:
    outside, inner = tmp_path / "outside", tmp_path / "inner"
    outside.write_text("kept")
    inner.mkdir()
    (inner / "f").symlink_to(outside)
    unpack(archive(file("f", b"new")), str(inner), "", "", owners=False)
    assert outside.read_text() == "kept"
    assert (inner / "f").read_text() == "new"
    assert not (inner / "f").is_symlink()


def test_a_hard_link_to_outside_is_refused(tmp_path: Path) -> None:
    secret, inner = tmp_path / "secret", tmp_path / "inner"
    secret.write_text("s")
    inner.mkdir()
    with pytest.raises(GantryError, match="leaves the folder"):
        evil = archive(link("f", "../secret", tarfile.LNKTYPE))
        unpack(evil, str(inner), "", "", owners=False)


def test_modes_are_not_changed_through_a_link(tmp_path: Path) -> None:
    secret, inner = tmp_path / "secret", tmp_path / "inner"
    secret.write_text("s")
    secret.chmod(0o600)
    inner.mkdir()
    member, data = link("f", str(secret))
    member.mode = 0o777
    unpack(archive((member, data)), str(inner), "", "", owners=False)
    assert secret.stat().st_mode & 0o777 == 0o600


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(GantryError, match="cannot overwrite directory"):
        unpack(archive(file("d")), str(tmp_path), "", "", owners=False)


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "d").touch()
    with pytest.raises(GantryError, match="cannot overwrite non-directory"):
        unpack(archive(folder("d")), str(tmp_path), "", "", owners=False)


def test_a_broken_tar_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(GantryError, match="invalid tar stream"):
        unpack(Reader(iter([b"not a tar" * 200])), str(tmp_path), "", "", owners=False)


def test_paths_with_a_dot_mean_the_contents() -> None:
    assert split_entry("/a/b/.") == ("/a/b", ".")
    assert split_entry("/a/b/") == ("/a", "b")
    assert split_entry("b") == (".", "b")
