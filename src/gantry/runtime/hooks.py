"""The spec's hooks: programs told about the container, each by a moment of its life.

A hook is run by fork and execve with nothing imported and no library called, because
two of the six kinds run inside the container's namespaces.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from typing import Final

from gantry.kernel import syscalls
from gantry.oci.runtime_spec import Hook
from gantry.runtime.errors import RuntimeFailure, describe

_OUTPUT_MAX: Final = 4096


def run(kind: str, hooks: Sequence[Hook], state: bytes, env: Sequence[str] | None = None) -> None:
    """Run hooks in order with `state` (the container's state as JSON) on their stdin.

    env: the environment for hooks that say nothing of it; None is the caller's own. Raises
    RuntimeFailure at the first that fails, cannot be run, or takes longer than its timeout
    (it is killed).
    """
    for index, hook in enumerate(hooks):
        failure = _run_one(hook, state, env)
        if failure is not None:
            raise RuntimeFailure(f"error running {kind} hook #{index}: {failure}")


def inherited() -> list[str]:
    """This process's environment."""
    return [f"{name}={value}" for name, value in os.environ.items()]


def run_all(kind: str, hooks: Sequence[Hook], state: bytes) -> list[str]:
    """Run every hook, whatever becomes of the ones before it; what went wrong, a line each."""
    failures = [_run_one(hook, state, None) for hook in hooks]
    return [
        f"error running {kind} hook #{index}: {failure}"
        for index, failure in enumerate(failures)
        if failure is not None
    ]


def _run_one(hook: Hook, state: bytes, env: Sequence[str] | None) -> str | None:
    """None when all went well, otherwise what went wrong."""
    argv = [os.fsencode(word) for word in (hook.args or (hook.path,))]
    words = hook.env if "env" in hook.__dict__ else inherited() if env is None else env
    environment = [os.fsencode(word) for word in words]
    stdin_r, stdin_w = os.pipe2(os.O_CLOEXEC)
    out_r, out_w = os.pipe2(os.O_CLOEXEC)
    err_r, err_w = os.pipe2(os.O_CLOEXEC)
    error_r, error_w = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(hook.path, argv, environment, (stdin_r, out_w, err_w, error_w))
    for fd in (stdin_r, out_w, err_w, error_w):
        os.close(fd)
    try:
        return _watch(pid, state, (stdin_w, out_r, err_r, error_r), hook.timeout)
    finally:
        os.close(out_r)
        os.close(err_r)
        os.close(error_r)


def _become(
    path: str, argv: list[bytes], environment: list[bytes], fds: tuple[int, int, int, int]
) -> None:
    """The child: stdin, stdout and stderr in place, then the program, or its errno."""
    stdin, output, errors, report = fds
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        report = syscalls.dup_above(report, 10)
        stdin = syscalls.dup_above(stdin, 10)
        output = syscalls.dup_above(output, 10)
        errors = syscalls.dup_above(errors, 10)
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        syscalls.close_range(3, flags=syscalls.CLOSE_RANGE_CLOEXEC)
        syscalls.execve(os.fsencode(path), argv, environment)
    except BaseException as error:
        os.write(report, describe(error).encode("utf-8", "replace"))
    finally:
        os._exit(127)


def _watch(
    pid: int, state: bytes, fds: tuple[int, int, int, int], timeout: int | None
) -> str | None:
    stdin, output, errors, report = fds
    deadline = None if not timeout else time.monotonic() + timeout
    text = {output: b"", errors: b""}
    poll = select.poll()
    poll.register(output, select.POLLIN)
    poll.register(errors, select.POLLIN)
    os.set_blocking(stdin, False)
    if state:
        poll.register(stdin, select.POLLOUT)
    else:
        os.close(stdin)
    open_fds = {output, errors}
    pidfd = syscalls.pidfd_open(pid)
    poll.register(pidfd, select.POLLIN)
    try:
        # A hook may leave a process behind that holds its output: its own end is what counts.
        ended = False
        while not ended:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            events = poll.poll(left)
            if not events:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return f"hook ran past specified timeout of {timeout:.1f}s"
            for fd, _ in events:
                if fd in open_fds:
                    chunk = os.read(fd, 4096)
                    text[fd] = (text[fd] + chunk)[:_OUTPUT_MAX]
                    if not chunk:
                        open_fds.discard(fd)
                        poll.unregister(fd)
                elif fd == stdin and state:
                    state = _feed(stdin, state)
                    if not state:
                        poll.unregister(stdin)
                        os.close(stdin)
                elif fd == pidfd:
                    ended = True
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
        if state:
            os.close(stdin)
    failure = os.read(report, 4096)
    if failure:
        return f"fork/exec: {failure.decode(errors='replace')}"
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return None
    how = (
        f"exit status {code}"
        if code > 0
        else f"signal: {(signal.strsignal(-code) or str(-code)).lower()}"
    )
    shown, told = (text[fd].decode(errors="replace").strip() for fd in (output, errors))
    return f"{how}, stdout: {shown}, stderr: {told}"


def _feed(fd: int, data: bytes) -> bytes:
    """Write some; what is left. A hook that does not read its stdin is within its rights."""
    try:
        return data[os.write(fd, data) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return b""
