"""Checkpoint and restore by CRIU, where it works: a container goes on where it was."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime, wait_for


@pytest.fixture(scope="module")
def criu() -> str:
    """The program. Whether it can do its work is a matter of its age and the kernel's."""
    path = shutil.which("criu", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        pytest.skip("criu is not installed")
    done = subprocess.run([path, "check"], capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr + done.stdout).strip().splitlines() or ["no reason given"]
        pytest.skip(f"criu check: {why[0]}")
    return path


def _count(bundle: Bundle) -> int:
    try:
        return int((bundle.rootfs / "tmp/count").read_text() or 0)
    except (FileNotFoundError, ValueError):
        return 0


@pytest.fixture
def counter(bundle: Bundle) -> Bundle:
    """A process that holds nothing of this machine's, and counts in memory."""
    script = (
        "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; sleep 0.02; done"
    )
    return bundle.sh(f"exec < /dev/null > /dev/null 2>&1; {script}")


def _restored(runtime: Runtime, bundle: Bundle, *flags: str) -> str:
    name = runtime.new_id()
    done = runtime._leave(name, "restore", "-d", *flags, "-b", str(bundle.folder), name)
    assert done.code == 0, done.err
    return name


def test_a_container_goes_on_where_it_was(
    runtime: Runtime, counter: Bundle, criu: str, tmp_path: Path
) -> None:
    name = runtime.detached(counter)
    wait_for(lambda: _count(counter) > 5)
    image = str(tmp_path / "image")
    done = runtime("checkpoint", "--image-path", image, name)
    assert done.code == 0, done.text
    assert runtime("state", name).code == 1
    before = _count(counter)
    (counter.rootfs / "tmp/count").unlink()

    again = _restored(runtime, counter, "--image-path", image)
    assert runtime.state(again)["status"] == "running"
    wait_for(lambda: _count(counter) > before)
    assert _count(counter) < before + 1000
    assert runtime("exec", again, "echo", "inside").out == "inside\n"
    assert runtime("delete", "--force", again).code == 0


def test_it_may_go_on_running(runtime: Runtime, counter: Bundle, criu: str, tmp_path: Path) -> None:
    name = runtime.detached(counter)
    wait_for(lambda: _count(counter) > 2)
    words = ("--image-path", str(tmp_path / "image"), "--work-path", str(tmp_path / "work"))
    done = runtime("checkpoint", "--leave-running", *words, name)
    assert done.code == 0, done.text
    assert (tmp_path / "work/dump.log").exists()
    before = _count(counter)
    wait_for(lambda: _count(counter) > before)
    assert runtime.state(name)["status"] == "running"


def test_memory_before_the_rest(
    runtime: Runtime, counter: Bundle, criu: str, tmp_path: Path
) -> None:
    name = runtime.detached(counter)
    wait_for(lambda: _count(counter) > 2)
    tracked = subprocess.run([criu, "check", "--feature", "mem_dirty_track"], capture_output=True)
    if tracked.returncode:
        done = runtime("checkpoint", "--pre-dump", "--image-path", str(tmp_path / "image"), name)
        assert (done.code, "CRIU is missing features" in done.err) == (1, True)
        return
    first = runtime("checkpoint", "--pre-dump", "--image-path", str(tmp_path / "parent"), name)
    assert first.code == 0, first.text
    assert runtime.state(name)["status"] == "running"
    image = str(tmp_path / "image")
    done = runtime("checkpoint", "--parent-path", "../parent", "--image-path", image, name)
    assert done.code == 0, done.text
    before = _count(counter)
    again = _restored(runtime, counter, "--image-path", image)
    wait_for(lambda: _count(counter) > before)
    assert runtime("delete", "--force", again).code == 0


def test_binds_and_masks_are_there_again(
    runtime: Runtime, counter: Bundle, criu: str, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_text("first\n")
    counter.mount("/mnt/file", "bind", str(tmp_path / "outside"), "bind", "ro")
    (counter.rootfs / "mnt/file").write_text("")
    name = runtime.detached(counter)
    wait_for(lambda: _count(counter) > 2)
    image = str(tmp_path / "image")
    done = runtime("checkpoint", "--image-path", image, name)
    assert done.code == 0, done.text
    again = _restored(runtime, counter, "--image-path", image)
    assert runtime("exec", again, "cat", "/mnt/file").out == "first\n"
    assert runtime("exec", again, "cat", "/proc/kcore").out == ""
    assert runtime("delete", "--force", again).code == 0


def test_what_is_only_created_is_not_kept(
    runtime: Runtime, counter: Bundle, tmp_path: Path
) -> None:
    name = runtime.create(counter)
    done = runtime("checkpoint", "--image-path", str(tmp_path / "image"), name)
    assert done.code == 1
    assert "cannot be checkpointed in created state" in done.err


def test_no_image(runtime: Runtime, counter: Bundle, tmp_path: Path) -> None:
    name = runtime.new_id()
    words = ("--image-path", str(tmp_path / "none"), "-b", str(counter.write()))
    assert runtime("restore", *words, name).code == 1
    assert runtime("state", name).code == 1
