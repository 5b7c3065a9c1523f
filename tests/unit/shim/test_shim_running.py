"""Signals to a container's process, at the moment of its end."""

from __future__ import annotations

import os
import signal
from typing import cast

import pytest

from gantry.kernel import syscalls
from gantry.model.errors import NotFound
from gantry.shim.running import Running
from gantry.shim.stdio import ProcessIO


def test_one_that_was_reaped_before_we_heard_of_it() -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    pidfd = syscalls.pidfd_open(pid)
    try:
        process = Running("", pid, cast(ProcessIO, None), pidfd)
        process.signal(signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert process.exit is None
        with pytest.raises(NotFound, match="process already finished"):
            process.signal(signal.SIGKILL)
    finally:
        os.close(pidfd)
