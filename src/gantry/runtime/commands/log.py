"""Errors and warnings as runc logs them (logrus): shims read the last line of the log."""

from __future__ import annotations

import json
import os
import sys
import time


class Log:
    """Where messages go. path "" is stderr; format "text" or "json"."""

    def __init__(self, path: str = "", form: str = "text", *, debug: bool = False) -> None:
        self.to_stderr = not path
        self._form = form
        self.debugging = debug
        self._fd = 2
        if path:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, level: str, message: str) -> None:
        """One entry. The text form quotes as logrus does: shims look for the message."""
        if level == "debug" and not self.debugging:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._form == "json":
            line = json.dumps(
                {"level": level, "msg": message, "time": stamp}, separators=(",", ":")
            )
        else:
            line = f'time="{stamp}" level={level} msg={json.dumps(message, ensure_ascii=False)}'
        try:
            os.write(self._fd, line.encode("utf-8", "replace") + b"\n")
        except OSError:
            return

    def error(self, message: str) -> None:
        """An error that ends the command: in the log, and on stderr as well."""
        self.write("error", message)
        if not self.to_stderr:
            sys.stderr.write(message + "\n")

    def warning(self, message: str) -> None:
        """Something passed over."""
        self.write("warning", message)
