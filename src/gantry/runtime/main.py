"""gantry-runc: runc's command line over this package.

Here is only what comes before and after the commands, which are in `commands`.
"""

from __future__ import annotations

import os
import sys

from gantry.runtime import sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

# Those that put a process of ours into a container.
_ENTERING = frozenset(("create", "run", "exec", "restore"))


def main() -> NoReturn:
    """The whole program, however it was started."""
    finish(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """One command line. Exit status: the command's; 1 for its errors (exec: 255).

    May execute itself again (`sealed.seal`).
    """
    sealed.forget_locale()
    if not _ENTERING.isdisjoint(words):
        try:
            sealed.seal(words)
        except OSError as error:
            sys.stderr.write(f"cannot run from sealed memory: {error.strerror}\n")
            return 1
    from gantry.runtime.commands.dispatch import dispatch

    return dispatch(words)


def finish(status: int) -> NoReturn:
    """End at once, without taking the interpreter apart first."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = status or 1
    os._exit(status)


if __name__ == "__main__":
    main()
