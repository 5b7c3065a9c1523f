"""Uploads: blobs on their way into a repository, whole, in chunks, resumed, or mounted."""

from __future__ import annotations

import asyncio
import re
import secrets
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


class Uploads:
    """POST, PATCH, PUT, GET, DELETE of /v2/NAME/blobs/uploads/. An upload outlives the process:
    the store keeps what came, under the upload's name."""

    def __init__(self, blobs: BlobStore, repositories: Repositories) -> None:
        self._blobs = blobs
        self._repositories = repositories
        self._uploads: dict[str, BlobWriter] = {}
        self._busy: set[str] = set()

    def close(self) -> None:
        for writer in self._uploads.values():
            writer.keep()
            writer.close()
        self._uploads.clear()

    async def start(self, request: web.Request, name: str) -> web.Response:
        mount, source = request.query.get("mount", ""), request.query.get("from", "")
        if (
            is_digest(mount)
            and re.fullmatch(NAME, source)
            and self._blobs.size(mount) is not None
            and self._repositories.has_blob(source, mount)
        ):
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
        self._uploads[identity] = writer
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
        del self._uploads[upload]
        writer.abort()
        return web.Response(status=204)

    async def _upload(self, name: str, upload: str) -> BlobWriter:
        """The upload's writer, perhaps one that an earlier process began."""
        if upload in self._busy:
            raise ProtocolError("BLOB_UPLOAD_INVALID", "the upload is under way elsewhere")
        writer = self._uploads.get(upload)
        if writer is not None:
            return writer
        for ingest in self._blobs.ingests():
            parts = ingest.ref.split(" ")
            if len(parts) == 4 and parts[0] == "upload" and parts[1] == upload and parts[3] == name:
                try:
                    writer = await asyncio.to_thread(
                        self._blobs.resume, ingest.name, algorithm=parts[2]
                    )
                except (NotFound, Conflict):
                    break
                self._uploads[upload] = writer
                return writer
        raise ProtocolError("BLOB_UPLOAD_UNKNOWN", upload)

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
            async for piece in request.content.iter_any():
                waiting.append(piece)
                size += len(piece)
                if size >= _PIECE:
                    await self._write(writer, b"".join(waiting))
                    waiting, size = [], 0
            if waiting:
                await self._write(writer, b"".join(waiting))
        finally:
            self._busy.discard(upload)

    async def _write(self, writer: BlobWriter, data: bytes) -> None:
        await asyncio.shield(asyncio.to_thread(writer.write, data))

    async def _commit(
        self, name: str, upload: str, writer: BlobWriter, digest: str
    ) -> web.Response:
        del self._uploads[upload]
        self._repositories.add_blob(name, digest)
        try:
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
