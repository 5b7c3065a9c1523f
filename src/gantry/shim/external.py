"""A container by a runc-like binary (runc, crun, kata…), through the OCI command line.

The root file system is mounted in a mount namespace of the worker that runs `create`: the
container's own is made as a copy of that, so nothing stays mounted anywhere, whatever
happens. The binary leaves init to the shim, the subreaper of whatever it starts.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from gantry.cgroups import manager, oom
from gantry.cgroups.runc_stats import runc_stats
from gantry.kernel import mountapi, procfs, syscalls
from gantry.model.failures import exit_code_of
from gantry.model.task import ExecSpec, TaskSpec
from gantry.mounts.apply import apply
from gantry.runtime.errors import NoSibling
from gantry.shim.backend import (
    Prepared,
    RuntimeFailed,
    Started,
    has_own_pids,
)
from gantry.shim.pipes import ChildFds


class ExternalContainer:
    """`gantry.shim.backend.Backend` by a binary. bundle: the task's folder."""

    def __init__(
        self,
        binary: str,
        args: Sequence[str],
        *,
        container_id: str,
        bundle: str,
        systemd_cgroup: bool,
    ) -> None:
        self._id = container_id
        self._bundle = bundle
        self._log = f"{bundle}/runtime.log"
        self._command = [binary, *args, "--root", f"{bundle}/runtime"]
        if systemd_cgroup:
            self._command.append("--systemd-cgroup")
        self._config: dict[str, Any] = {}  # config.json: another program's, passed on as it is

    def prepare(self, spec: TaskSpec) -> Prepared:
        try:
            self._config = config = json.loads(spec.spec)
            namespaces = config["linux"]["namespaces"]
            pairs = [(str(n["type"]), str(n.get("path") or "")) for n in namespaces]
        except (ValueError, KeyError, TypeError) as error:
            raise RuntimeFailed(f"config.json: {error!r}", 128) from None
        return {"own_pids": has_own_pids(pairs)}

    def start(
        self, spec: TaskSpec, netns: int | None, stdio: ChildFds, *, sibling: bool = False
    ) -> Started:
        if sibling:
            raise NoSibling(always=False)
        config = self._config
        if netns is not None:
            path = f"/proc/{os.getpid()}/fd/{netns}"
            namespaces = config["linux"]["namespaces"]
            others = [n for n in namespaces if n["type"] != "network"]
            config["linux"]["namespaces"] = [*others, {"type": "network", "path": path}]
        if spec.stdio.rows and spec.stdio.columns:
            size = {"height": spec.stdio.rows, "width": spec.stdio.columns}
            config["process"].setdefault("consoleSize", size)
        _write(f"{self._bundle}/config.json", json.dumps(config).encode())
        try:
            if spec.rootfs:
                self._mount(spec, os.path.join(self._bundle, config["root"]["path"]))
            arguments = ["create", "--bundle", self._bundle]
            if spec.restore:
                arguments = ["restore", "--detach", "--image-path", spec.restore, *arguments[1:]]
            started = self._launch(arguments, [self._id], stdio, terminal=spec.stdio.terminal)
            if not spec.restore:
                self._run("start", self._id)
        except (RuntimeFailed, OSError) as error:
            self.delete()
            if isinstance(error, RuntimeFailed):
                raise
            raise RuntimeFailed(_one_line(error), 128) from None
        return started

    def oom_files(self, pid: int) -> list[str]:
        return oom.files_of(pid)

    def exec(self, spec: ExecSpec, stdio: ChildFds) -> Started:
        process = f"{self._bundle}/exec-{os.getpid()}.json"
        _write(process, spec.process)
        try:
            arguments = ["exec", "--detach", "--process", process]
            return self._launch(arguments, [self._id], stdio, terminal=spec.stdio.terminal)
        finally:
            os.unlink(process)

    def kill_all(self, signal: int) -> None:
        self._run("kill", "--all", self._id, str(signal))

    def pause(self) -> None:
        self._run("pause", self._id)

    def resume(self) -> None:
        self._run("resume", self._id)

    def update(self, resources: bytes) -> None:
        # Not by stdin: crun opens /dev/stdin, which not every /dev has.
        path = f"{self._bundle}/resources-{os.getpid()}.json"
        _write(path, resources)
        try:
            self._run("update", "--resources", path, self._id)
        finally:
            os.unlink(path)

    def pids(self) -> Sequence[int]:
        found = json.loads(self._run("ps", "--format", "json", self._id))
        return [int(pid) for pid in found or ()]  # runc says null for none

    def stats(self) -> bytes:
        try:
            document = json.loads(self._run("events", "--stats", self._id))
        except RuntimeFailed:
            # crun has no such command: what its container's cgroup says, then.
            pids = self.pids()
            if not pids:
                raise
            document = runc_stats(manager.of_process(pids[0]).stats())
        return json.dumps(document.get("data", document)).encode()

    def checkpoint(self, config: bytes, path: str, *, leave_running: bool) -> None:
        flags = ["--leave-running"] if leave_running else []
        self._run("checkpoint", "--image-path", path, *flags, self._id)

    def delete(self) -> None:
        try:
            self._run("delete", "--force", self._id)
        except RuntimeFailed:
            pass  # it has never been created, or is gone already

    def clean(self, prepared: Prepared) -> None:
        self.delete()

    def _mount(self, spec: TaskSpec, root: str) -> None:
        """In a mount namespace of this process's own: the container's is a copy of it."""
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("", "/", None, mountapi.MS_REC | mountapi.MS_SLAVE)
        os.makedirs(root, mode=0o755, exist_ok=True)
        apply(spec.rootfs, root)

    def _launch(
        self, words: list[str], tail: list[str], stdio: ChildFds, *, terminal: bool
    ) -> Started:
        pid_file = f"{self._bundle}/pid"
        words += ["--pid-file", pid_file]
        if not terminal:
            self._run(*words, *tail, fds=(stdio.stdin, stdio.stdout, stdio.stderr))
            return Started(_take_pid(pid_file), None)
        folder = os.open(self._bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # Through /proc, for a bundle's path may be longer than a socket's may be (108).
        path = f"/proc/{os.getpid()}/fd/{folder}/console.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                listener.bind(path)
                listener.listen(1)
                self._run(*words, "--console-socket", path, *tail)
                connection, _ = listener.accept()
            finally:
                _unlink(f"{self._bundle}/console.sock")
                os.close(folder)
        with connection:
            return Started(_take_pid(pid_file), _receive_fd(connection))

    def _run(self, *words: str, fds: tuple[int, int, int] | None = None) -> str:
        """Run the binary to its end and give its output. RuntimeFailed with its last error."""
        _unlink(self._log)
        command = [*self._command, "--log", self._log, "--log-format", "json", *words]
        status, output = spawn(command, fds, folder=self._bundle)
        if status == 0:
            return output
        text = (
            _last_error(procfs.read_if_there(self._log))
            or output.strip()
            or f"exit status {status}"
        )
        raise RuntimeFailed(text, exit_code_of(text))


def spawn(
    command: list[str],
    fds: tuple[int, int, int] | None,
    *,
    folder: str,
) -> tuple[int, str]:
    """Run a program to its end: exit code and what it wrote (with `fds`: it has those)."""
    output = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    source = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, fd, number)
            for number, fd in enumerate(fds or (source, output, output))
        ]
        try:
            pid = os.posix_spawn(
                command[0],
                command,
                {"PATH": os.defpath, "HOME": "/root", "XDG_RUNTIME_DIR": folder},
                file_actions=actions,
                setsigdef=[signal.SIGPIPE, signal.SIGCHLD],
            )
        except OSError as error:
            raise RuntimeFailed(f'exec: "{command[0]}": {error.strerror}', 128) from None
        _, status = os.waitpid(pid, 0)
        os.lseek(output, 0, os.SEEK_SET)
        text = os.read(output, 1 << 22).decode(errors="replace")
        return os.waitstatus_to_exitcode(status), text
    finally:
        os.close(output)
        os.close(source)


def _last_error(log: str) -> str:
    """The message of the last error in a runc-like log: a JSON object a line."""
    message = ""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, Mapping) and entry.get("level") in ("error", "fatal"):
            message = str(entry.get("msg", ""))
    return message


def _receive_fd(connection: socket.socket) -> int:
    fds = array.array("i")
    _, ancillary, _, _ = connection.recvmsg(
        4096, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: fds.itemsize])
    if not fds:
        raise RuntimeFailed("the runtime sent no terminal", 128)
    return fds[0]


def _take_pid(path: str) -> int:
    text = procfs.read_if_there(path)
    _unlink(path)
    if not text.strip().isdigit():
        raise RuntimeFailed(f"the runtime wrote no pid to {path}", 128)
    return int(text)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _one_line(error: OSError) -> str:
    return " ".join(str(error).split())
