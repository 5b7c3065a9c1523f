"""Masks, the console, and what is written to /proc: the holes of November 2025, varied.

CVE-2025-31133: what a mask is made of was believed. CVE-2025-52565: so was the terminal's
path. CVE-2025-52881: writes to /proc went where somebody else had it lead.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime

SECRETS = "cat /proc/keys /proc/timer_list; true"


@pytest.fixture
def hostile_dev(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> Path:
    """A volume at /dev, which somebody else writes to as well."""
    if runtime.name != "gantry-runc":
        pytest.skip("fixed in runc 1.2.8")
    kept = [
        mount
        for mount in bundle.entries("mounts")
        if isinstance(mount, dict) and not str(mount["destination"]).startswith("/dev")
    ]
    bundle.config["mounts"] = kept
    volume = tmp_path / "dev"
    volume.mkdir()
    os.mknod(volume / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    bundle.mount("/dev", "bind", str(volume), "bind", "dev")
    return volume


@contextmanager
def swapping(folder: Path, name: str, others: list[Path]) -> Iterator[list[int]]:
    """Another process puts one file after the other in the place of `name`. How often."""
    stop = threading.Event()
    count = [0]
    kept = folder / f"{name}.kept"
    if (folder / name).exists():
        os.rename(folder / name, kept)
        others = [kept, *others]

    def swap() -> None:
        while not stop.is_set():
            for other in others:
                fresh = folder / ".fresh"
                if other.is_symlink():
                    fresh.symlink_to(os.readlink(other))
                else:
                    os.link(other, fresh)
                os.rename(fresh, folder / name)
                count[0] += 1
                time.sleep(0.0001)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


# --- masks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nothing", "file", "zero", "fifo", "folder", "link"])
def test_a_mask_is_the_null_device_2025_31133(
    runtime: Runtime, bundle: Bundle, hostile_dev: Path, kind: str
) -> None:
    null = hostile_dev / "null"
    null.unlink()
    if kind == "file":
        null.write_text("x")
    elif kind == "zero":
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    elif kind == "fifo":
        os.mkfifo(null)
    elif kind == "folder":
        null.mkdir()
    elif kind == "link":
        null.symlink_to("/proc/self/mem")
    result = runtime.run(bundle.sh("echo ran; " + SECRETS))
    assert result.code == 1
    assert "/dev/null" in result.err
    assert result.out == ""


def test_a_mask_that_is_swapped_2025_31133(
    runtime: Runtime, bundle: Bundle, hostile_dev: Path
) -> None:
    link = hostile_dev / "link"
    link.symlink_to("/proc/sys/kernel/core_pattern")
    bundle.sh("stat -c %t:%T /proc/keys /proc/timer_list").write()
    ran = 0
    with swapping(hostile_dev, "null", [link]) as count:
        for _ in range(20):
            result = runtime.run(bundle)
            ran += result.code == 0
            assert result.code == 1 or set(result.out.split()) == {"1:3"}, result.text
    assert count[0] > 100


def test_a_mask_s_place_cannot_lead_elsewhere_2025_31133(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    """What is to be masked is a link of the image's: nothing outside is covered."""
    outside = tmp_path / "outside"
    outside.write_text("whole")
    (bundle.rootfs / "hidden").symlink_to(f"/../../../../../../../../..{outside}")
    bundle.entries("linux", "maskedPaths").append("/hidden")
    bundle.entries("linux", "readonlyPaths").append("/hidden")
    runtime.run(bundle)
    assert outside.read_text() == "whole"
    with open("/proc/self/mountinfo") as file:
        assert str(outside) not in file.read()


# --- the console ---------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/proc/sysrq-trigger", "/proc/keys", "/etc/passwd", "none"])
def test_a_console_that_leads_elsewhere_2025_52565(
    runtime: Runtime, bundle: Bundle, hostile_dev: Path, target: str
) -> None:
    (hostile_dev / "console").symlink_to(target)
    bundle.part("process")["terminal"] = True
    result = runtime.run(bundle.sh("echo ran"))
    assert result.code == 1
    assert "/dev/console" in result.err
    assert not (hostile_dev / "none").exists()


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_a_console_of_another_kind_2025_52565(
    runtime: Runtime, bundle: Bundle, hostile_dev: Path, kind: str
) -> None:
    if kind == "folder":
        (hostile_dev / "console").mkdir()
    else:
        os.mkfifo(hostile_dev / "console")
    bundle.part("process")["terminal"] = True
    result = runtime.run(bundle.sh("echo ran"))
    assert result.code == 1
    assert "/dev/console" in result.err


def test_a_console_that_is_swapped_2025_52565(
    runtime: Runtime, bundle: Bundle, hostile_dev: Path
) -> None:
    """Bound over a masked path, the terminal would take the mask's place."""
    link = hostile_dev / "link"
    link.symlink_to("/proc/keys")
    (hostile_dev / "console").touch()
    bundle.part("process")["terminal"] = True
    bundle.sh("stat -c %t:%T /proc/keys").write()
    with swapping(hostile_dev, "console", [link]) as count:
        for _ in range(20):
            result = runtime.run(bundle)
            assert result.code == 1 or result.out.split() == ["1:3"], result.text
    assert count[0] > 100


def _hostile_pts(runtime: Runtime, bundle: Bundle, script: str) -> str:
    if runtime.name != "gantry-runc":
        pytest.skip("fixed in runc 1.2.8")
    bundle.caps("CAP_SYS_ADMIN", "CAP_MKNOD")
    name = runtime.detached(bundle.sh(f"{script}; echo ready > /ready; sleep 1000"))
    deadline = time.monotonic() + 10
    while not (bundle.rootfs / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return name


@pytest.mark.parametrize(
    "script",
    [
        "mkfifo /tmp/p 2>/dev/null || mknod /tmp/p p; mount -o bind /tmp/p /dev/pts/ptmx",
        "echo x > /tmp/p; mount -o bind /tmp/p /dev/pts/ptmx",
        "mount -t tmpfs none /dev/pts; echo x > /dev/pts/ptmx",
        "mount -o bind /dev/null /dev/pts/ptmx",
    ],
)
def test_an_exec_s_terminal_is_a_devpts_s_2025_52565(
    runtime: Runtime, bundle: Bundle, script: str
) -> None:
    name = _hostile_pts(runtime, bundle, script)
    result = runtime("exec", "-t", name, "echo", "ran")
    assert result.code == 255
    assert "ran" not in result.out


# --- writes to /proc -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "destination",
    ["/proc", "/proc/sys", "/proc/sys/net", "/proc/self/attr", "/proc/1", "/proc/net"],
)
@pytest.mark.parametrize("kind", ["tmpfs", "bind", "proc"])
def test_nothing_is_mounted_into_proc_2025_52881(
    runtime: Runtime, bundle: Bundle, tmp_path: Path, destination: str, kind: str
) -> None:
    """A tmpfs, a volume, or another part of /proc where labels and sysctls are written."""
    if kind == "proc" and destination == "/proc":
        pytest.skip("that is the way it should be")
    if kind == "tmpfs" and runtime.name == "runc":
        pytest.skip("runc 1.1 lets a tmpfs in")
    (tmp_path / "fake").mkdir()
    if kind == "tmpfs":
        bundle.mount(destination, "tmpfs", "tmpfs")
    elif kind == "bind":
        bundle.mount(destination, "bind", str(tmp_path / "fake"), "bind")
    else:
        bundle.mount(destination, "bind", "/proc/fs", "bind")
    result = runtime.run(bundle.sh("echo ran"))
    assert result.code == 1
    assert "cannot be mounted because it is" in result.err
    assert result.out == ""


def test_a_file_of_proc_over_another_2025_52881(runtime: Runtime, bundle: Bundle) -> None:
    bundle.mount("/proc/sys/net/ipv4/ip_forward", "bind", "/proc/self/comm", "bind")
    bundle.part("linux")["sysctl"] = {"net.ipv4.ip_forward": "1"}
    result = runtime.run(bundle.sh("echo ran"))
    assert result.code == 1
    assert "cannot be mounted because it is inside /proc" in result.err


FAKES = {
    "a tmpfs": (
        "mount -t tmpfs none /proc; mkdir -p /proc/self/attr /proc/thread-self/attr;"
        " echo untouched > /proc/self/attr/exec; echo untouched > /proc/thread-self/attr/exec"
    ),
    "a part of it": "mount --bind /proc/sys /proc",
    "a cover of one file": (
        "echo untouched > $FAKE; mount --bind $FAKE /proc/$$/attr/exec;"
        " mount --bind $FAKE /proc/$$/task/$$/attr/exec"
    ),
    "another file of it": (
        "mount --bind /proc/$$/comm /proc/$$/attr/exec;"
        " mount --bind /proc/$$/comm /proc/$$/task/$$/attr/exec"
    ),
    "nothing": "umount -l /proc",
}


@pytest.mark.parametrize("fake", FAKES)
def test_labels_go_to_the_kernel_or_nowhere_2025_52881(
    runtime: Runtime, tmp_path: Path, fake: str
) -> None:
    """What an exec writes its label to, in a mount namespace that somebody has prepared."""
    if runtime.name != "gantry-runc":
        pytest.skip("a part of gantry's")
    taken = tmp_path / "taken"
    script = (
        "import sys\n"
        "from gantry.runtime import security\n"
        "try:\n"
        "    security._open_proc(-1, 'thread-self/attr/exec')\n"
        "except OSError as error:\n"
        "    print('refused', error)\n"
    )
    attack = f'set -e; {FAKES[fake]}; exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", attack, sys.executable, script],
        env={**os.environ, "FAKE": str(taken)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused"), done.stdout
    if taken.exists():
        assert taken.read_text() == "untouched\n"


def test_a_joined_mount_namespace_has_its_own_sys_2025_52881(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    """A container joins another's mount namespace, in which /sys is made up: it is in its
    cgroup all the same."""
    if runtime.name != "gantry-runc":
        pytest.skip("one look is enough")
    other = Bundle(_folder(tmp_path / "other"), bundle.rootfs)
    host = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c",
         "mount -t tmpfs none /sys/fs/cgroup && echo ready && exec sleep 1000"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert host.stdout is not None and host.stdout.readline() == "ready\n"
        other.namespace("mount", f"/proc/{host.pid}/ns/mnt")
        other.part("linux")["maskedPaths"] = []
        other.part("linux")["readonlyPaths"] = []
        other.part("linux")["cgroupsPath"] = f"/oci-joined-{os.getpid()}"
        out = runtime.ok(other.sh("cat /proc/self/cgroup"))
        assert f"/oci-joined-{os.getpid()}" in out
    finally:
        host.kill()
        host.communicate()
        shutil.rmtree(other.rootfs, ignore_errors=True)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
