"""Fetch a file by URL, for `docker import URL`; errors in the words of Go's HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from gantry.model.errors import (
    Forbidden,
    InvalidParameter,
    NotFound,
    System,
    Unauthorized,
)

_STATUSES: Final = {
    400: InvalidParameter,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """url: with its scheme. size: bytes of the body, 0 when the server does not say."""

    url: str
    size: int
    body: AsyncIterator[bytes]


@contextlib.asynccontextmanager
async def open_url(url: str) -> AsyncIterator[Fetched]:
    """The body of a successful GET. InvalidParameter for what is no http(s) URL, System."""
    from gantry.http.lean import aiohttp

    if "://" not in url:
        url = "http://" + url
    scheme = url.partition("://")[0]
    if escape := re.match(r"[^/]*(%(?!25)..)", url[len(scheme) + 3 :]):
        raise InvalidParameter(f'parse "{url}": invalid URL escape "{escape[1]}"')
    if not url[len(scheme) + 3 :].strip("/"):
        raise InvalidParameter(f'Get "{scheme}:": http: no Host in request URL')
    if scheme not in ("http", "https"):
        raise InvalidParameter(f'Get "{url}": unsupported protocol scheme "{scheme}"')
    trusted = await asyncio.to_thread(ssl.create_default_context)  # also for a redirect to https
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trusted), trust_env=True, auto_decompress=False
            ) as session,
            session.get(url, timeout=aiohttp.ClientTimeout(total=None, sock_connect=30)) as reply,
        ):
            if reply.status >= 400:
                text = (await reply.content.read(1 << 10)).decode(errors="replace")
                status = f"{reply.status} {reply.reason}"
                kind = _STATUSES.get(reply.status, System)
                raise kind(f"failed to GET {url} with status {status}: {text.strip()}")
            yield Fetched(url, reply.content_length or 0, reply.content.iter_chunked(1 << 18))
    except aiohttp.ClientConnectorDNSError as error:
        raise NotFound(f'Get "{url}": dial tcp: lookup {error.host}: no such host') from error
    except aiohttp.ClientConnectorError as error:
        why = os.strerror(error.errno or 0).lower() if error.errno else str(error.os_error)
        raise System(f'Get "{url}": dial tcp {error.host}:{error.port}: connect: {why}') from error
    except aiohttp.ClientError as error:
        raise System(f'Get "{url}": {error}') from error
