"""The flags of each command: long name → kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gantry.runtime.commands.flags import BOOL, INT, LIST, STRING

CREATE: Final[Mapping[str, str]] = {
    "bundle": STRING,
    "console-socket": STRING,
    "pidfd-socket": STRING,
    "pid-file": STRING,
    "no-pivot": BOOL,
    "no-new-keyring": BOOL,
    "preserve-fds": INT,
}
RUN: Final[Mapping[str, str]] = {
    **CREATE,
    "detach": BOOL,
    "keep": BOOL,
    "no-subreaper": BOOL,
}
EXEC: Final[Mapping[str, str]] = {
    "console-socket": STRING,
    "pidfd-socket": STRING,
    "cwd": STRING,
    "env": LIST,
    "tty": BOOL,
    "user": STRING,
    "additional-gids": LIST,
    "process": STRING,
    "detach": BOOL,
    "pid-file": STRING,
    "process-label": STRING,
    "apparmor": STRING,
    "no-new-privs": BOOL,
    "cap": LIST,
    "preserve-fds": INT,
    "cgroup": LIST,
    "ignore-paused": BOOL,
}
UPDATE: Final[Mapping[str, str]] = {
    "resources": STRING,
    "cpu-period": STRING,
    "cpu-quota": STRING,
    "cpu-burst": STRING,
    "cpu-share": STRING,
    "cpu-rt-period": STRING,
    "cpu-rt-runtime": STRING,
    "cpuset-cpus": STRING,
    "cpuset-mems": STRING,
    "cpu-idle": STRING,
    "kernel-memory": STRING,
    "kernel-memory-tcp": STRING,
    "memory": STRING,
    "memory-reservation": STRING,
    "memory-swap": STRING,
    "l3-cache-schema": STRING,
    "mem-bw-schema": STRING,
    "blkio-weight": INT,
    "pids-limit": INT,
}
CHECKPOINT: Final[Mapping[str, str]] = {
    "image-path": STRING,
    "work-path": STRING,
    "parent-path": STRING,
    "page-server": STRING,
    "status-fd": STRING,
    "manage-cgroups-mode": STRING,
    "leave-running": BOOL,
    "tcp-established": BOOL,
    "tcp-skip-in-flight": BOOL,
    "ext-unix-sk": BOOL,
    "shell-job": BOOL,
    "lazy-pages": BOOL,
    "file-locks": BOOL,
    "pre-dump": BOOL,
    "auto-dedup": BOOL,
    "link-remap": BOOL,
    "empty-ns": LIST,
}
RESTORE: Final[Mapping[str, str]] = {
    **RUN,
    **CHECKPOINT,
    "lsm-profile": STRING,
    "lsm-mount-context": STRING,
}
