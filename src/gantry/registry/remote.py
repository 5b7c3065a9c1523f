"""One repository of one registry: manifests, blobs, tags, uploads (distribution-spec)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from gantry.model.errors import InvalidParameter
from gantry.oci.image import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    INDEXES,
    MANIFESTS,
    MAX_DOCUMENT,
    OCI_INDEX,
    OCI_MANIFEST,
)
from gantry.oci.image_digest import is_digest
from gantry.registry.auth import Authorizer
from gantry.registry.errors import AuthorizationError, RegistryError, parse
from gantry.registry.transport import Endpoint, Transport, join, small

if TYPE_CHECKING:
    import aiohttp

ACCEPT: Final = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, "*/*"))
_DOCUMENTS: Final = MANIFESTS | INDEXES | {DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED}
_PAGE: Final = 1000
_PAGES: Final = 100

Pieces = Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Found:
    """What a tag or digest means. raw: the document, b"" when only its head was asked."""

    digest: str
    media_type: str
    size: int
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Range:
    """An answer to a blob request: the body starts at `start` of `total` bytes (-1 unknown)."""

    response: aiohttp.ClientResponse
    start: int
    total: int


class Remote:
    """See the module. path: the repository's name at the registry (library/busybox)."""

    def __init__(
        self, transport: Transport, endpoint: Endpoint, path: str, authorizer: Authorizer
    ) -> None:
        self.endpoint = endpoint
        self.path = path
        self._transport = transport
        self._authorizer = authorizer
        self._pull = f"repository:{path}:pull"
        self._push = f"repository:{path}:pull,push"

    # ---- reading

    async def head(self, reference: str) -> Found:
        """What a tag is now, without its document. Falls back to `get` for old registries."""
        try:
            async with self._transport.request(
                self.endpoint,
                "HEAD",
                f"v2/{self.path}/manifests/{reference}",
                authorizer=self._authorizer,
                scope=self._pull,
                headers={"Accept": ACCEPT},
                patient=False,
            ) as response:
                digest = response.headers.get("Docker-Content-Digest", "")
                size = response.headers.get("Content-Length", "")
                if is_digest(digest) and size.isdigit():
                    return Found(digest, _media_type(response), int(size))
        except AuthorizationError:
            raise
        except RegistryError:
            pass  # a HEAD's error has no body: ask for the text
        return await self.get(reference)

    async def get(self, reference: str) -> Found:
        """A manifest or index by tag or digest, verified. RegistryError, InvalidParameter."""
        async with self._transport.request(
            self.endpoint,
            "GET",
            f"v2/{self.path}/manifests/{reference}",
            authorizer=self._authorizer,
            scope=self._pull,
            headers={"Accept": ACCEPT},
        ) as response:
            raw = await self._document(response, "manifest")
            media_type = _media_type(response)
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        if is_digest(reference) and _digest(reference, raw) != reference:
            raise InvalidParameter(f"manifest verification failed for digest {reference}")
        if is_digest(reference):
            digest = reference
        return Found(digest, _kind(media_type, raw), len(raw), raw)

    async def small_blob(self, digest: str) -> bytes:
        """A config, verified."""
        async with self.blob(digest) as found:
            raw = await self._document(found.response, "image config")
        if _digest(digest, raw) != digest:
            raise InvalidParameter(f"image config verification failed for digest {digest}")
        return raw

    @contextlib.asynccontextmanager
    async def blob(
        self, digest: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[Range]:
        """A blob's bytes from `start` (to before `end`), or all from 0 where the registry does
        not know ranges: look at `Range.start`.

        The URLs that a descriptor may have are never asked, as dockerd on Linux has it: else
        whoever makes a manifest could have any address looked at from this host.
        """
        headers = {}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        async with self._transport.request(
            self.endpoint,
            "GET",
            f"v2/{self.path}/blobs/{digest}",
            authorizer=self._authorizer,
            scope=self._pull,
            headers=headers,
            accepted=(200, 206),
        ) as response:
            yield _range(response)

    async def has_blob(self, digest: str, *, push: bool = True) -> int | None:
        """A blob's size in this repository, or None. A refusal is None too: an answer to HEAD
        says nothing, the one to what is tried next does. push: by the token that writing needs."""
        try:
            async with self._transport.request(
                self.endpoint,
                "HEAD",
                f"v2/{self.path}/blobs/{digest}",
                authorizer=self._authorizer,
                scope=self._push if push else self._pull,
            ) as response:
                return int(response.headers.get("Content-Length") or 0)
        except AuthorizationError:
            raise
        except RegistryError as error:
            if 400 <= error.status < 500:
                return None
            raise

    async def tags(self) -> list[str]:
        """All tags, page by page."""
        found: list[str] = []
        url = f"v2/{self.path}/tags/list?n={_PAGE}"
        for _ in range(_PAGES):
            async with self._transport.request(
                self.endpoint, "GET", url, authorizer=self._authorizer, scope=self._pull
            ) as response:
                raw = await self._document(response, "tag list")
                try:
                    more = response.links.get("next")
                except ValueError as error:
                    raise RegistryError(f"invalid Link from the registry: {error}") from error
            tags = parse(raw).get("tags") or []
            if not isinstance(tags, list):
                raise RegistryError("invalid tag list from the registry")
            found.extend(tag for tag in tags if isinstance(tag, str))
            if more is None:
                break
            url = str(more["url"])
            if urlsplit(url).netloc not in ("", urlsplit(self.endpoint.url).netloc):
                break  # another server's tags are not this one's
        return found

    # ---- writing

    async def start_upload(self, *, mount: str = "", source: str = "") -> str | None:
        """Begin to write a blob; its upload URL. None: it was mounted from repository `source`."""
        query = "?" + urlencode({"mount": mount, "from": source}) if mount else ""
        scope = self._push
        async with self._transport.request(
            self.endpoint,
            "POST",
            f"v2/{self.path}/blobs/uploads/{query}",
            authorizer=self._authorizer,
            scope=scope if not mount else f"{scope} repository:{source}:pull",
            headers={"Content-Length": "0"},
            accepted=(201, 202),
        ) as response:
            if response.status == 201:
                return None
            return self._location(response)

    async def upload(self, location: str, digest: str, size: int, pieces: Pieces) -> None:
        """Send a whole blob to an upload URL and close it with its digest."""
        async with self._transport.request(
            self.endpoint,
            "PATCH",
            location,
            authorizer=self._authorizer,
            scope=self._push,
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(size),
            },
            data=pieces,
            accepted=(202, 201, 204),
        ) as response:
            location = self._location(response)
        separator = "&" if urlsplit(location).query else "?"
        async with self._transport.request(
            self.endpoint,
            "PUT",
            f"{location}{separator}{urlencode({'digest': digest})}",
            authorizer=self._authorizer,
            scope=self._push,
            headers={"Content-Length": "0", "Content-Type": "application/octet-stream"},
            accepted=(201, 204),
        ):
            return

    async def put_manifest(self, reference: str, media_type: str, raw: bytes) -> str:
        """Store a manifest under a tag or digest; the digest the registry gives it."""
        async with self._transport.request(
            self.endpoint,
            "PUT",
            f"v2/{self.path}/manifests/{reference}",
            authorizer=self._authorizer,
            scope=self._push,
            headers={"Content-Type": media_type},
            data=raw,
            accepted=(201, 202, 200),
        ) as response:
            return response.headers.get("Docker-Content-Digest", "")

    # ---- inside

    def _location(self, response: aiohttp.ClientResponse) -> str:
        location = response.headers.get("Location", "")
        if not location:
            raise RegistryError("the registry gave no upload location")
        return join(str(response.url), location)

    async def _document(self, response: aiohttp.ClientResponse, what: str) -> bytes:
        raw = await small(response)
        if len(raw) > MAX_DOCUMENT:
            raise InvalidParameter(f"invalid {what}: larger than {MAX_DOCUMENT} bytes")
        return raw


def _media_type(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip()


def _kind(outside: str, raw: bytes) -> str:
    """What a document is. Its own word and the registry's must agree (CVE-2021-41190): another
    engine could take the same bytes for another thing. InvalidParameter."""
    inside = parse(raw).get("mediaType", "")
    if not isinstance(inside, str):
        raise InvalidParameter("invalid manifest: mediaType is no text")
    if inside and outside in _DOCUMENTS and inside != outside:
        raise InvalidParameter(f"mediaType in manifest should be '{outside}' not '{inside}'")
    kind = inside or outside
    if kind not in _DOCUMENTS:
        raise InvalidParameter(f"unsupported manifest media type and no default available: {kind}")
    return kind


def _digest(like: str, raw: bytes) -> str:
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, raw).hexdigest()}"


def _range(response: aiohttp.ClientResponse) -> Range:
    if response.status == 206:
        unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
        span, _, total = rest.partition("/")
        start = span.partition("-")[0]
        if unit.strip().lower() == "bytes" and start.isdigit():
            return Range(response, int(start), int(total) if total.isdigit() else -1)
        raise RegistryError("invalid Content-Range from the registry")
    length = response.content_length
    return Range(response, 0, -1 if length is None else length)
