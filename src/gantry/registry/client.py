"""Registries as the engine uses them: find an endpoint that answers, log in, search."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

from gantry.model.errors import GantryError, InvalidParameter, System, Unauthorized
from gantry.oci.image_reference import Reference
from gantry.registry.auth import Credentials
from gantry.registry.errors import AuthorizationError, RegistryError, TransportError, parse
from gantry.registry.remote import Remote
from gantry.registry.settings import HUB, INDEX_SERVER, RegistrySettings
from gantry.registry.transport import Endpoint, Transport, small

T = TypeVar("T")
Json = dict[str, Any]

_STATUSES: Final = frozenset(HTTPStatus)


class RegistryClient:
    """See the module. One event loop's own; `aclose` it."""

    def __init__(self, settings: RegistrySettings | None = None) -> None:
        self.settings = settings or RegistrySettings()
        self._transport = Transport(self.settings)
        self._old: list[Transport] = []

    async def aclose(self) -> None:
        for transport in (self._transport, *self._old):
            await transport.aclose()

    async def replace_settings(self, settings: RegistrySettings) -> None:
        """Reload: later pulls and pushes go by the new ones; those under way end as they began."""
        self._old.append(self._transport)
        self._transport = Transport(settings)
        self.settings = settings

    async def attempt(
        self,
        reference: Reference,
        credentials: Credentials,
        action: Callable[[Remote], Awaitable[T]],
        *,
        push: bool = False,
    ) -> T:
        """Do `action` on the first endpoint where it succeeds.

        A mirror that fails, and TLS that fails where plain HTTP is allowed, lead on to the next
        endpoint; an answer of the registry itself is final. Never from TLS that works to plain
        HTTP. Raises the last error.
        """
        failure: GantryError | None = None
        confirmed: set[str] = set()
        for endpoint in await self._transport.endpoints(reference.domain, push=push):
            if not endpoint.url.startswith("https:") and endpoint.host in confirmed:
                continue
            # A mirror gets no credentials: they are the Hub's.
            who = Credentials(client=credentials.client) if endpoint.mirror else credentials
            authorizer = self._transport.authorizer(endpoint, who)
            remote = Remote(self._transport, endpoint, reference.path, authorizer)
            try:
                await self._transport.ping(endpoint, authorizer)
                return await action(remote)
            except TransportError as error:
                if failure is None or not isinstance(failure, RegistryError):
                    failure = _clearer(failure, error)
                if error.spoke and not endpoint.mirror:
                    raise
            except RegistryError as error:
                if not endpoint.mirror:
                    raise
                failure = error
            except GantryError as error:
                if not endpoint.mirror:
                    raise
                failure = error
            if endpoint.url.startswith("https:") and isinstance(failure, RegistryError):
                confirmed.add(endpoint.host)
        raise failure or System(f"no endpoints found for {reference.familiar}")

    async def login(self, credentials: Credentials) -> Json:
        """{"Status": "Login Succeeded", "IdentityToken": text}. Unauthorized, System."""
        server = credentials.server or INDEX_SERVER
        domain = urlsplit(server if "://" in server else "//" + server).netloc or server
        if domain in ("index.docker.io", "docker.io", "registry-1.docker.io"):
            domain = HUB
        failure: GantryError | None = None
        for endpoint in await self._transport.endpoints(domain, push=True):
            try:
                token = await asyncio.wait_for(self._login(endpoint, credentials), 30)
            except TransportError as error:
                failure = _clearer(failure, error)
                continue
            except AuthorizationError as error:
                raise Unauthorized(str(error)) from error
            except RegistryError as error:
                phrase = HTTPStatus(error.status).phrase if error.status in _STATUSES else ""
                raise Unauthorized(
                    f"login attempt to {endpoint.url}/v2/ failed with status:"
                    f" {error.status} {phrase}".rstrip()
                ) from error
            except TimeoutError:
                failure = System(
                    f'Get "{endpoint.url}/v2/": net/http: request canceled'
                    " (Client.Timeout exceeded while awaiting headers)"
                )
                continue
            return {"Status": "Login Succeeded", "IdentityToken": token}
        raise failure or System(f"no endpoints found for {domain}")

    async def _login(self, endpoint: Endpoint, credentials: Credentials) -> str:
        authorizer = self._transport.authorizer(endpoint, credentials)
        async with self._transport.request(
            endpoint, "GET", "v2/", authorizer=authorizer
        ) as response:
            await small(response)
        return authorizer.refresh_token

    async def search(self, term: str, limit: int, credentials: Credentials) -> list[Json]:
        """What an index's search finds: rows with name, description, star_count, is_official."""
        if "://" in term:
            raise InvalidParameter(
                f"invalid repository name: repository name ({term}) should not have a scheme"
            )
        limit = limit or 25
        if not 1 <= limit <= 100:
            raise InvalidParameter(f"limit {limit} is outside the range of [1, 100]")
        first, slash, rest = term.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            domain, name = first, rest
        else:
            domain, name = HUB, term.removeprefix("library/")
        query = f"v1/search?{urlencode({'q': name, 'n': limit})}"
        if domain in (HUB, "index.docker.io"):
            return await self._search(Endpoint("https://index.docker.io", HUB), query, credentials)
        failure: GantryError | None = None
        for endpoint in await self._transport.endpoints(domain):
            try:
                return await self._search(endpoint, query, credentials)
            except TransportError as error:
                failure = error
        raise InvalidParameter(
            f"invalid registry endpoint https://{domain}/v1/: {failure}. If this private registry"
            " supports only HTTP or HTTPS with an unknown CA certificate, add"
            f" `--insecure-registry {domain}` to the daemon's arguments. In the case of HTTPS, if"
            " you have access to the registry's CA certificate, no need for the flag; place the"
            f" CA certificate at /etc/docker/certs.d/{domain}/ca.crt"
        )

    async def _search(self, endpoint: Endpoint, query: str, credentials: Credentials) -> list[Json]:
        headers = {"X-Docker-Token": "true"}
        if credentials.username:
            headers["Authorization"] = credentials.basic
        try:
            async with self._transport.request(endpoint, "GET", query, headers=headers) as response:
                raw = await small(response)
        except RegistryError as error:
            raise RegistryError(
                f"Unexpected status code {error.status}", error.code, error.status
            ) from error
        rows = parse(raw).get("results") or []
        if not isinstance(rows, list):
            raise RegistryError("error decoding registry search results")
        return [_row(row) for row in rows if isinstance(row, dict)]


def _row(row: Json) -> Json:
    stars = row.get("star_count")
    return {
        "star_count": stars if isinstance(stars, int) else 0,
        "is_official": bool(row.get("is_official")),
        "name": str(row.get("name") or ""),
        "is_automated": False,
        "description": str(row.get("description") or ""),
    }


def _clearer(old: GantryError | None, new: TransportError) -> GantryError:
    """Of TLS and then plain HTTP that both failed, the last says what is wrong, unless the
    first was refused for its certificate."""
    return old if old is not None and "x509" in str(old) else new
