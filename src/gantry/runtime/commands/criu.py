"""checkpoint, restore: runc's command line over CRIU."""

from __future__ import annotations

import os

from gantry.runtime import checkpoint as images
from gantry.runtime.checkpoint import Wish
from gantry.runtime.commands import foreground
from gantry.runtime.commands.context import Context, exactly
from gantry.runtime.commands.flags import Arguments
from gantry.runtime.commands.start import check_terminal, hand_over, load_spec
from gantry.runtime.container import Container
from gantry.runtime.errors import RuntimeFailure


def checkpoint(context: Context, arguments: Arguments) -> int:
    """Write a container's image; then it is gone, unless it is to go on."""
    exactly("checkpoint", arguments, 1)
    if os.geteuid() != 0:
        context.log.warning("runc checkpoint is untested with rootless containers")
    container = context.container(arguments)
    status = container.status()
    if status in ("created", "stopped"):
        raise RuntimeFailure(f"Container cannot be checkpointed in {status} state")
    wish = _wish(arguments)
    if wish.parent_path and not os.path.isdir(os.path.join(wish.image_path, wish.parent_path)):
        if os.path.isabs(wish.parent_path) or not wish.parent_path.startswith("../"):
            raise RuntimeFailure("--parent-path must be relative and start with '../'")
        raise RuntimeFailure(f"invalid --parent-path: {wish.parent_path}")
    spec, _ = load_spec(container.state.bundle)
    images.dump(container, spec, wish)
    if not (wish.leave_running or wish.pre_dump):
        container.delete(force=True)
    return 0


def _wish(arguments: Arguments) -> Wish:
    image_path = os.path.abspath(arguments.string("image-path") or "checkpoint")
    work_path = arguments.string("work-path")
    for kind in arguments.strings("empty-ns"):
        if kind != "network":
            raise RuntimeFailure(f"namespace {kind} is not supported")
    server = arguments.string("page-server")
    if server and not server.rpartition(":")[2].isdigit():
        raise RuntimeFailure("Use --page-server ADDRESS:PORT to specify page server")
    status_fd = arguments.string("status-fd")
    return Wish(
        image_path=image_path,
        work_path=os.path.abspath(work_path) if work_path else "",
        parent_path=arguments.string("parent-path"),
        leave_running=arguments.flag("leave-running"),
        tcp_established=arguments.flag("tcp-established"),
        tcp_skip_in_flight=arguments.flag("tcp-skip-in-flight"),
        ext_unix_sk=arguments.flag("ext-unix-sk"),
        shell_job=arguments.flag("shell-job"),
        file_locks=arguments.flag("file-locks"),
        pre_dump=arguments.flag("pre-dump"),
        auto_dedup=arguments.flag("auto-dedup"),
        lazy_pages=arguments.flag("lazy-pages"),
        link_remap=arguments.flag("link-remap"),
        empty_network=bool(arguments.strings("empty-ns")),
        cgroup_mode=arguments.string("manage-cgroups-mode"),
        page_server=server,
        status_fd=int(status_fd) if status_fd.isdigit() else -1,
        lsm_profile=arguments.string("lsm-profile"),
        lsm_mount_context=arguments.string("lsm-mount-context"),
    )


def restore(context: Context, arguments: Arguments) -> int:
    """Make a container of an image and go on as `run`."""
    exactly("restore", arguments, 1)
    if os.geteuid() != 0:
        context.log.warning("runc restore is untested with rootless containers")
    pid_file = os.path.abspath(arguments.string("pid-file")) if arguments.given("pid-file") else ""
    wish = _wish(arguments)
    spec, bundle = load_spec(arguments.string("bundle"))
    detach = arguments.flag("detach")
    if spec.process is None:
        raise RuntimeFailure("process property must not be empty")
    check_terminal(spec.process.terminal, detach, arguments.string("console-socket"))
    if not detach:
        foreground.prepare(subreaper=not arguments.flag("no-subreaper"))
    made = images.restore(
        spec, wish, container_id=arguments.rest[0], bundle=bundle, root=context.root,
        systemd_cgroup=context.systemd_cgroup, hybrid_cgroup=True,
    )  # fmt: skip
    container = Container(made.state, context.root, made.cgroup, console=made.console)
    try:
        hand_over(container.pid, made.console if detach else None, arguments, pid_file)
    except (RuntimeFailure, OSError):
        container.delete(force=True)
        raise
    if detach:
        return 0
    try:
        return foreground.attend(container.pid, made.console)
    finally:
        container.delete(force=True)
