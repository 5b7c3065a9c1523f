"""exec: another process in a running container."""

from __future__ import annotations

import os

from gantry.oci import runtime_spec as oci
from gantry.oci.codec import SpecError
from gantry.runtime import console, lean
from gantry.runtime.commands import foreground
from gantry.runtime.commands.context import Context, at_least
from gantry.runtime.commands.flags import Arguments
from gantry.runtime.commands.start import check_preserved, check_terminal, hand_over, load_spec
from gantry.runtime.container import Container
from gantry.runtime.errors import RuntimeFailure

FAILED = 255


def execute(context: Context, arguments: Arguments) -> int:
    """Run a process; its exit status, or 255 when it could not be run (as runc)."""
    at_least("exec", arguments, 1)
    try:
        return _execute(context, arguments)
    except RuntimeFailure as error:
        raise RuntimeFailure(f"exec failed: {error}", FAILED)


def _execute(context: Context, arguments: Arguments) -> int:
    container = context.container(arguments)
    status = container.status()
    if status == "stopped":
        raise RuntimeFailure("cannot exec in a stopped container")
    detach = arguments.flag("detach")
    pid_file = os.path.abspath(arguments.string("pid-file")) if arguments.given("pid-file") else ""
    process = _process(container, arguments)
    check_terminal(process.terminal, detach, arguments.string("console-socket"))
    if process.terminal:
        lean.settle(console)
    if not detach:
        foreground.prepare(subreaper=False)
    started = container.exec(
        process,
        None,
        cgroups=sub_cgroups(arguments.strings("cgroup")),
        preserve_fds=check_preserved(3, arguments.number("preserve-fds")),
        ignore_paused=arguments.flag("ignore-paused"),
        logger=context.log.write,
        verbose=context.log.debugging,
        plain_lines=not detach,
    )
    hand_over(started.pid, started.console if detach else None, arguments, pid_file)
    if detach:
        return 0
    return foreground.attend(started.pid, started.console)


def sub_cgroups(words: list[str]) -> dict[str, str]:
    """--cgroup [<controller>[,…]:]<path> as controller → path ("" is the unified one)."""
    found: dict[str, str] = {}
    for word in words:
        controllers, colon, path = word.partition(":")
        if not colon:
            if len(words) != 1:
                raise RuntimeFailure(
                    f"invalid --cgroup argument: {word} (missing <controller>: prefix)"
                )
            found[""] = word
            continue
        for controller in controllers.split(","):
            if not controller:
                raise RuntimeFailure(
                    f"invalid --cgroup argument: {word} (empty <controller> prefix)"
                )
            if controller in found:
                raise RuntimeFailure(
                    "invalid --cgroup argument(s): "
                    f"controller {controller} specified multiple times"
                )
            found[controller] = path
    return found


def _process(container: Container, arguments: Arguments) -> oci.Process:
    path = arguments.string("process")
    if path:
        try:
            with open(path, "rb") as file:
                return oci.parse_process(oci.parse_json(file.read()))
        except OSError as error:
            raise RuntimeFailure(f"open {path}: {os.strerror(error.errno or 0).lower()}")
        except SpecError as error:
            raise RuntimeFailure(f"{path}: {error}")
    spec, _ = load_spec(container.state.bundle)
    if spec.process is None:
        raise RuntimeFailure("process property must not be empty")
    if len(arguments.rest) < 2:
        raise RuntimeFailure("exec args cannot be empty")
    return _changed(spec.process, arguments)


def _changed(process: oci.Process, arguments: Arguments) -> oci.Process:
    """The container's own process with the command line's changes."""
    changes: dict[str, object] = {
        "args": tuple(arguments.rest[1:]),
        "env": (*process.env, *arguments.strings("env")),
        "terminal": arguments.flag("tty"),
        "user": _user(process.user, arguments),
    }
    for flag, field in (
        ("cwd", "cwd"),
        ("apparmor", "apparmor_profile"),
        ("process-label", "selinux_label"),
    ):
        if arguments.string(flag):
            changes[field] = arguments.string(flag)
    if arguments.given("no-new-privs"):
        changes["no_new_privileges"] = arguments.flag("no-new-privs")
    caps = arguments.strings("cap")
    if caps:
        changes["capabilities"] = _capabilities(process.capabilities, tuple(caps))
    return process.replace(**changes)


def _capabilities(have: oci.Capabilities | None, more: tuple[str, ...]) -> oci.Capabilities:
    """Added to all sets but inheritable; to ambient where inheritable has something."""
    have = have or oci.Capabilities()
    return oci.Capabilities(
        bounding=have.bounding + more,
        effective=have.effective + more,
        permitted=have.permitted + more,
        inheritable=have.inheritable,
        ambient=have.ambient + more if have.inheritable else have.ambient,
    )


def _user(user: oci.User, arguments: Arguments) -> oci.User:
    changes: dict[str, object] = {}
    text = arguments.string("user")
    if text:
        uid, colon, gid = text.partition(":")
        if colon:
            changes["gid"] = _number(gid, "gid")
        changes["uid"] = _number(uid, "uid")
    groups = arguments.strings("additional-gids")
    if groups:
        more = tuple(_number(word, "additional gid") for word in groups)
        changes["additional_gids"] = user.additional_gids + more
    return user.replace(**changes)


def _number(text: str, what: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise RuntimeFailure(f'bad {what}: strconv.Atoi: parsing "{text}": invalid syntax')
    if not 0 <= number < 2**32:
        raise RuntimeFailure(f"bad {what}: {number} is out of range")
    return number
