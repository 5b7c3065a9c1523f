"""The runtime called in-process, as the shim does: what it makes, undoes and leaves."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.oci.bundles import BUSYBOX, Bundle, make_root

from gantry.model.mount import Mount
from gantry.oci import runtime_spec as oci
from gantry.runtime.container import Container, Stdio
from gantry.runtime.errors import RuntimeFailure

pytestmark = pytest.mark.integration


class Box:
    """One container's surroundings: an overlay, a state folder, pipes for its output."""

    def __init__(self, folder: Path, template: Path) -> None:
        (folder / "bundle").mkdir()
        self.bundle = Bundle(folder / "bundle", template)
        self.folder = folder
        self.root = str(folder / "state")
        self.id = f"in{uuid.uuid4().hex[:12]}"
        self.bundle.part("linux")["cgroupsPath"] = f"/{self.id}"
        for name in ("upper", "work", "merged"):
            (folder / name).mkdir()
        self.bundle.part("root")["path"] = str(folder / "merged")
        options = f"lowerdir={template}", f"upperdir={folder}/upper", f"workdir={folder}/work"
        self.mounts = [Mount("overlay", "overlay", options)]
        self.made: list[Container] = []

    def create(self, **more: object) -> tuple[Container, int]:
        """(container, the read end of its stdout and stderr)."""
        read, write = os.pipe2(os.O_CLOEXEC)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            container = Container.create(
                oci.parse(self.bundle.config),
                container_id=self.id,
                bundle=str(self.folder),
                root=self.root,
                rootfs_mounts=self.mounts,
                stdio=Stdio(null, write, write),
                **more,  # type: ignore[arg-type]  # the test's own words
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
            os.close(null)
        self.made.append(container)
        return container, read

    def run(self, **more: object) -> tuple[int, str]:
        """(wait status, output) of a run to the end."""
        container, read = self.create(start_now=True, **more)
        with os.fdopen(read, "rb") as file:
            text = file.read().decode()
        status = os.waitpid(container.pid, 0)[1]
        container.delete()
        self.made.remove(container)
        return status, text


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not os.path.exists(BUSYBOX):
        pytest.skip("needs busybox-static")
    return make_root(tmp_path_factory.mktemp("template"))


@pytest.fixture
def box(tmp_path: Path, template: Path) -> Iterator[Box]:
    made = Box(tmp_path, template)
    yield made
    for container in made.made:
        container.delete(force=True)
        try:
            os.waitpid(container.pid, 0)
        except ChildProcessError:
            continue


def traces(box: Box) -> dict[str, object]:
    """What a container could leave behind on this machine."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "mounts": [line for line in mounts if str(box.folder) in line],
        "fds": sorted(os.listdir("/proc/self/fd")),
        "namespaces": {n: os.readlink(f"/proc/self/ns/{n}") for n in os.listdir("/proc/self/ns")},
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
    }


def cgroups_of(name: str) -> list[Path]:
    top = Path("/sys/fs/cgroup")
    return [place for place in (top, *top.iterdir()) if (place / name).exists()]


def test_create_and_start_in_one(box: Box) -> None:
    before = traces(box)
    box.bundle.sh("echo $$; hostname; echo written > /file; exit 3")
    status, text = box.run()
    assert os.waitstatus_to_exitcode(status) == 3
    assert text.split() == ["1", "box"]
    assert (box.folder / "upper/file").read_text() == "written\n"
    assert traces(box) == before
    assert cgroups_of(box.id) == []
    assert os.listdir(box.root) == []


def test_the_host_never_sees_the_mount(box: Box) -> None:
    box.bundle.args("sleep", "1000")
    container, read = box.create(start_now=True)
    os.close(read)
    assert str(box.folder) not in Path("/proc/self/mountinfo").read_text()
    assert list((box.folder / "merged").iterdir()) == []
    assert f"{box.folder}/upper" in Path(f"/proc/{container.pid}/mountinfo").read_text()


def test_two_steps(box: Box) -> None:
    box.bundle.sh("echo ran")
    container, read = box.create()
    assert container.status() == "created"
    assert not select.select([read], [], [], 0.05)[0]
    container.start()
    assert os.read(read, 100) == b"ran\n"
    os.waitpid(container.pid, 0)
    assert container.status() == "stopped"
    os.close(read)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nonesuch"], 127, 'exec: "nonesuch": executable file not found in $PATH'),
        (["/none"], 127, 'exec: "/none": stat /none: no such file or directory'),
        (["/etc"], 126, 'exec: "/etc": is a directory'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
@pytest.mark.parametrize("start_now", [True, False])
def test_what_cannot_be_executed(
    box: Box, words: list[str], code: int, text: str, start_now: bool
) -> None:
    before = traces(box)
    box.bundle.args(*words)
    with pytest.raises(RuntimeFailure) as caught:
        container, read = box.create(start_now=start_now)
        os.close(read)
        container.start()
    assert caught.value.exit_code == code
    assert str(caught.value) == f"unable to start container process: {text}"
    for container in box.made:
        os.waitpid(container.pid, 0)
        container.delete()
    box.made.clear()
    assert traces(box) == before
    assert cgroups_of(box.id) == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\x00\x01", "exec /bin/odd: exec format error"),
        (b"#!/no/such/interpreter\n", "exec /bin/odd: no such file or directory"),
    ],
)
def test_what_the_kernel_refuses_to_execute(box: Box, content: bytes, text: str) -> None:
    """It has started then: its own stderr says so, and it ends with 255 (as in runc)."""
    (box.folder / "upper/bin").mkdir(exist_ok=True)
    path = box.folder / "upper/bin/odd"
    path.write_bytes(content)
    path.chmod(0o755)
    box.bundle.args("/bin/odd")
    container, read = box.create(start_now=True)
    _, status = os.waitpid(container.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 255
    assert os.read(read, 100).decode() == text + "\n"
    os.close(read)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b.mount("/x", "nonesuchfs", "x"),
        lambda b: b.mount("/x", "bind", "/no/such", "bind"),
        lambda b: b.part("linux", "resources").update({"cpu": {"quota": 1}}),
        lambda b: b.part("linux").update({"sysctl": {"net.none.such": "1"}}),
        lambda b: b.part("linux").update({"seccomp": {"defaultAction": "X"}}),
        lambda b: b.part("process").update({"cwd": "/etc/passwd"}),
        lambda b: b.part("hooks").update({"createRuntime": [{"path": "/bin/false"}]}),
        lambda b: b.part("hooks").update({"createContainer": [{"path": "/none"}]}),
        lambda b: b.part("root").update({"path": "/no/such/root"}),
        lambda b: b.namespace("network", "/etc/passwd"),
    ],
)
def test_a_failure_leaves_nothing(box: Box, spoil: Callable[[Bundle], object]) -> None:
    before = traces(box)
    spoil(box.bundle)
    with pytest.raises(RuntimeFailure) as caught:
        box.create(start_now=True)
    assert "\n" not in str(caught.value)
    assert traces(box) == before
    assert cgroups_of(box.id) == []
    assert [n for n in os.listdir(box.root) if not n.startswith(".")] == []


def test_a_network_by_fd(box: Box) -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        box.bundle.sh("readlink /proc/self/ns/net")
        assert box.run(namespace_fds={"network": fd})[1].strip() == os.readlink("/proc/self/ns/net")
    finally:
        os.close(fd)


def test_exec_and_its_children_are_the_caller_s(box: Box) -> None:
    box.bundle.args("sleep", "1000")
    container, read = box.create(start_now=True)
    os.close(read)
    out, into = os.pipe2(os.O_CLOEXEC)
    process = oci.Process(cwd="/", args=("sh", "-c", "echo in; exit 4"), env=("PATH=/bin",))
    started = container.exec(process, Stdio(into, into, into))
    os.close(into)
    assert os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1]) == 4
    assert os.read(out, 10) == b"in\n"
    os.close(out)
    with pytest.raises(RuntimeFailure) as caught:
        container.exec(process.replace(args=("nonesuch",)), None)
    assert caught.value.exit_code == 127
    assert os.waitpid(-1, os.WNOHANG) == (0, 0)  # init lives, and there is no other child


def test_other_children_are_not_reaped(box: Box) -> None:
    other = os.fork()
    if other == 0:
        os._exit(5)
    box.bundle.args("nonesuch")
    with pytest.raises(RuntimeFailure):
        box.create(start_now=True)
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 5


def test_terminal(box: Box) -> None:
    box.bundle.part("process")["terminal"] = True
    box.bundle.part("process")["consoleSize"] = {"height": 11, "width": 22}
    box.bundle.sh("stty size; tty")
    container, read = box.create(start_now=True)
    os.close(read)
    assert container.console is not None
    text = b""
    while b"/dev/pts/0" not in text:
        text += os.read(container.console, 100)
    assert b"11 22" in text
    os.close(container.console)
    os.waitpid(container.pid, 0)


def test_loaded_again_from_its_state(box: Box) -> None:
    box.bundle.args("sleep", "1000")
    container, read = box.create(start_now=True)
    os.close(read)
    again = Container.load(box.id, box.root)
    assert (again.pid, again.status()) == (container.pid, "running")
    assert again.pids() == [container.pid]
    again.pause()
    assert container.status() == "paused"
    again.resume()
    again.kill(signal.SIGKILL)
    os.waitpid(container.pid, 0)
    assert again.status() == "stopped"
    with pytest.raises(RuntimeFailure, match="container not running"):
        again.kill(signal.SIGTERM)


def test_nothing_is_imported_or_loaded_on_the_way_2019_14271(box: Box) -> None:
    """An audit hook, inherited by the fork, tells of every import and library."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    mine = os.getpid()
    caller = threading.main_thread().ident

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        forked = write >= 0 and os.getpid() != mine and threading.get_ident() == caller
        if forked and event in ("import", "ctypes.dlopen", "exec", "compile"):
            os.write(write, f"{event} {arguments[:1]}\n".encode())

    sys.addaudithook(watch)
    # Every corner of the way at once.
    box.bundle.part("linux")["sysctl"] = {"net.ipv4.ip_forward": "0"}
    box.bundle.part("linux")["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    box.bundle.part("process")["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 50}]
    box.bundle.part("process")["scheduler"] = {"policy": "SCHED_BATCH"}
    box.bundle.part("process")["user"] = {"uid": 7, "gid": 7, "additionalGids": [8]}
    box.bundle.part("hooks")["createContainer"] = [{"path": "/bin/true"}]
    (box.folder / "upper/var/ücp").mkdir(parents=True)
    (box.folder / "upper/var/ücp/file").write_text("x")
    box.bundle.mount("/var/ücp", "tmpfs", "tmpfs", "tmpcopyup")
    box.bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro")
    box.bundle.namespace("cgroup")
    assert box.run()[0] == 0
    for terminal in (True, False):
        box.bundle.part("process")["terminal"] = terminal
        box.bundle.args("nonesuch")
        with pytest.raises(RuntimeFailure):
            box.create(start_now=True)
    try:
        said = os.read(read, 4096).decode()
    except BlockingIOError:
        said = ""
    assert said == ""
    os.close(read)
    os.close(write)
    write = -1


def test_many_times_leaves_nothing(box: Box) -> None:
    box.bundle.args("true")
    before = traces(box)
    for _ in range(25):
        assert box.run()[0] == 0
    assert traces(box) == before


def test_the_state_has_what_others_read(box: Box) -> None:
    box.bundle.args("sleep", "1000")
    container, read = box.create(start_now=True)
    os.close(read)
    document = json.loads(Path(box.root, box.id, "state.json").read_text())
    assert document["id"] == box.id
    assert document["init_process_pid"] == container.pid
    assert all(Path(path).is_dir() for path in document["cgroup_paths"].values())
    assert {"config", "created", "namespace_paths", "rootless"} <= document.keys()
