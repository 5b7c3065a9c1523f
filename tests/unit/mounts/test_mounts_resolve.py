"""Paths in a hostile root. No rights needed: only openat2, mkdirat and symlinks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gantry.mounts import resolve


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def path_of(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def test_folders_are_made(root: int, tmp_path: Path) -> None:
    assert path_of(resolve.ensure_directory(root, "/a/./b//c")) == str(tmp_path / "root/a/b/c")


def test_existing_ones_are_found(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/x").mkdir()
    assert path_of(resolve.ensure_directory(root, "x")) == str(tmp_path / "root/x")


@pytest.mark.parametrize(
    ("link", "wanted", "found"),
    [
        ("/outside", "/link/in", "root/outside/in"),
        ("../../../../outside", "/link/in", "root/outside/in"),
        ("deep/er", "/link/in", "root/deep/er/in"),
        ("/", "/link/in", "root/in"),
        ("..", "/link/in", "root/in"),
    ],
)
def test_links_stay_inside(root: int, tmp_path: Path, link: str, wanted: str, found: str) -> None:
    (tmp_path / "root/link").symlink_to(link)
    assert path_of(resolve.ensure_directory(root, wanted)) == str(tmp_path / found)
    assert list((tmp_path / "outside").iterdir()) == []


def test_dots_cannot_climb(root: int, tmp_path: Path) -> None:
    made = path_of(resolve.ensure_directory(root, "/new/../../../outside/x"))
    assert made == str(tmp_path / "root/outside/x")
    assert list((tmp_path / "outside").iterdir()) == []


def test_links_in_a_circle(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/a").symlink_to("b")
    (tmp_path / "root/b").symlink_to("a")
    for make in (resolve.ensure_directory, resolve.ensure_file):
        with pytest.raises(OSError) as caught:
            make(root, "/a/x")
        assert caught.value.errno == errno.ELOOP


def test_files_are_made_with_their_folders(root: int, tmp_path: Path) -> None:
    assert path_of(resolve.ensure_file(root, "/d/e/file")) == str(tmp_path / "root/d/e/file")
    assert (tmp_path / "root/d/e/file").stat().st_size == 0


def test_a_file_through_a_dangling_link(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/link").symlink_to("/elsewhere/file")
    assert path_of(resolve.ensure_file(root, "/link")) == str(tmp_path / "root/elsewhere/file")


def test_what_is_there_is_left_alone(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/file").write_text("content")
    os.close(resolve.ensure_file(root, "/file"))
    assert (tmp_path / "root/file").read_text() == "content"


def test_a_file_in_the_way_of_a_folder(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/file").write_text("x")
    with pytest.raises(NotADirectoryError):
        resolve.ensure_directory(root, "/file/x")


def test_open_plain_refuses_links(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/proc").symlink_to("/var")
    (tmp_path / "root/var").mkdir()
    with pytest.raises(OSError) as caught:
        resolve.open_plain(root, "/proc")
    assert caught.value.errno == errno.ELOOP
    os.close(resolve.open_plain(root, "/var"))
