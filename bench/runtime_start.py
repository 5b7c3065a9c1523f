"""The runtime beside the raw system calls: `python bench/runtime_start.py [count]`.

The raw side does what the kernel has to do for the same container (fork, five
namespaces, overlay, proc, tmpfs, devpts, shm, sysfs, six nodes, covers, pivot_root, four
cgroups, execve of busybox, wait) with every argument written down beforehand. What
`Container.create` + wait + delete takes longer is the specification: reading it, checking
it, holding paths by fd, states on disk, errors. Both alternate in one process; so do whole
`gantry-runc run` and `runc run` commands.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.oci.bundles import BUSYBOX, base_config, make_root  # noqa: E402

from gantry.cgroups import layout  # noqa: E402
from gantry.kernel import mountapi as api  # noqa: E402
from gantry.kernel import netlink, syscalls  # noqa: E402
from gantry.model.mount import Mount  # noqa: E402
from gantry.oci import runtime_spec as oci  # noqa: E402
from gantry.runtime.container import Container  # noqa: E402

NODES = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))
COVERED = ("proc/kcore", "proc/keys", "proc/timer_list")
READ_ONLY = ("proc/bus", "proc/fs", "proc/irq", "proc/sys")
JOINED = ("memory", "pids", "devices", "cpuacct")


class Raw:
    """The system calls alone."""

    def __init__(self, folder: Path) -> None:
        self.root = str(folder / "merged")
        self.data = f"lowerdir={folder}/root,upperdir={folder}/upper,workdir={folder}/work"
        machine = layout.detect()
        self.groups = (
            [f"{machine.unified}/raw-bench"]
            if machine.pure
            else [f"{machine.controllers[name]}/raw-bench" for name in JOINED]
        )

    def __call__(self) -> None:
        for group in self.groups:
            os.mkdir(group)
        own = os.open("/proc/self/ns/pid", os.O_RDONLY)
        syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            self.child()
        syscalls.setns(own, syscalls.CLONE_NEWPID)
        os.close(own)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("the raw container failed")
        for group in self.groups:
            os.rmdir(group)

    def child(self) -> None:
        flags = (
            syscalls.CLONE_NEWNS
            | syscalls.CLONE_NEWUTS
            | syscalls.CLONE_NEWIPC
            | syscalls.CLONE_NEWNET
        )
        try:
            syscalls.unshare(flags)
            netlink.link_up("lo")
            syscalls.mount("", "/", None, api.MS_SLAVE | api.MS_REC)
            syscalls.mount("overlay", self.root, "overlay", 0, self.data)
            os.chdir(self.root)
            syscalls.mount("proc", "proc", "proc")
            syscalls.mount("tmpfs", "dev", "tmpfs", api.MS_NOSUID, "mode=755,size=65536k")
            os.mkdir("dev/pts")
            os.mkdir("dev/shm")
            syscalls.mount("devpts", "dev/pts", "devpts", 10, "newinstance,ptmxmode=0666,gid=5")
            syscalls.mount("shm", "dev/shm", "tmpfs", 14, "mode=1777,size=65536k")
            syscalls.mount("sysfs", "sys", "sysfs", 15)
            for name, minor in NODES:
                os.mknod(f"dev/{name}", 0o20666, os.makedev(1, minor))
            for group in self.groups:
                with open(f"{group}/cgroup.procs" if len(self.groups) == 1 else f"{group}/tasks",
                          "wb", 0) as file:  # fmt: skip
                    file.write(b"0")
            for path in READ_ONLY:
                syscalls.mount(path, path, None, api.MS_BIND | api.MS_REC)
                syscalls.mount("", path, None, api.MS_REMOUNT | api.MS_BIND | api.MS_RDONLY)
            for path in filter(os.path.exists, COVERED):
                syscalls.mount("dev/null", path, None, api.MS_BIND)
            syscalls.mount("tmpfs", "sys/firmware", "tmpfs", api.MS_RDONLY)
            syscalls.pivot_root(".", ".")
            syscalls.umount2(".", api.MNT_DETACH)
            os.chdir("/")
            os.execve("/bin/true", ["true"], {})
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(1)


def ours(folder: Path) -> Callable[[], None]:
    """The runtime, on the same root."""
    config = base_config()
    config["root"] = {"path": str(folder / "merged")}
    text = json.dumps(config)
    mounts = [
        Mount(
            "overlay",
            "overlay",
            (f"lowerdir={folder}/root", f"upperdir={folder}/upper", f"workdir={folder}/work"),
        )
    ]

    def run() -> None:
        container = Container.create(
            oci.loads(text),
            container_id="runtime-bench",
            bundle=str(folder),
            root=str(folder / "state"),
            rootfs_mounts=mounts,
            start_now=True,
        )
        os.waitpid(container.pid, 0)
        container.delete()

    return run


def bundle_of(folder: Path, runc: str) -> Path:
    """What `runc spec` makes, with busybox for a root and /bin/true for a program."""
    bundle = folder / "bundle"
    bundle.mkdir(exist_ok=True)
    subprocess.run([runc, "spec", "-b", str(bundle)], check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["root"] = {"path": str(folder / "root"), "readonly": True}
    config["process"].update(terminal=False, args=["/bin/true"])
    # The example asks for ambient capabilities that it does not have: a warning each time.
    config["process"]["capabilities"].pop("ambient", None)
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def running(program: str, bundle: Path) -> Callable[[], None]:
    """`run`, a whole command."""
    return lambda: call(program, "run", "-b", str(bundle), "runtime-bench")


def living(program: str, bundle: Path) -> Callable[[], None]:
    """A life as shims do it: create, start, delete."""

    def run() -> None:
        call(program, "create", "-b", str(bundle), "runtime-bench")
        call(program, "start", "runtime-bench")
        call(program, "delete", "--force", "runtime-bench")

    return run


def call(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def peak(program: str, bundle: Path) -> float:
    """MiB that a `run` has used at most by the time that its container runs."""
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/sh", "-c", "echo; sleep 10"]
    sleeping = bundle.with_name("sleeping")
    sleeping.mkdir()
    (sleeping / "config.json").write_text(json.dumps(config))
    words = [program, "run", "-b", str(sleeping), "runtime-bench-peak"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        status = Path(f"/proc/{process.pid}/status").read_text()
        call(program, "kill", "runtime-bench-peak", "KILL")
    shutil.rmtree(sleeping)
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(candidates: dict[str, Callable[[], None]], count: int) -> dict[str, float]:
    """Median milliseconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(count):
        # Who goes first changes, so that neither always has the warmer machine.
        for name in sorted(candidates, reverse=bool(round_ % 2)):
            begin = time.perf_counter()
            candidates[name]()
            times[name].append((time.perf_counter() - begin) * 1000)
    return {name: statistics.median(found[1:] or found) for name, found in times.items()}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    if os.geteuid() != 0 or not os.path.exists(BUSYBOX):
        sys.exit("needs root and busybox-static")
    folder = Path(tempfile.mkdtemp(prefix="runtime-bench-"))
    try:
        folder.chmod(0o755)
        make_root(folder / "root")
        for name in ("upper", "work", "merged"):
            (folder / name).mkdir()
        inside = measure({"raw": Raw(folder), "runtime": ours(folder)}, count)
        ratio = inside["runtime"] / inside["raw"]
        print(f"system calls alone  {inside['raw']:6.1f} ms")
        print(f"in-process runtime  {inside['runtime']:6.1f} ms  ({ratio:.2f} times)")
        ours_ = shutil.which("gantry-runc", path=os.path.dirname(sys.executable)) or ""
        theirs = shutil.which("runc", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if not ours_ or not theirs:
            return
        bundle = bundle_of(folder, theirs)
        for name, kind in (("run", running), ("create, start, delete", living)):
            pair = {"ours": kind(ours_, bundle), "theirs": kind(theirs, bundle)}
            found = measure(pair, count)
            ratio = found["ours"] / found["theirs"]
            print(f"{name}: gantry-runc {found['ours']:.1f} ms, runc {found['theirs']:.1f} ms"
                  f"  ({ratio:.2f} times)")  # fmt: skip
        print(f"memory at most, run: gantry-runc {peak(ours_, bundle):.1f} MiB, "
              f"runc {peak(theirs, bundle):.1f} MiB")  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
