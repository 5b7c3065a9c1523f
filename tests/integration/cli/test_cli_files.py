"""cp, save and load, import and export, commit: bytes there and back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cli import Cli


@pytest.fixture
def box(cli: Cli) -> Iterator[str]:
    """A running container."""
    yield cli("run", "-d", "busybox", "sleep", "600").ok()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a bit of everything."""
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "big").write_bytes(os.urandom(1_300_001))
    (root / "empty").touch()
    (root / "run me").write_text("#!/bin/sh\n")
    (root / "run me").chmod(0o755)
    (root / "link").symlink_to("sub/big")
    return root


def same(one: Path, other: Path) -> None:
    done = subprocess.run(["diff", "-r", "--no-dereference", one, other], capture_output=True)
    assert done.returncode == 0, done.stdout


def test_folder_there_and_back(cli: Cli, box: str, tree: Path, tmp_path: Path) -> None:
    cli("cp", str(tree), f"{box}:/made").ok()
    cli("cp", f"{box}:/made", str(tmp_path / "back")).ok()
    same(tree, tmp_path / "back")
    assert (tmp_path / "back" / "run me").stat().st_mode & 0o777 == 0o755


def test_into_a_folder_that_is_there(cli: Cli, box: str, tree: Path, tmp_path: Path) -> None:
    cli("exec", box, "mkdir", "/there").ok()
    cli("cp", str(tree), f"{box}:/there").ok()
    cli("cp", f"{tree}/.", f"{box}:/there").ok()
    assert "tree" in cli("exec", box, "ls", "/there").ok().split()
    (tmp_path / "here").mkdir()
    cli("cp", f"{box}:/there/tree", str(tmp_path / "here")).ok()
    same(tree, tmp_path / "here" / "tree")
    (tmp_path / "contents").mkdir()
    cli("cp", f"{box}:/there/tree/.", str(tmp_path / "contents")).ok()
    same(tree, tmp_path / "contents")


def test_one_file_and_its_new_name(cli: Cli, box: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    cli("cp", str(tmp_path / "a"), f"{box}:/tmp/b").ok()
    cli("cp", f"{box}:/tmp/b", str(tmp_path / "c")).ok()
    assert (tmp_path / "c").read_text() == "text"
    assert cli("cp", f"{box}:/tmp/b", "-").ok().startswith("b\0")


def test_what_is_not_there(cli: Cli, box: str, tmp_path: Path) -> None:
    cli("cp", f"{box}:/nosuch", str(tmp_path)).failed(1, "Could not find the file /nosuch in con")
    cli("cp", str(tmp_path / "nosuch"), f"{box}:/").failed(1, "nosuch: no such file or directory")
    cli("cp", str(tmp_path), "nosuch:/").failed(1, "No such container: nosuch")
    (tmp_path / "a").touch()
    cli("cp", str(tmp_path / "a"), f"{box}:/no/such/").failed(1, "no such directory")


def test_save_and_load(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "image.tar"
    cli("tag", "busybox", "saved:1").ok()
    before = cli("image", "inspect", "-f", "{{.Id}}", "saved:1").ok()
    cli("save", "-o", str(file), "saved:1").ok()
    cli("rmi", "saved:1").ok()
    assert "Loaded image: saved:1" in cli("load", "-i", str(file)).ok()
    assert cli("image", "inspect", "-f", "{{.Id}}", "saved:1").ok() == before
    cli("rmi", "saved:1").ok()
    assert list(tmp_path.iterdir()) == [file]


def test_a_failed_save_leaves_no_file(cli: Cli, tmp_path: Path) -> None:
    cli("save", "-o", str(tmp_path / "x"), "nosuch").failed(1, "nosuch")
    assert list(tmp_path.iterdir()) == []


def test_export_and_import(cli: Cli, box: str, tmp_path: Path) -> None:
    cli("exec", box, "sh", "-c", "echo kept > /kept").ok()
    file = tmp_path / "root.tar"
    cli("export", "-o", str(file), box).ok()
    change = ["-c", 'CMD ["cat", "/kept"]', "-m", "from a test"]
    made = cli("import", *change, str(file), "imported:1").ok()
    assert made.startswith("sha256:")
    assert cli("run", "--rm", "imported:1").ok() == "kept"
    assert cli("history", "--format", "{{.Comment}}", "imported:1").ok() == "from a test"
    cli("rmi", "imported:1").ok()


def test_import_from_a_pipe(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    tar = subprocess.run(["tar", "-C", tmp_path, "-c", "f"], capture_output=True, check=True).stdout
    made = cli("import", "-", "piped:1", stdin=tar).ok()
    assert cli("image", "inspect", "-f", "{{.Id}}", "piped:1").ok() == made
    cli("rmi", "piped:1").ok()


def test_commit(cli: Cli, box: str) -> None:
    cli("exec", box, "touch", "/new").ok()
    assert "A /new" in cli("diff", box).ok().splitlines()
    cli("commit", "-c", "ENV X=1", "-m", "why", box, "committed:1").ok()
    assert cli("run", "--rm", "committed:1", "sh", "-c", "ls /new; echo $X").ok() == "/new\n1"
    cli("rmi", "committed:1").ok()
