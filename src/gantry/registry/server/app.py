"""The distribution-spec 1.1 server: pull, push, mount, resumed uploads, tags, referrers.

`make_app` gives an aiohttp application; who serves it where, with which TLS, is the caller's.
Routes are matched here and not by aiohttp's router: repository names have slashes in them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from gantry.model.errors import GantryError, InvalidParameter, System
from gantry.oci.image import (
    OCI_INDEX,
)
from gantry.oci.image_digest import is_digest
from gantry.registry.server.access import Access
from gantry.registry.server.errors import ProtocolError
from gantry.registry.server.manifests import Manifests
from gantry.registry.server.names import NAME
from gantry.registry.server.ports import BlobStore
from gantry.registry.server.proxy import Upstream
from gantry.registry.server.repositories import Repositories
from gantry.registry.server.uploads import Uploads

_log = logging.getLogger(__name__)

_PIECE: Final = 1 << 20
_IDLE: Final = 24 * 3600.0

Handler = Callable[..., Awaitable[web.StreamResponse]]


class Registry:
    """See the module. root: where its own files go; blobs: where its content is."""

    def __init__(
        self,
        root: str,
        blobs: BlobStore,
        *,
        access: Access | None = None,
        upstream: Callable[[Repositories], Upstream] | None = None,
    ) -> None:
        self.repositories = Repositories(root)
        self.blobs = blobs
        self._access = access
        self._upstream = upstream(self.repositories) if upstream is not None else None
        self._uploads = Uploads(blobs, self.repositories)
        fetch = self._upstream.manifest if self._upstream is not None else None
        self._manifests = Manifests(blobs, self.repositories, fetch)
        self._routes = [
            (re.compile(pattern.replace("NAME", f"(?P<name>{NAME})")), handlers)
            for pattern, handlers in self._table()
        ]

    def _table(self) -> Sequence[tuple[str, dict[str, Handler]]]:
        return (
            ("/v2/?", {"GET": self._version}),
            ("/v2/_catalog", {"GET": self._catalog}),
            ("/v2/NAME/tags/list", {"GET": self._tags}),
            (
                "/v2/NAME/manifests/(?P<reference>[^/]+)",
                {
                    "GET": self._manifests.get,
                    "PUT": self._manifests.put,
                    "DELETE": self._manifests.delete,
                },
            ),
            ("/v2/NAME/blobs/uploads/?", {"POST": self._uploads.start}),
            (
                "/v2/NAME/blobs/uploads/(?P<upload>[0-9a-f]+)",
                {
                    "GET": self._uploads.status,
                    "PATCH": self._uploads.patch,
                    "PUT": self._uploads.finish,
                    "DELETE": self._uploads.cancel,
                },
            ),
            (
                "/v2/NAME/blobs/(?P<digest>[^/]+)",
                {"GET": self._get_blob, "DELETE": self._delete_blob},
            ),
            ("/v2/NAME/referrers/(?P<digest>[^/]+)", {"GET": self._referrers}),
        )

    async def recover(self) -> None:
        """Delete what no repository refers to and uploads that nobody goes on with. For
        start-up, before anything is served."""
        await asyncio.to_thread(self.blobs.clean_ingests, keep_seconds=_IDLE)
        await self.collect()

    async def collect(self) -> int:
        """Delete blobs that no repository refers to and abandoned uploads, also while requests
        are served; how many blobs went. What is being pushed is not touched: a repository
        refers to a blob before it is in its place."""
        await asyncio.to_thread(self._uploads.purge, _IDLE)
        gone = 0
        for digest in await asyncio.to_thread(self._unused):
            # Asked again, and deleted, without giving way to a request that mounts it.
            if not self.repositories.refers(digest):
                self.blobs.delete(digest)
                gone += 1
            await asyncio.sleep(0)
        return gone

    def set_silence(self, seconds: float) -> None:
        """After how long a client that is sending counts as gone."""
        self._uploads.silence = seconds

    def close_uploads(self) -> None:
        """Let go of unfinished uploads; what came of them stays."""
        self._uploads.close()

    async def aclose(self) -> None:
        self.close_uploads()
        if self._upstream is not None:
            await self._upstream.aclose()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        try:
            response = await self._dispatch(request)
        except ProtocolError as error:
            response = error.response()
        except InvalidParameter as error:
            response = ProtocolError("UNSUPPORTED", str(error)).response()
        except (GantryError, OSError) as error:
            _log.exception("%s %s failed", request.method, request.path)
            response = ProtocolError("UNKNOWN", str(error)).response()
        if not response.prepared:
            response.headers["Docker-Distribution-API-Version"] = "registry/2.0"
            if response.status >= 400 and request.can_read_body:
                response.force_close()  # what is left of the body would be the next request
        return response

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        if self._access is not None:
            header = request.headers.get("Authorization", "")
            user = await asyncio.to_thread(self._access.user, header) if header else None
            if user is None:
                challenge = {"WWW-Authenticate": self._access.challenge}
                raise ProtocolError("UNAUTHORIZED", headers=challenge)
        method = "GET" if request.method == "HEAD" else request.method
        for pattern, handlers in self._routes:
            match = pattern.fullmatch(request.path)
            if match is not None:
                handler = handlers.get(method)
                if handler is None:
                    raise ProtocolError("UNSUPPORTED")
                found = match.groupdict()
                if len(found.get("name", "")) > 255:
                    raise ProtocolError("NAME_INVALID", found["name"])
                if self._upstream is not None and method != "GET":
                    raise ProtocolError("UNSUPPORTED", "a pull-through cache takes no pushes")
                return await handler(request, **found)
        if re.search(r"/(manifests|blobs|tags|referrers)/", request.path):
            raise ProtocolError("NAME_INVALID", request.path)
        raise web.HTTPNotFound

    # ---- looking

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def _catalog(self, request: web.Request) -> web.Response:
        names = await asyncio.to_thread(self.repositories.catalog)
        page, headers = _page(request, names, "/v2/_catalog")
        return web.json_response({"repositories": page}, headers=headers)

    async def _tags(self, request: web.Request, name: str) -> web.Response:
        tags: list[str] | None = None
        if self._upstream is not None:
            tags = await self._upstream.tags(name)
        if tags is None:
            if not self.repositories.exists(name):
                raise ProtocolError("NAME_UNKNOWN", {"name": name})
            tags = self.repositories.tags(name)
        page, headers = _page(request, tags, f"/v2/{name}/tags/list")
        return web.json_response({"name": name, "tags": page}, headers=headers)

    async def _referrers(self, request: web.Request, name: str, digest: str) -> web.Response:
        if not is_digest(digest):
            raise ProtocolError("DIGEST_INVALID", digest)
        found = [json.loads(text) for text in self.repositories.referrers(name, digest)]
        headers = {}
        wanted = request.query.get("artifactType")
        if wanted:
            found = [one for one in found if one.get("artifactType") == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
        return web.Response(body=json.dumps(body).encode(), content_type=OCI_INDEX, headers=headers)

    # ---- blobs

    async def _get_blob(self, request: web.Request, name: str, digest: str) -> web.StreamResponse:
        if not is_digest(digest):
            raise ProtocolError("DIGEST_INVALID", digest)
        if self._upstream is not None:
            arriving = await self._arriving(self._upstream, request, name, digest)
            if arriving is not None:
                return arriving
        known = self.repositories.has_blob(name, digest)
        known = known or self.repositories.manifest_type(name, digest) is not None
        if not known or self.blobs.size(digest) is None:
            raise ProtocolError("BLOB_UNKNOWN", digest)
        headers = {**_headers(digest), "Accept-Ranges": "bytes"}
        return web.FileResponse(self.blobs.path(digest), chunk_size=_PIECE, headers=headers)

    async def _arriving(
        self, upstream: Upstream, request: web.Request, name: str, digest: str
    ) -> web.StreamResponse | None:
        """A blob that is only now being fetched, passed on as it comes; ranges are not."""
        if request.method == "HEAD":
            if self.repositories.has_blob(name, digest):
                return None
            size = await upstream.size(name, digest)
            if size is None:
                raise ProtocolError("BLOB_UNKNOWN", digest)
            return web.Response(headers={**_headers(digest), "Content-Length": str(size)})
        arrival = await upstream.blob(name, digest)
        if arrival is None:
            return None
        response = web.StreamResponse(headers=_headers(digest))
        response.content_length = arrival.size
        await response.prepare(request)
        try:
            async for piece in arrival.read():
                await response.write(piece)
        except System:
            response.force_close()
            if request.transport is not None:
                request.transport.abort()  # the client must not take it for whole
            return response
        self.repositories.add_blob(name, digest)
        return response

    async def _delete_blob(self, request: web.Request, name: str, digest: str) -> web.Response:
        if not is_digest(digest):
            raise ProtocolError("DIGEST_INVALID", digest)
        if not self.repositories.drop_blob(name, digest):
            raise ProtocolError("BLOB_UNKNOWN", digest)
        return web.Response(status=202, headers={"Docker-Content-Digest": digest})

    def _unused(self) -> list[str]:
        here = [blob.digest for blob in self.blobs.walk()]
        used = self.repositories.used()
        return [digest for digest in here if digest not in used]


def _headers(digest: str) -> dict[str, str]:
    return {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        "Cache-Control": "max-age=31536000",
    }


def make_app(registry: Registry) -> web.Application:
    """The application for a registry; bodies of any size."""
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", registry.handle)
    return app


def _page(request: web.Request, names: list[str], path: str) -> tuple[list[str], dict[str, str]]:
    """What `n` and `last` select, and the Link header for more."""
    last = request.query.get("last", "")
    if last:
        names = [name for name in names if name > last]
    text = request.query.get("n")
    if text is None:
        return names, {}
    if not text.isdigit():
        raise ProtocolError("PAGINATION_NUMBER_INVALID", {"n": text})
    count = int(text)
    page = names[:count]
    if len(names) > count and page:
        more = urlencode({"last": page[-1], "n": count})
        return page, {"Link": f'<{path}?{more}>; rel="next"'}
    return page, {}
