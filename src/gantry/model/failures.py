"""Docker's words for a process that could not be started.

The docker command looks into them to choose its exit code.
"""

from __future__ import annotations

from gantry.model.errors import StartFailed

_NOT_FOUND = (
    "executable file not found",
    "no such file or directory",
    "not a directory",
)


def exit_code_of(text: str) -> int:
    """What `docker run` ends with for a runtime's error text (moby `daemon/errors.go`)."""
    lower = text.lower()
    if "permission denied" in lower or "is a directory" in lower:
        return 126
    return 127 if any(words in lower for words in _NOT_FOUND) else 128


def create_failed(text: str, exit_code: int) -> StartFailed:
    """A container's. text: containerd's, from "failed to create shim task" to ": unknown"."""
    return _decorated(f"failed to create task for container: {text}", exit_code)


def exec_failed(text: str, exit_code: int) -> StartFailed:
    """An exec'ed process's. text: containerd's, "OCI runtime exec failed: … : unknown"."""
    return _decorated(text, exit_code)


def _decorated(text: str, exit_code: int) -> StartFailed:
    """The additions are moby's: docker/cli looks for "permission denied" to exit with 126."""
    lower = text.lower()
    if "is a directory" in lower and "permission denied" not in lower:
        text += ": permission denied"
    elif "not a directory" in lower:
        text += (
            ": Are you trying to mount a directory onto a file (or vice-versa)? "
            "Check if the specified host path exists and is the expected type"
        )
    return StartFailed(text, exit_code)
