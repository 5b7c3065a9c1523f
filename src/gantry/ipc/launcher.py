"""What daemon and launcher say to each other: bytes, so that the launcher runs little code.

The socket pair is made by the daemon and inherited; nobody else can have an end of it.
"""

from __future__ import annotations

READY = b"R"
"""launcher: warm, waiting."""

SHIM = b"s"
"""daemon, with one fd: fork a shim; the fd is its control socket. No answer: the shim's is."""

MODULES = b"m"
"""daemon: name what is imported; the answer is one line."""
