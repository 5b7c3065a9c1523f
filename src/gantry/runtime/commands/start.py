"""create, run, start: a bundle becomes a process."""

from __future__ import annotations

import os

from gantry.oci import runtime_spec as oci
from gantry.oci.codec import SpecError
from gantry.runtime import console, hooks, lean
from gantry.runtime.commands import foreground, handover
from gantry.runtime.commands.context import Context, exactly
from gantry.runtime.commands.flags import Arguments
from gantry.runtime.container import Container
from gantry.runtime.errors import RuntimeFailure, describe


def load_spec(bundle: str) -> tuple[oci.Spec, str]:
    """(config.json, the bundle's absolute path)."""
    folder = os.path.realpath(bundle or ".")
    try:
        with open(f"{folder}/config.json", "rb") as file:
            text = file.read()
    except FileNotFoundError:
        if not os.path.isdir(folder):
            raise RuntimeFailure(f"chdir {bundle}: no such file or directory")
        raise RuntimeFailure("JSON specification file config.json not found")
    except OSError as error:
        raise RuntimeFailure(f"open config.json: {os.strerror(error.errno or 0).lower()}")
    try:
        return oci.loads(text), folder
    except SpecError as error:
        raise RuntimeFailure(f"config.json: {error}")


def create(context: Context, arguments: Arguments) -> int:
    """Create a container and leave it before its process is executed."""
    exactly("create", arguments, 1)
    try:
        _launch(context, arguments, detach=True, start=False)
    except RuntimeFailure as error:
        raise RuntimeFailure(f"runc create failed: {error}")
    return 0


def run(context: Context, arguments: Arguments) -> int:
    """Create and start; without --detach stay, pass signals on, and exit as it exits."""
    exactly("run", arguments, 1)
    detach = arguments.flag("detach")
    try:
        container = _launch(context, arguments, detach=detach, start=True)
    except RuntimeFailure as error:
        raise RuntimeFailure(f"runc run failed: {error}")
    if detach:
        return 0
    try:
        return foreground.attend(container.pid, container.console)
    finally:
        if not arguments.flag("keep"):
            container.delete(force=True, logger=context.log.write)


def start(context: Context, arguments: Arguments) -> int:
    """Execute the process of a created container."""
    exactly("start", arguments, 1)
    context.container(arguments).start()
    return 0


def _launch(context: Context, arguments: Arguments, *, detach: bool, start: bool) -> Container:
    container_id = arguments.rest[0]
    pid_file = os.path.abspath(arguments.string("pid-file")) if arguments.given("pid-file") else ""
    spec, bundle = load_spec(arguments.string("bundle"))
    if spec.process is None:
        raise RuntimeFailure("process property must not be empty")
    socket_path = arguments.string("console-socket")
    check_terminal(spec.process.terminal, detach, socket_path)
    if spec.process.terminal or spec.hooks is not None:
        lean.settle(console, hooks)
    preserve, spec = _inherited(arguments.number("preserve-fds"), spec)
    if not detach:
        foreground.prepare(subreaper=not arguments.flag("no-subreaper"))
    container = Container.create(
        spec,
        container_id=container_id,
        bundle=bundle,
        root=context.root,
        stdio=None,
        preserve_fds=preserve,
        systemd_cgroup=context.systemd_cgroup,
        hybrid_cgroup=detach,  # it takes a wait, and nobody looks for one that is attended
        rootless={"true": True, "false": False}.get(context.rootless),
        start_now=start,
        no_pivot=arguments.flag("no-pivot"),
        keyring=not arguments.flag("no-new-keyring"),
        logger=context.log.write,
        verbose=context.log.debugging,
        plain_lines=not detach,
    )
    try:
        hand_over(container.pid, container.console if detach else None, arguments, pid_file)
    except (RuntimeFailure, OSError) as error:
        container.delete(force=True)
        if isinstance(error, RuntimeFailure):
            raise
        raise RuntimeFailure(describe(error))
    return container


def hand_over(pid: int, console: int | None, arguments: Arguments, pid_file: str) -> None:
    """Give the caller what it asked for: the terminal, a pidfd, the pid in a file."""
    if console is not None:
        handover.send_fd(arguments.string("console-socket"), console, "/dev/ptmx")
        os.close(console)
    if arguments.given("pidfd-socket"):
        pidfd = os.pidfd_open(pid)
        try:
            handover.send_fd(arguments.string("pidfd-socket"), pidfd, "pidfd")
        finally:
            os.close(pidfd)
    if pid_file:
        handover.write_pid_file(pid_file, pid)


def check_terminal(terminal: bool, detach: bool, socket_path: str) -> None:
    """runc's rules for who gets the terminal."""
    if detach and terminal and not socket_path:
        raise RuntimeFailure(
            "cannot allocate tty if runc will detach without setting console socket"
        )
    if (not detach or not terminal) and socket_path:
        raise RuntimeFailure("cannot use console socket if runc will not detach or allocate tty")


def _inherited(preserve: int, spec: oci.Spec) -> tuple[int, oci.Spec]:
    """Fds passed on beyond stdio: socket activation's first, then --preserve-fds."""
    listen = 0
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        try:
            listen = int(os.environ.get("LISTEN_FDS", "0"))
        except ValueError:
            listen = 0
    if listen and spec.process is not None:
        env = (*spec.process.env, f"LISTEN_FDS={listen}", "LISTEN_PID=1")
        spec = spec.replace(process=spec.process.replace(env=env))
    return listen + check_preserved(3 + listen, preserve), spec


def check_preserved(first: int, count: int) -> int:
    """The count, when all those fds are open."""
    for offset in range(count):
        try:
            os.fstat(first + offset)
        except OSError:
            raise RuntimeFailure(
                f"unable to stat preserved-fd {offset} (of {count}): no such file or directory"
            )
    return count
