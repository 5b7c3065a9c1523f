"""Give memory back after an operation that used a lot of it.

glibc keeps freed buffers in its arenas, one a thread; an engine that is idle again should not.
"""

from __future__ import annotations

from gantry.kernel.libc import libc


def release() -> None:
    """malloc_trim(3), where the C library has it."""
    trim = getattr(libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
