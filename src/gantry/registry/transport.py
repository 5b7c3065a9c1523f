"""HTTP to registries: sessions, TLS, proxies, authorization, errors in Docker's words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urljoin, urlsplit

from gantry.model.errors import InvalidParameter, System
from gantry.registry.auth import (
    CLIENT_ID,
    Authorizer,
    Challenge,
    Credentials,
    NoCredentials,
    Token,
    token_of,
)
from gantry.registry.errors import (
    AuthorizationError,
    RegistryError,
    TransportError,
    of_response,
    of_transport,
    parse,
)
from gantry.registry.patience import WAIT, Patience
from gantry.registry.settings import HUB, HUB_REGISTRY, RegistrySettings

if TYPE_CHECKING:
    import aiohttp

_CONNECT: Final = 30.0
_PING: Final = 15.0
"""Seconds until a registry that says nothing counts as not there, as dockerd has it."""
_HEADERS: Final = 60.0
"""Seconds of silence that a connection may keep."""
_BODY: Final = 4 << 20
_DOCUMENT: Final = 120.0
"""Seconds that a small body (an error, a token, a list) may take in all."""
_REDIRECTS: Final = 10
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_FIELD: Final = 1 << 15
"""Bytes of one header: addresses of object stores are long."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a registry's API is: `url` ends without a slash and without /v2."""

    url: str
    host: str
    insecure: bool = False
    mirror: bool = False
    official: bool = False


class Transport:
    """Sessions to all registries, kept open between requests. One event loop's own."""

    def __init__(self, settings: RegistrySettings) -> None:
        self.settings = settings
        self._sessions: dict[tuple[str, bool, Stamp], aiohttp.ClientSession] = {}
        self.patience = _PING
        self.wait_limit = WAIT
        self._spoke: set[str] = set()
        self._open: set[str] = set()
        """Endpoints that asked for no credentials when they were met."""

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def endpoints(self, domain: str, *, push: bool = False) -> list[Endpoint]:
        """In the order to try: mirrors of Docker Hub, TLS, plain HTTP where that is allowed."""
        if domain == HUB:
            found: list[Endpoint] = []
            if not push:
                for mirror in self.settings.mirrors:
                    host = urlsplit(mirror).netloc
                    insecure = self.settings.insecure(host, await _addresses(host))
                    found.append(Endpoint(mirror.rstrip("/"), host, insecure, mirror=True))
            return [*found, Endpoint(f"https://{HUB_REGISTRY}", HUB_REGISTRY, official=True)]
        insecure = self.settings.insecure(domain)
        if not insecure:
            insecure = self.settings.insecure(domain, await _addresses(domain))
        secure = Endpoint(f"https://{domain}", domain, insecure)
        if not insecure:
            return [secure]
        plain = Endpoint(f"http://{domain}", domain, insecure)
        # What answered plain HTTP before is asked so first: no failed handshake each time.
        return [plain, secure] if plain.url in self._spoke else [secure, plain]

    def authorizer(self, endpoint: Endpoint, credentials: Credentials) -> Authorizer:
        async def fetch(challenge: Challenge, scope: str) -> Token:
            return await self._token(endpoint, credentials, challenge, scope)

        return Authorizer(credentials, fetch)

    async def ping(self, endpoint: Endpoint, authorizer: Authorizer) -> None:
        """Learn whether the endpoint answers, and what it wants to know of us. TransportError.

        Nothing is asked of one that has answered before, unless it has to be known again.
        """
        if endpoint.url in self._open:
            return
        url = endpoint.url + "/v2/"
        try:
            agent = authorizer.credentials.user_agent(self.settings.user_agent)
            async with asyncio.timeout(self.patience):
                response = await self._send(endpoint, "GET", url, {"User-Agent": agent}, None)
        except TimeoutError as error:
            raise of_transport(error, "GET", url) from error
        async with response:
            if response.status == 401:
                challenge = ", ".join(response.headers.getall("WWW-Authenticate", []))
                authorizer.challenged(challenge, "")
            elif response.status < 400:
                self._open.add(endpoint.url)

    @contextlib.asynccontextmanager
    async def request(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        *,
        authorizer: Authorizer | None = None,
        scope: str = "",
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        accepted: tuple[int, ...] = (200,),
        patient: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One exchange; `url` may be relative to the endpoint. Answers a 401's challenge once.

        What proves who we are goes to the endpoint's own origin only, wherever `url` or a
        redirect leads, and a challenge is taken from nobody else.

        patient: when the registry asks us to come again later (429, 503 with Retry-After), we do.

        RegistryError for another status than accepted, TransportError when nothing came.
        data: bytes, or a callable that makes a fresh async iterator of bytes for each try.
        """
        from gantry.http.lean import aiohttp

        target = join(endpoint.url + "/", url)
        async with contextlib.AsyncExitStack() as scope_stack:
            patience = Patience(self.wait_limit if patient else 0)
            while True:
                response = await self._authorized(
                    endpoint, method, target, authorizer, scope, dict(headers or {}), data
                )
                wait = patience.before_another(response.status, response.headers)
                if wait is None:
                    break
                await _discard(response)
                await asyncio.sleep(wait)
            await scope_stack.enter_async_context(response)
            if response.status not in accepted:
                raise of_response(response.status, await _excerpt(response), response.headers)
            try:
                yield response
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if isinstance(error, System):
                    raise
                raise of_transport(error, method, target) from error

    # ---- inside

    async def _authorized(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        authorizer: Authorizer | None,
        scope: str,
        headers: dict[str, str],
        data: Any,
    ) -> aiohttp.ClientResponse:
        """An answer to what proves who we are; where the first is a challenge, the second."""
        if authorizer is None:
            return await self._send(endpoint, method, url, headers, data)
        headers["User-Agent"] = authorizer.credentials.user_agent(self.settings.user_agent)
        for first in (True, False):
            sent = dict(headers)
            if _origin(url) == _origin(endpoint.url):
                authorization = await _authorization(authorizer, scope, method, url)
                if authorization is not None:
                    sent["Authorization"] = authorization
            response = await self._send(endpoint, method, url, sent, data)
            challenge = ", ".join(response.headers.getall("WWW-Authenticate", []))
            own = _origin(str(response.url)) == _origin(endpoint.url)
            if not (first and response.status == 401 and challenge and own):
                break
            if not authorizer.challenged(challenge, scope):
                break
            await _discard(response)
        return response

    async def _send(
        self, endpoint: Endpoint, method: str, url: str, headers: dict[str, str], body: Any
    ) -> aiohttp.ClientResponse:
        """A request, and where GET and HEAD are redirected to. TransportError."""
        headers.setdefault("User-Agent", self.settings.user_agent)
        for _ in range(_REDIRECTS + 1):
            sent = body() if callable(body) else body
            response = await self._exchange(endpoint, method, url, headers, sent)
            location = response.headers.get("Location", "")
            if response.status not in _MOVED or not location or method not in ("GET", "HEAD"):
                return response
            response.close()
            before, url = url, join(url, location)
            scheme = urlsplit(url).scheme
            if scheme not in ("http", "https"):
                raise _refused(method, url, f'unsupported protocol scheme "{scheme}"')
            if scheme == "http" and before.startswith("https:") and not endpoint.insecure:
                raise _refused(method, url, "refused to follow a redirect from https to http")
            if _origin(url) != _origin(before):
                headers.pop("Authorization", None)
        raise _refused(method, url, f"stopped after {_REDIRECTS} redirects")

    async def _exchange(
        self, endpoint: Endpoint, method: str, url: str, headers: dict[str, str], body: Any
    ) -> aiohttp.ClientResponse:
        from gantry.http.lean import aiohttp

        try:
            parts = urlsplit(url)
            proxy = self.settings.proxies.of(parts.scheme, parts.hostname or "", parts.port)
            response = await self._session(endpoint).request(
                method, url, headers=headers, data=body, proxy=proxy, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failure = of_transport(error, method, url)
            failure.spoke = endpoint.url in self._spoke
            self._open.discard(endpoint.url)
            raise failure from error
        self._spoke.add(endpoint.url)
        return response

    def _session(self, endpoint: Endpoint) -> aiohttp.ClientSession:
        key = (endpoint.host, endpoint.insecure, _stamp(self.settings, endpoint))
        session = self._sessions.get(key)
        if session is None:
            from gantry.http.lean import aiohttp

            connector = aiohttp.TCPConnector(
                limit=0, ssl=_tls(self.settings, endpoint), keepalive_timeout=30
            )
            session = self._sessions[key] = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                read_bufsize=1 << 17,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Content-Type",),
                max_line_size=_FIELD,
                max_field_size=_FIELD,
                headers={"Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=_CONNECT, sock_read=_HEADERS
                ),
            )
        return session

    async def _token(
        self, endpoint: Endpoint, credentials: Credentials, challenge: Challenge, scope: str
    ) -> Token:
        realm = join("", challenge.parameters.get("realm", ""))
        if urlsplit(realm).scheme not in ("http", "https"):
            raise RegistryError(f"unsupported protocol scheme in realm {realm!r}")
        service = challenge.parameters.get("service", "")
        scopes = " ".join(dict.fromkeys(filter(None, (challenge.parameters.get("scope"), scope))))
        wanted = sorted({*scopes.split()}) if scopes else []
        if credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": CLIENT_ID,
                "refresh_token": credentials.identity_token,
            }
            if wanted:
                form["scope"] = " ".join(wanted)
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            async with self.request(
                endpoint, "POST", realm, headers=headers, data=urlencode(form).encode()
            ) as response:
                return _read_token(await small(response), realm)
        query: list[tuple[str, str]] = [("service", service)] if service else []
        query += [("scope", one) for one in wanted]
        headers = {}
        if credentials.username:
            headers["Authorization"] = credentials.basic
            query.append(("account", credentials.username))
            if not wanted:  # a login: an identity token is of use
                query += [("offline_token", "true"), ("client_id", CLIENT_ID)]
        url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(query)
        async with self.request(endpoint, "GET", url, headers=headers) as response:
            return _read_token(await small(response), realm)


async def _authorization(authorizer: Authorizer, scope: str, method: str, url: str) -> str | None:
    try:
        return await authorizer.header(scope)
    except NoCredentials:
        cause = RegistryError("no basic auth credentials")
        raise AuthorizationError(method, url, cause) from None
    except RegistryError as error:
        raise AuthorizationError(method, url, error) from error


def _read_token(body: bytes, realm: str) -> Token:
    try:
        return token_of(parse(body))
    except KeyError:
        text = "authorization server did not include a token in the response"
        raise RegistryError(f"{text} ({realm})") from None


async def small(response: aiohttp.ClientResponse) -> bytes:
    """A small body, cut off where it is over 4 MiB. What aiohttp raises; TimeoutError."""
    found = bytearray()
    async with asyncio.timeout(_DOCUMENT):
        async for piece in response.content.iter_any():
            found += piece
            if len(found) > _BODY:
                break
    return bytes(found)


async def _discard(response: aiohttp.ClientResponse) -> None:
    await _excerpt(response)
    response.release()


async def _excerpt(response: aiohttp.ClientResponse) -> bytes:
    """As much of an error's body as comes."""
    from gantry.http.lean import aiohttp

    try:
        return await small(response)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return b""


def join(base: str, url: str) -> str:
    """An address that a registry gave, perhaps a relative one, made whole. RegistryError."""
    try:
        return urljoin(base, url)
    except ValueError as error:
        text = f"invalid address {url!r} from the registry: {error}"
        raise RegistryError(text, status=400) from None


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL; two with the same are one server."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", url, None
    return parts.scheme, (parts.hostname or "").lower(), port


def _refused(method: str, url: str, why: str) -> RegistryError:
    """An answer that leads where we do not go: final, as any other bad answer."""
    return RegistryError(f'{method.capitalize()} "{url}": {why}', status=400)


async def _addresses(host: str) -> list[str]:
    """A registry's addresses, for insecure networks given as CIDR; nothing when unknown."""
    name = urlsplit("//" + host).hostname or host
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(name, None)
    except OSError:
        return []
    return [str(item[4][0]) for item in found]


Stamp = tuple[tuple[str, int, int], ...]
"""Path, time of change and size of the files that say whom to believe about a host."""


def _stamp(settings: RegistrySettings, endpoint: Endpoint) -> Stamp:
    """So that what is put into certs.d holds from the next request on, as with dockerd."""
    found: list[tuple[str, int, int]] = []
    for parent in settings.certs_dirs:
        with contextlib.suppress(OSError), os.scandir(os.path.join(parent, endpoint.host)) as here:
            for item in here:
                info = item.stat()
                found.append((item.path, info.st_mtime_ns, info.st_size))
    return tuple(sorted(found))


def _tls(settings: RegistrySettings, endpoint: Endpoint) -> ssl.SSLContext:
    """The system's authorities and those in certs.d/HOST; client certificates from there.

    InvalidParameter for a certificate without its key and the like.
    """
    context = ssl.create_default_context()
    if endpoint.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    for parent in settings.certs_dirs:
        folder = os.path.join(parent, endpoint.host)
        try:
            names = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in names:
            path = os.path.join(folder, name)
            base, extension = os.path.splitext(name)
            try:
                if extension == ".crt":
                    context.load_verify_locations(path)
                elif extension == ".cert":
                    if base + ".key" not in names:
                        raise InvalidParameter(
                            f"missing key {base}.key for client certificate {name}."
                            " CA certificates must use the extension .crt"
                        )
                    context.load_cert_chain(path, os.path.join(folder, base + ".key"))
                elif extension == ".key" and base + ".cert" not in names:
                    raise InvalidParameter(f"missing client certificate {base}.cert for key {name}")
            except (OSError, ssl.SSLError) as error:
                raise InvalidParameter(f"cannot read {path}: {error}") from error
    return context


__all__ = ["Endpoint", "Transport", "TransportError"]
