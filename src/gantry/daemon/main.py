"""gantryd's process: arguments, logging, signals, and an engine between start and end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

import gantry
from gantry.daemon.flags import parse, usage
from gantry.daemon.options import Options
from gantry.kernel.memory import release
from gantry.model.errors import GantryError

if TYPE_CHECKING:
    from gantry.daemon.engine import Engine

_LEVELS: Final = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
_log = logging.getLogger("gantry.daemon")


class _Lines(logging.Formatter):
    """logrus' text form: time="…" level=info msg="…"; or one JSON object a line."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._json = as_json

    def format(self, record: logging.LogRecord) -> str:
        moment = time.gmtime(record.created)
        fraction = int(record.created % 1 * 1e9)
        at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{fraction:09d}Z"
        level = {"warning": "warning", "critical": "fatal"}.get(
            record.levelname.lower(), record.levelname.lower()
        )
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if self._json:
            line = {"level": level, "msg": text, "time": at}
            return json.dumps(line, separators=(",", ":"), ensure_ascii=False)
        return f"time={json.dumps(at)} level={level} msg={json.dumps(text, ensure_ascii=False)}"


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """0, or 1 with one line on stderr."""
    try:
        line = parse(arguments)
    except GantryError as error:
        return _fail(f"{error}\nSee 'gantryd --help'." if "flag" in str(error) else str(error))
    match line.action:
        case "help":
            sys.stdout.write(usage())
            return 0
        case "version":
            print(f"gantryd version {gantry.__version__}")
            return 0
        case "validate":
            print("configuration OK")
            return 0
    if os.geteuid() != 0:
        return _fail("gantryd needs to be started as root")
    _set_up_logging(line.options)
    try:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(line.options, arguments))
    except GantryError as error:
        return _fail(f"failed to start daemon: {error}")
    except BaseExceptionGroup as group:
        return _failed(_first(group))
    except Exception as error:
        return _failed(error)
    return 0


def _failed(error: BaseException) -> int:
    """One line, whatever it was; where it came from is for who debugs."""
    if isinstance(error, GantryError):
        return _fail(f"failed to start daemon: {error}")
    _log.debug("failed to start", exc_info=error)
    return _fail(f"failed to start daemon: {type(error).__name__}: {error}")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _fail(message: str) -> int:
    sys.stderr.write(f"gantryd: {message}\n")
    return 1


def _set_up_logging(options: Options) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(options.text("log-format") == "json"))
    level = logging.DEBUG if options.flag("debug") else _LEVELS[options.text("log-level")]
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.raiseExceptions = False


async def _serve(options: Options, arguments: list[str]) -> None:
    from gantry.daemon.engine import Engine

    began = time.monotonic()
    os.umask(0o022)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    engine = Engine(options)
    await engine.start()
    try:
        loop.add_signal_handler(signal.SIGHUP, _reload, engine, arguments)
        # All that lives now lives for ever: never look at it again.
        gc.collect()
        gc.freeze()
        release()
        for address in engine.addresses:
            _log.info("API listen on %s", address)
        _log.info("Daemon has completed initialization in %.2fs", time.monotonic() - began)
        with contextlib.suppress(OSError):
            _notify("READY=1")
        await stop.wait()
        _log.info("Processing signal: shutting down")
        with contextlib.suppress(OSError):
            _notify("STOPPING=1")
    finally:
        await engine.aclose()


def _reload(engine: Engine, arguments: list[str]) -> None:
    """SIGHUP: the configuration is read again; a bad one changes nothing."""
    try:
        options = parse(arguments).options
        engine.reload(options)
    except GantryError as error:
        _log.error("configuration is not reloaded: %s", error)
        return
    level = logging.DEBUG if options.flag("debug") else _LEVELS[options.text("log-level")]
    logging.getLogger().setLevel(level)
    _log.info("Reloaded configuration")


def _notify(state: str) -> None:
    """sd_notify(3)."""
    import socket

    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            sock.sendall(state.encode())


if __name__ == "__main__":
    main()
