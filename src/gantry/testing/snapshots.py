"""The contract of `gantry.model.snapshot.Snapshotter`: every driver passes all of it.

A driver's test module inherits `SnapshotterContract` and says how to make one. The tests
that look at a mounted whole need root and run `mounted`, which shows a snapshot's files in a
private mount namespace of a child process; the others look at the layer's own folder.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gantry.kernel import mountapi, syscalls
from gantry.model.errors import Conflict, InvalidParameter, NotFound
from gantry.model.mount import Mount
from gantry.model.snapshot import Kind, Snapshotter
from gantry.mounts.apply import apply


def in_mounts(mounts: tuple[Mount, ...], action: Callable[[str], object]) -> None:
    """Run `action(path)` where `mounts` are applied, in a child with its own mount namespace;
    an exception of it fails the test."""
    with tempfile.TemporaryDirectory() as target:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                syscalls.unshare(syscalls.CLONE_NEWNS)
                syscalls.mount("none", "/", None, mountapi.MS_REC | mountapi.MS_PRIVATE)
                apply(mounts, target)
                action(target)
                code = 0
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "failed inside the mounts (see stderr)"


class SnapshotterContract:
    """Inherit, and define `open`."""

    def open(self, root: str) -> Snapshotter:
        """A driver on `root`: fresh, or as an earlier one left it."""
        raise NotImplementedError

    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        return str(tmp_path / "snapshots")

    def layer(self, driver: Snapshotter, name: str, parent: str | None, **files: str) -> None:
        """Commit a layer with these files."""
        key = "make-" + name
        mounts = driver.prepare(key, parent)

        def write(path: str) -> None:
            for file, text in files.items():
                Path(path, file).write_text(text)

        in_mounts(mounts, write)
        driver.commit(name, key)

    def see(self, mounts: tuple[Mount, ...], expected: dict[str, str]) -> None:
        def look(path: str) -> None:
            found = {item.name: item.read_text() for item in Path(path).iterdir()}
            assert found == expected, found

        in_mounts(mounts, look)

    # ---- bookkeeping

    def test_life_cycle(self, root: str) -> None:
        driver = self.open(root)
        driver.prepare("one", None)
        assert driver.stat("one").kind is Kind.ACTIVE
        assert driver.exists("one")
        driver.commit("layer", "one")
        assert not driver.exists("one")
        info = driver.stat("layer")
        assert (info.kind, info.parent) == (Kind.COMMITTED, None)
        driver.prepare("two", "layer")
        assert driver.stat("two").parent == "layer"
        driver.remove("two")
        driver.remove("layer")
        assert list(driver.walk()) == []
        driver.close()

    def test_unknown_and_taken(self, root: str) -> None:
        driver = self.open(root)
        for call in (driver.stat, driver.mounts, driver.remove, driver.usage, driver.layer):
            with pytest.raises(NotFound):
                call("nothing")
        with pytest.raises(NotFound):
            driver.prepare("x", "nothing")
        assert not driver.exists("x")
        driver.prepare("x", None)
        with pytest.raises(Conflict):
            driver.prepare("x", None)
        with pytest.raises(Conflict):
            driver.view("x", None)
        with pytest.raises(NotFound):
            driver.prepare("y", "x")  # an active snapshot is no parent
        driver.commit("layer", "x")
        driver.prepare("x", None)
        with pytest.raises(Conflict):
            driver.commit("layer", "x")
        with pytest.raises(Conflict):
            driver.commit("other", "layer")
        assert driver.stat("x").kind is Kind.ACTIVE
        driver.close()

    def test_parents_stay(self, root: str) -> None:
        driver = self.open(root)
        driver.prepare("x", None)
        driver.commit("layer", "x")
        driver.prepare("child", "layer")
        driver.view("view", "layer")
        for child in ("child", "view"):
            with pytest.raises(Conflict):
                driver.remove("layer")
            driver.remove(child)
        driver.remove("layer")
        driver.close()

    def test_a_new_process_knows_all(self, root: str) -> None:
        driver = self.open(root)
        driver.prepare("x", None)
        driver.commit("sha256:" + "a" * 64, "x")
        driver.prepare("c" * 64, "sha256:" + "a" * 64)
        driver.view("v", "sha256:" + "a" * 64)
        before = sorted(driver.walk(), key=lambda info: info.name)
        mounts = driver.mounts("c" * 64)
        driver.close()
        driver = self.open(root)
        assert sorted(driver.walk(), key=lambda info: info.name) == before
        assert driver.mounts("c" * 64) == mounts
        with pytest.raises(Conflict):
            driver.remove("sha256:" + "a" * 64)
        driver.close()

    def test_names_with_anything_in_them(self, root: str) -> None:
        driver = self.open(root)
        for key in ("a/b", "../x", "with space", "ü", "x" * 300):
            driver.prepare(key, None)
        driver.close()
        driver = self.open(root)
        assert {info.name for info in driver.walk()} == {
            "a/b",
            "../x",
            "with space",
            "ü",
            "x" * 300,
        }
        driver.close()

    def test_nothing_stays(self, root: str) -> None:
        driver = self.open(root)
        empty = self.files(root)
        self.layer(driver, "layer", None, a="1", b="2")
        driver.prepare("child", "layer")
        driver.view("view", "layer")
        for name in ("view", "child", "layer"):
            driver.remove(name)
        driver.cleanup()
        driver.close()
        assert self.files(root) == empty

    def files(self, root: str) -> list[str]:
        """All that lies in the driver's root (a driver with a pool says what it ignores)."""
        return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*"))

    def test_options_unknown(self, root: str) -> None:
        driver = self.open(root)
        with pytest.raises(InvalidParameter):
            driver.prepare("x", None, options={"colour": "blue"})
        assert not driver.exists("x")
        driver.close()

    def test_what_info_and_inspect_show(self, root: str) -> None:
        driver = self.open(root)
        self.layer(driver, "layer", None, a="1")
        for key, value in driver.status():
            assert isinstance(key, str)
            assert isinstance(value, str)
        data = driver.graph_driver_data("layer")
        assert all(isinstance(value, str) for value in data.values())
        driver.close()

    # ---- files

    def test_layers_on_layers(self, root: str) -> None:
        driver = self.open(root)
        self.layer(driver, "bottom", None, a="1", b="1")
        self.layer(driver, "top", "bottom", b="2", c="2")
        whole = {"a": "1", "b": "2", "c": "2"}
        self.see(driver.view("view", "top"), whole)
        self.see(driver.prepare("one", "top"), whole)
        self.see(driver.prepare("two", "top"), whole)
        in_mounts(driver.mounts("one"), lambda path: Path(path, "d").write_text("3"))
        self.see(driver.mounts("one"), {**whole, "d": "3"})
        self.see(driver.mounts("two"), whole)
        self.see(driver.view("view2", "bottom"), {"a": "1", "b": "1"})
        driver.close()

    def test_deleting(self, root: str) -> None:
        driver = self.open(root)
        self.layer(driver, "bottom", None, a="1", b="1")
        mounts = driver.prepare("x", "bottom")
        in_mounts(mounts, lambda path: os.unlink(path + "/a"))
        driver.commit("top", "x")
        self.see(driver.view("view", "top"), {"b": "1"})
        self.see(driver.view("below", "bottom"), {"a": "1", "b": "1"})
        driver.close()

    def test_a_view_cannot_be_written(self, root: str) -> None:
        driver = self.open(root)
        self.layer(driver, "bottom", None, a="1")
        self.layer(driver, "top", "bottom", b="1")

        def write(path: str) -> None:
            with pytest.raises(OSError, match="Read-only"):
                Path(path, "x").write_text("")

        in_mounts(driver.view("v1", "bottom"), write)
        in_mounts(driver.view("v2", "top"), write)
        in_mounts(driver.view("v3", None), write)
        driver.close()

    def test_the_root_looks_as_the_layer_says(self, root: str) -> None:
        driver = self.open(root)

        def change(path: str) -> None:
            os.chown(path, 12, 34)
            os.chmod(path, 0o1755)

        in_mounts(driver.prepare("x", None), change)
        driver.commit("layer", "x")

        def look(path: str) -> None:
            info = os.stat(path)
            assert (info.st_uid, info.st_gid) == (12, 34)
            assert stat.S_IMODE(info.st_mode) == 0o1755

        in_mounts(driver.prepare("child", "layer"), look)
        in_mounts(driver.view("view", "layer"), look)
        driver.close()

    def test_a_fresh_root_is_open(self, root: str) -> None:
        """Whatever the umask: containers with other users must get in."""
        mask = os.umask(0o077)
        try:
            driver = self.open(root)
            mounts = driver.prepare("x", None)
        finally:
            os.umask(mask)

        def look(path: str) -> None:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o755

        in_mounts(mounts, look)
        driver.close()

    def test_special_files_survive(self, root: str) -> None:
        driver = self.open(root)

        def make(path: str) -> None:
            os.mkfifo(path + "/pipe")
            os.mknod(path + "/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
            os.symlink("pipe", path + "/link")
            Path(path, "hard1").write_text("x")
            os.link(path + "/hard1", path + "/hard2")
            os.chmod(path + "/hard1", 0o4711)
            os.utime(path + "/hard1", ns=(10**18, 10**18 + 1))

        in_mounts(driver.prepare("x", None), make)
        driver.commit("bottom", "x")
        driver.prepare("y", "bottom")
        driver.commit("top", "y")

        def look(path: str) -> None:
            assert stat.S_ISFIFO(os.stat(path + "/pipe").st_mode)
            assert os.stat(path + "/null").st_rdev == os.makedev(1, 3)
            assert os.readlink(path + "/link") == "pipe"
            info = os.stat(path + "/hard2")
            assert info.st_nlink == 2
            assert stat.S_IMODE(info.st_mode) == 0o4711
            assert info.st_mtime_ns == 10**18 + 1

        in_mounts(driver.prepare("child", "top"), look)
        driver.close()

    def test_usage_counts_what_is_new(self, root: str) -> None:
        driver = self.open(root)
        self.layer(driver, "bottom", None, a="x" * 100_000)
        mounts = driver.prepare("child", "bottom")
        before = driver.usage("child")
        in_mounts(mounts, lambda path: Path(path, "b").write_text("y" * 200_000))
        after = driver.usage("child")
        assert after.bytes - before.bytes == 200_000
        assert driver.usage("bottom").bytes == 100_000
        driver.close()

    def test_many_layers(self, root: str) -> None:
        driver = self.open(root)
        parent: str | None = None
        for number in range(12):
            driver.prepare(f"k{number}", parent)
            driver.commit(f"l{number}", f"k{number}")
            parent = f"l{number}"
        mounts = driver.prepare("child", parent)
        in_mounts(mounts, lambda path: Path(path, "x").write_text(""))
        driver.close()
