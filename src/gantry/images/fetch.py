"""Fetch a file by URL, for `docker import URL`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from gantry.model.errors import InvalidParameter, System


@contextlib.asynccontextmanager
async def open_url(url: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body of a successful GET. InvalidParameter for what is no http(s) URL."""
    import aiohttp

    if "://" not in url:
        url = "http://" + url
    if not url.startswith(("http://", "https://")):
        raise InvalidParameter(f"unsupported URL {url}")
    try:
        async with (
            aiohttp.ClientSession(trust_env=True, auto_decompress=False) as session,
            session.get(url, timeout=aiohttp.ClientTimeout(total=None, sock_connect=30)) as reply,
        ):
            if reply.status >= 400:
                raise System(f"Got HTTP status code >= 400: {reply.status} {reply.reason}")
            yield reply.content.iter_chunked(1 << 18)
    except aiohttp.ClientError as error:
        raise System(f"error fetching {url}: {error}") from error
