"""A plain user, with no right to anything but a user namespace: what works, what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
from tests.oci.bundles import Bundle, Runtime
from tests.support.plain import PLAIN, USER, cannot_unshare
from tests.support.plain import python as find_python


@pytest.fixture(scope="module")
def python() -> list[str]:
    """A Python that the user may execute, and how it finds gantry."""
    if cannot_unshare():
        pytest.skip("plain users may not make user namespaces here")
    found = find_python()
    if not found:
        pytest.skip("no Python that a plain user may execute")
    return found


@pytest.fixture
def plain(runtime: Runtime, python: list[str], bundle: Bundle) -> Runtime:
    """The runtime as that user, with an example bundle of `spec --rootless`."""
    runtime.root.chmod(0o755)
    os.chown(runtime.root, USER, USER)
    os.chown(bundle.folder, USER, USER)
    if runtime.name == "gantry-runc":
        runtime.command = [*PLAIN, *python, "-m", "gantry.runtime.main"]
    else:
        runtime.command = [*PLAIN, *runtime.command]
    made = runtime("spec", "--rootless", "-b", str(bundle.folder))
    assert made.code == 0, made.text
    bundle.config = json.loads((bundle.folder / "config.json").read_text())
    bundle.part("process")["terminal"] = False
    return runtime


def test_it_runs_as_its_own_root(plain: Runtime, bundle: Bundle) -> None:
    script = "id -u; id -g; cat /proc/self/uid_map; hostname; exit 5"
    done = plain.run(bundle.sh(script))
    assert done.code == 5
    assert done.out.split()[:5] == ["0", "0", "0", str(USER), "1"]


def test_its_life(plain: Runtime, bundle: Bundle) -> None:
    name = plain.detached(bundle.args("sleep", "1000"))
    assert plain.state(name)["status"] == "running"
    assert name in plain("list", "-q").out.split()
    done = plain("exec", name, "sh", "-c", "id -u; echo $$; exit 4")
    assert (done.code, done.out.split()[0]) == (4, "0")
    assert int(done.out.split()[1]) > 1
    assert plain("kill", name, "KILL").code == 0
    plain.wait_status(name, "stopped")
    assert plain("delete", name).code == 0
    assert plain("state", name).code == 1


def test_create_and_start(plain: Runtime, bundle: Bundle) -> None:
    name = plain.create(bundle.args("sleep", "1000"))
    assert plain.state(name)["status"] == "created"
    assert plain("start", name).code == 0
    assert plain.state(name)["status"] == "running"
    assert plain("delete", "--force", name).code == 0


def _limit(bundle: Bundle) -> None:
    bundle.part("linux", "resources")["memory"] = {"limit": 64 << 20}


def _path(bundle: Bundle) -> None:
    bundle.part("linux")["cgroupsPath"] = f"/rootless{os.getpid()}"


@pytest.mark.parametrize("change", [_limit, _path])
def test_what_was_asked_for_has_to_be_there(
    plain: Runtime, bundle: Bundle, change: Callable[[Bundle], None]
) -> None:
    change(bundle)
    done = plain.run(bundle.args("true"))
    assert done.code != 0
    assert "cgroup" in done.err
    assert plain("list", "-q").out == ""


def test_without_a_cgroup(plain: Runtime, bundle: Bundle) -> None:
    name = plain.detached(bundle.args("sleep", "1000"))
    for words in (("pause", name), ("update", "--memory", "64m", name)):
        done = plain(*words)
        assert done.code == 1
        assert "cgroup" in done.err


def test_devices_are_the_hosts(plain: Runtime, bundle: Bundle) -> None:
    done = plain.run(bundle.sh("echo x > /dev/null; head -c 3 /dev/zero | wc -c; ls /dev/full"))
    assert done.out.split() == ["3", "/dev/full"]


def test_an_id_that_is_not_mapped(plain: Runtime, bundle: Bundle) -> None:
    name = plain.detached(bundle.args("sleep", "1000"))
    done = plain("exec", "--user", "5", name, "true")
    assert done.code == 255
    assert "cannot set uid to unmapped user in user namespace" in done.err


def test_its_oom_score(plain: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["oomScoreAdj"] = 100
    assert plain.ok(bundle.args("cat", "/proc/self/oom_score_adj")).strip() == "100"
    name = plain.detached(bundle.args("sleep", "1000"))
    done = plain("exec", name, "cat", "/proc/self/oom_score_adj")
    assert (done.code, done.out.strip()) == (0, "100"), done.err


def test_it_sees_the_cgroup_that_it_is_in(plain: Runtime, bundle: Bundle) -> None:
    """`spec --rootless` has a cgroup mount, whether there is a right to a cgroup or not."""
    mounts = [mount for mount in bundle.entries("mounts") if isinstance(mount, dict)]
    assert "/sys/fs/cgroup" in [mount["destination"] for mount in mounts]
    assert plain.ok(bundle.args("ls", "/sys/fs/cgroup")).split()
