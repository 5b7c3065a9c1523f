"""Uploads: blobs on their way into a repository, whole, in chunks, resumed, or mounted."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from typing import Final

from aiohttp import web

from gantry.model.errors import Conflict, InvalidParameter, NotFound
from gantry.oci.image_digest import is_digest
from gantry.registry.server.errors import ProtocolError
from gantry.registry.server.names import NAME
from gantry.registry.server.ports import BlobStore, BlobWriter
from gantry.registry.server.repositories import Repositories

_RANGE: Final = re.compile(r"(\d+)-(\d+)")
_PIECE: Final = 1 << 20
_OPEN: Final = 64
"""Uploads that are kept open between two requests; others are opened again when they go on."""
_SILENCE: Final = 300.0
"""Seconds of silence after which a client that is sending is given up."""


class Uploads:
    """POST, PATCH, PUT, GET, DELETE of /v2/NAME/blobs/uploads/. An upload outlives the process:
    the store keeps what came, under the upload's name. Uploads that nobody goes on with cost a
    file, and no descriptor."""

    def __init__(self, blobs: BlobStore, repositories: Repositories) -> None:
        self._blobs = blobs
        self._repositories = repositories
        self._uploads: dict[str, BlobWriter] = {}
        self._busy: set[str] = set()
        self.silence = _SILENCE

    def close(self) -> None:
        for writer in self._uploads.values():
            writer.keep()
            writer.close()
        self._uploads.clear()

    def purge(self, keep_seconds: float) -> None:
        """Drop uploads of the folder that were not touched for so long. Blocks; may run while
        others go on: what is open is locked."""
        for ingest in self._blobs.ingests():
            parts = ingest.ref.split(" ")
            old = ingest.mtime_ns / 1e9 < time.time() - keep_seconds
            if old and parts[0] == "upload" and parts[1] not in self._uploads:
                with contextlib.suppress(NotFound, Conflict):
                    self._blobs.resume(ingest.name).abort()

    async def start(self, request: web.Request, name: str) -> web.Response:
        mount = request.query.get("mount", "")
        if mount and self._mountable(mount, request.query.get("from")):
            self._repositories.add_blob(name, mount)
            return self._created(name, mount)
        digest = request.query.get("digest", "")
        if digest and not is_digest(digest):
            raise ProtocolError("DIGEST_INVALID", digest)
        identity = secrets.token_hex(16)
        algorithm = digest.partition(":")[0] or request.query.get("digest-algorithm", "sha256")
        if algorithm not in ("sha256", "sha512"):
            raise ProtocolError("DIGEST_INVALID", algorithm)
        writer = self._blobs.writer(f"upload {identity} {algorithm} {name}", algorithm=algorithm)
        self._put(identity, writer)
        if digest:
            await self._receive(request, identity, writer)
            return await self._commit(name, identity, writer, digest)
        return self._accepted(name, identity, writer)

    async def status(self, request: web.Request, name: str, upload: str) -> web.Response:
        writer = await self._upload(name, upload)
        response = self._accepted(name, upload, writer)
        response.set_status(204)
        return response

    async def patch(self, request: web.Request, name: str, upload: str) -> web.Response:
        writer = await self._upload(name, upload)
        self._check_range(request, name, upload, writer)
        await self._receive(request, upload, writer)
        return self._accepted(name, upload, writer)

    async def finish(self, request: web.Request, name: str, upload: str) -> web.Response:
        digest = request.query.get("digest", "")
        if not is_digest(digest):
            raise ProtocolError("DIGEST_INVALID", digest)
        writer = await self._upload(name, upload)
        self._check_range(request, name, upload, writer)
        await self._receive(request, upload, writer)
        return await self._commit(name, upload, writer, digest)

    async def cancel(self, request: web.Request, name: str, upload: str) -> web.Response:
        writer = await self._upload(name, upload)
        self._uploads.pop(upload, None)
        writer.abort()
        return web.Response(status=204)

    async def _upload(self, name: str, upload: str) -> BlobWriter:
        """The upload's writer, perhaps one that an earlier process began."""
        if upload in self._busy:
            raise ProtocolError("BLOB_UPLOAD_INVALID", "the upload is under way elsewhere")
        writer = self._uploads.get(upload)
        if writer is not None:
            return writer
        with contextlib.suppress(NotFound, Conflict):
            writer = await asyncio.to_thread(self._resume, name, upload)
            self._put(upload, writer)
            return writer
        raise ProtocolError("BLOB_UPLOAD_UNKNOWN", upload)

    def _resume(self, name: str, upload: str, algorithm: str = "") -> BlobWriter:
        """Open what the store keeps of an upload; hashed with its own algorithm, if no other is
        given. Blocks. NotFound, Conflict."""
        for ingest in self._blobs.ingests():
            parts = ingest.ref.split(" ")
            if len(parts) == 4 and parts[0] == "upload" and parts[1] == upload and parts[3] == name:
                return self._blobs.resume(ingest.name, algorithm=algorithm or parts[2])
        raise NotFound(f"upload {upload}: not found")

    def _put(self, upload: str, writer: BlobWriter) -> None:
        """Keep an upload open; of too many the one that waits longest is closed."""
        self._uploads[upload] = writer
        for other in list(self._uploads):
            if len(self._uploads) <= _OPEN:
                break
            if other != upload and other not in self._busy:
                idle = self._uploads.pop(other)
                idle.keep()
                idle.close()

    def _mountable(self, digest: str, source: str | None) -> bool:
        """Whether a blob can be had from repository `source`, or from any when it is None
        (distribution-spec, end-11: who may use one repository may use all)."""
        if not is_digest(digest) or self._blobs.size(digest) is None:
            return False
        if source:
            if not re.fullmatch(NAME, source):
                return False
            return self._repositories.has_blob(source, digest)
        return any(self._repositories.has_blob(one, digest) for one in self._repositories.catalog())

    def _check_range(
        self, request: web.Request, name: str, upload: str, writer: BlobWriter
    ) -> None:
        """A chunk must begin where the last one ended."""
        text = request.headers.get("Content-Range", "").removeprefix("bytes").strip(" =")
        if not text:
            return
        match = _RANGE.match(text)
        length = request.content_length
        if match is None or int(match[1]) != writer.offset:
            headers = dict(self._accepted(name, upload, writer).headers)
            headers.pop("Content-Type", None)
            raise ProtocolError("RANGE_INVALID", headers=headers)
        if length is not None and length != int(match[2]) - int(match[1]) + 1:
            raise ProtocolError("SIZE_INVALID")

    async def _receive(self, request: web.Request, upload: str, writer: BlobWriter) -> None:
        """Append the body. A client that goes away leaves what it has sent."""
        self._busy.add(upload)
        waiting: list[bytes] = []
        size = 0
        try:
            while piece := await self._piece(request):
                waiting.append(piece)
                size += len(piece)
                if size >= _PIECE:
                    await self._write(writer, b"".join(waiting))
                    waiting, size = [], 0
        finally:
            try:
                if waiting:  # also when the client went away: it may go on from here
                    await self._write(writer, b"".join(waiting))
            finally:
                self._busy.discard(upload)

    async def _piece(self, request: web.Request) -> bytes:
        """The next bytes of a body; b"" at its end."""
        try:
            async with asyncio.timeout(self.silence):
                return await request.content.readany()
        except TimeoutError:
            raise ProtocolError("BLOB_UPLOAD_INVALID", "nothing came for too long")

    async def _write(self, writer: BlobWriter, data: bytes) -> None:
        await asyncio.shield(asyncio.to_thread(writer.write, data))

    async def _commit(
        self, name: str, upload: str, writer: BlobWriter, digest: str
    ) -> web.Response:
        self._uploads.pop(upload, None)
        self._repositories.add_blob(name, digest)
        algorithm = digest.partition(":")[0]
        try:
            if not writer.digest().startswith(f"{algorithm}:"):
                # The client did not say at the start by which algorithm: read it again.
                writer.keep()
                writer.close()
                writer = await asyncio.to_thread(self._resume, name, upload, algorithm)
            await asyncio.to_thread(writer.commit, digest)
        except InvalidParameter as error:
            if self._blobs.size(digest) is None:
                self._repositories.drop_blob(name, digest)
            raise ProtocolError("DIGEST_INVALID", str(error))
        return self._created(name, digest)

    def _created(self, name: str, digest: str) -> web.Response:
        headers = {
            "Location": f"/v2/{name}/blobs/{digest}",
            "Docker-Content-Digest": digest,
        }
        return web.Response(status=201, headers=headers)

    def _accepted(self, name: str, upload: str, writer: BlobWriter) -> web.Response:
        headers = {
            "Location": f"/v2/{name}/blobs/uploads/{upload}",
            "Range": f"0-{max(0, writer.offset - 1)}",
            "Docker-Upload-UUID": upload,
        }
        return web.Response(status=202, headers=headers)
