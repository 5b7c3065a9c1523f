"""Manifests of a repository: get, put, delete by tag or digest."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict

from gantry.model.errors import InvalidParameter, NotFound
from gantry.oci.image import (
    DOCKER_LIST,
    MAX_DOCUMENT,
    OCI_INDEX,
    Descriptor,
    read_index,
    read_manifest,
)
from gantry.oci.image_digest import is_digest
from gantry.registry.server.errors import ProtocolError
from gantry.registry.server.names import TAG
from gantry.registry.server.ports import BlobStore
from gantry.registry.server.repositories import Repositories

_INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
_TAGS: Final = 100
"""Tags at most that one request can set."""

Fetch = Callable[[str, str], Awaitable[None]]
"""(repository, tag or digest): have it here, if it can be had."""


class Manifests:
    """/v2/NAME/manifests/REFERENCE."""

    def __init__(self, blobs: BlobStore, repositories: Repositories, fetch: Fetch | None) -> None:
        self._blobs = blobs
        self._repositories = repositories
        self._fetch = fetch

    async def get(self, request: web.Request, name: str, reference: str) -> web.Response:
        if not is_digest(reference) and not TAG.fullmatch(reference):
            raise ProtocolError("MANIFEST_UNKNOWN", {"name": name, "reference": reference})
        if self._fetch is not None:
            await self._fetch(name, reference)
        digest = reference if is_digest(reference) else self._repositories.tag(name, reference)
        media_type = self._repositories.manifest_type(name, digest) if digest else None
        if digest is None or media_type is None:
            raise ProtocolError("MANIFEST_UNKNOWN", {"name": name, "reference": reference})
        headers = {"Docker-Content-Digest": digest, "ETag": f'"{digest}"'}
        if request.headers.get("If-None-Match", "").strip('"') == digest:
            return web.Response(status=304, headers=headers)
        try:
            data = self._blobs.read(digest, MAX_DOCUMENT)
        except NotFound:
            raise ProtocolError("MANIFEST_UNKNOWN", {"name": name, "reference": reference})
        response = web.Response(body=data, headers=headers)
        response.headers["Content-Type"] = media_type
        return response

    async def put(self, request: web.Request, name: str, reference: str) -> web.Response:
        data = bytearray()
        async for piece in request.content.iter_any():
            data += piece
            if len(data) > MAX_DOCUMENT:
                raise ProtocolError("MANIFEST_INVALID", "manifest too large", status=413)
        raw = bytes(data)
        media_type, subject = self._check_manifest(name, request, raw)
        algorithm = reference.partition(":")[0] if is_digest(reference) else "sha256"
        digest = f"{algorithm}:{hashlib.new(algorithm, raw).hexdigest()}"
        if ":" in reference and reference != digest:
            raise ProtocolError("DIGEST_INVALID", reference)
        tags = request.query.getall("tag", []) if reference == digest else [reference]
        for tag in tags[:_TAGS]:
            if not TAG.fullmatch(tag):
                raise ProtocolError("TAG_INVALID", tag)
        self._repositories.add_manifest(name, digest, media_type)
        await asyncio.to_thread(self._store, raw, algorithm, digest)
        headers = CIMultiDict(
            {
                "Location": f"/v2/{name}/manifests/{digest}",
                "Docker-Content-Digest": digest,
            }
        )
        if subject:
            self._repositories.add_referrer(
                name, subject, digest, _descriptor(raw, digest, media_type)
            )
            headers["OCI-Subject"] = subject
        for tag in tags[:_TAGS]:
            self._repositories.set_tag(name, tag, digest)
            if reference == digest:
                headers.add("OCI-Tag", tag)
        return web.Response(status=201, headers=headers)

    async def delete(self, request: web.Request, name: str, reference: str) -> web.Response:
        if is_digest(reference):
            gone = self._repositories.drop_manifest(name, reference)
        else:
            gone = self._repositories.drop_tag(name, reference)
        if not gone:
            raise ProtocolError("MANIFEST_UNKNOWN", {"name": name, "reference": reference})
        return web.Response(status=202)

    def _store(self, raw: bytes, algorithm: str, digest: str) -> None:
        writer = self._blobs.writer(algorithm=algorithm)
        writer.write(raw)
        writer.commit(digest)

    def _check_manifest(self, name: str, request: web.Request, raw: bytes) -> tuple[str, str]:
        """The media type and the subject's digest, or MANIFEST_INVALID."""
        declared = request.headers.get("Content-Type", "").partition(";")[0].strip()
        try:
            document = json.loads(raw)
            if not isinstance(document, dict):
                raise ValueError("not an object")
            inner = document.get("mediaType") or ""
            if inner and declared and inner != declared:
                raise ValueError(f"media type {declared} outside and {inner} inside")
            media_type = str(inner or declared)
            missing: list[str] = []
            if media_type in _INDEX_TYPES or "manifests" in document:
                index = read_index(raw)
                missing = [
                    one.digest
                    for one in index.manifests
                    if self._repositories.manifest_type(name, one.digest) is None
                ]
                subject = index.subject
            else:
                manifest = read_manifest(raw)
                missing = [
                    one.digest
                    for one in (manifest.config, *manifest.layers)
                    if not one.urls and not self._has(name, one)
                ]
                subject = manifest.subject
        except (ValueError, RecursionError, InvalidParameter) as error:
            raise ProtocolError("MANIFEST_INVALID", str(error))
        if missing:
            raise ProtocolError("MANIFEST_BLOB_UNKNOWN", {"digest": missing[0]})
        if subject is not None and not is_digest(subject.digest):
            raise ProtocolError("MANIFEST_INVALID", "subject")
        return media_type, subject.digest if subject is not None else ""

    def _has(self, name: str, descriptor: Descriptor) -> bool:
        digest = descriptor.digest
        return self._repositories.has_blob(name, digest) and self._blobs.size(digest) is not None


def _descriptor(raw: bytes, digest: str, media_type: str) -> str:
    """What the referrers list says of a manifest (distribution-spec, listing referrers)."""
    document: dict[str, Any] = json.loads(raw)
    descriptor: dict[str, Any] = {
        "mediaType": media_type,
        "digest": digest,
        "size": len(raw),
    }
    kind = document.get("artifactType") or document.get("config", {}).get("mediaType")
    if kind:
        descriptor["artifactType"] = kind
    if document.get("annotations"):
        descriptor["annotations"] = document["annotations"]
    return json.dumps(descriptor)
