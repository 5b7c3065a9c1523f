"""aiohttp for clients, without the certificates of the whole world.

Its `connector` module makes two TLS contexts when it is imported and reads all of the
system's certificate authorities into both: a tenth of a second and several megabytes, for an
engine that makes contexts of its own where it connects by TLS. With this those two trust
nobody: whoever forgets to bring a context gets an error, not a connection.

Import it where a connection is made, in the function: an engine that has pulled nothing need
not have loaded all this (`from gantry.http.lean import aiohttp`).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

_NAME = "set_default_verify_paths"


@contextmanager
def _no_authorities() -> Iterator[None]:
    """Contexts made within know no certificate authority."""
    setattr(ssl.SSLContext, _NAME, lambda _context: None)
    try:
        yield
    finally:
        delattr(ssl.SSLContext, _NAME)  # what it inherits is in sight again


with _no_authorities():
    import aiohttp

__all__ = ["aiohttp"]
