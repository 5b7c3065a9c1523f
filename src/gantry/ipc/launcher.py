"""What daemon and launcher say to each other: bytes, so that the launcher runs little code.

The socket pair is made by the daemon and inherited; nobody else can have an end of it.
"""

from __future__ import annotations

READY = b"R"
"""launcher: warm, waiting."""

READY_ALL = b"A"
"""READY, and starters are of use here: who is not a process's parent can hear of its end."""

SHIM = b"s"
"""daemon, with one fd or two: fork a shim. The first is its control socket, the other a socket
for the container that a starter hands over; without it the shim has its own starter. No answer:
the shim's is."""

STARTER = b"x"
"""daemon, with one fd: fork a starter; the fd is where it gets its requests."""

MODULES = b"m"
"""daemon: name what is imported; the answer is one line."""
