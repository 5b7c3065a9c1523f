"""Starts an engine when none listens on the default socket.

Only as root and only for the default socket: whoever names an engine (-H, DOCKER_HOST)
gets that one or an error. Several commands at once start one engine: a lock is held
from the look to the first answer.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time

from gantry.cli.command import App
from gantry.client.address import DEFAULT_HOST
from gantry.client.engine import Engine
from gantry.client.errors import Unreachable
from gantry.model.errors import GantryError

LOG_FILE = "/var/log/gantryd.log"
LOCK_FILE = "/run/gantry-start.lock"
PATIENCE = 20.0
"""Seconds an engine gets until it answers."""


def start_engine(app: App, engine: Engine) -> None:
    """Returns when `engine` answers. Raises Unreachable where we may not start one."""
    program = _program()
    if os.geteuid() != 0 or not program:
        raise Unreachable(DEFAULT_HOST)
    lock = os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _answers(engine):
            return
        app.err(f"gantry: no engine is running: starting gantryd (log: {LOG_FILE})")
        process = _spawn(program)
        _wait(engine, process)
    finally:
        os.close(lock)


def _program() -> str:
    """gantryd beside this program, else wherever PATH has it."""
    beside = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), "gantryd")
    if os.access(beside, os.X_OK):
        return beside
    beside = os.path.join(os.path.dirname(sys.executable), "gantryd")
    return beside if os.access(beside, os.X_OK) else shutil.which("gantryd") or ""


def _spawn(program: str) -> int:
    """Starts it in a session of its own, its output in the log file; its pid."""
    log = os.open(
        LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640
    )
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    environment = {key: value for key, value in os.environ.items() if key != "DOCKER_HOST"}
    try:
        return os.posix_spawn(
            program,
            [program],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(log)
        os.close(null)


def _wait(engine: Engine, process: int) -> None:
    deadline = time.monotonic() + PATIENCE
    pause = 0.01
    while not _answers(engine):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            raise GantryError(f"gantryd ended with status {code}{_last_words()}")
        if time.monotonic() > deadline:
            raise GantryError(
                f"gantryd does not answer after {PATIENCE:.0f} seconds{_last_words()}"
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def _last_words() -> str:
    try:
        with open(LOG_FILE, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return f" (see {LOG_FILE})"
    return f": {lines[-1]}" if lines else f" (see {LOG_FILE})"


def _answers(engine: Engine) -> bool:
    try:
        engine.ping()
    except Unreachable:
        return False
    return True
