"""gantry-runc: runc's command line over this package.

Here is only what comes before everything else; the commands are in `commands`.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from gantry.runtime import sealed

# Those that put a process of ours into a container.
_ENTERING = frozenset(("create", "run", "exec", "restore"))


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Exit status: the command's; 1 for its errors (exec: 255).

    With `argv` it returns the status. Without, it may execute itself again, and exits
    at once, without taking the interpreter apart first.
    """
    gc.disable()  # a command is over before there is anything to collect
    if argv is None and not _ENTERING.isdisjoint(sys.argv[1:]):
        try:
            sealed.run_sealed(sys.argv[1:])
        except OSError as error:
            sys.stderr.write(f"cannot run from a sealed copy: {error.strerror}\n")
            os._exit(1)
    from gantry.runtime.commands.dispatch import dispatch

    status = dispatch(sys.argv[1:] if argv is None else argv)
    if argv is not None:
        return status
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = status or 1
    os._exit(status)


if __name__ == "__main__":
    main()
