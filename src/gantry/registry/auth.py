"""Credentials and how they become an Authorization header: basic, tokens, identity tokens.

The token protocol is Docker's (distribution `docs/spec/auth`): a 401 names a realm, a service
and a scope; a token for these is fetched with the user's password (GET), or with an identity
token (POST, OAuth 2). Tokens are kept per scope until shortly before they expire.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

CLIENT_ID: Final = "docker"
_CLIENT: Final = 256
"""Characters of a client's name that are passed on."""
_SPECIAL: Final = re.compile(r"[();\\]")
_MARGIN: Final = 10.0
"""Seconds before its end that a token is no longer used."""
_DEFAULT_LIFE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client sent in X-Registry-Auth or POST /auth. registry_token: a ready bearer.
    client: the User-Agent of whom the engine asks for."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    server: str = ""
    client: str = ""

    @staticmethod
    def of_json(auth: Mapping[str, Any] | None) -> Credentials:
        """From an AuthConfig: fields of other types are as if missing."""

        def text(name: str) -> str:
            value = (auth or {}).get(name)
            return value if isinstance(value, str) else ""

        username, password = text("username"), text("password")
        if not username and text("auth"):
            try:
                decoded = base64.b64decode(text("auth"), validate=True).decode()
                username, _, password = decoded.partition(":")
            except ValueError:
                username = password = ""
        return Credentials(
            username,
            password,
            text("identitytoken"),
            text("registrytoken"),
            text("serveraddress"),
            text("useragent")[:_CLIENT],
        )

    def user_agent(self, own: str) -> str:
        """`own`, and who is behind it (moby `dockerversion.DockerUserAgent`)."""
        if not self.client or not self.client.isprintable():
            return own
        escaped = _SPECIAL.sub(r"\\\g<0>", self.client)
        return f"{own} UpstreamClient({escaped})"

    @property
    def basic(self) -> str:
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """One of a WWW-Authenticate header. scheme: lower case."""

    scheme: str
    parameters: Mapping[str, str]


_PARAMETER: Final = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*,?')
_SCHEME: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9_-]*)(?:\s+|$|,)")


def parse_challenges(header: str) -> list[Challenge]:
    """All challenges of a header (RFC 9110 §11.6.1); what is malformed ends the list."""
    found: list[Challenge] = []
    position = 0
    while position < len(header):
        scheme = _SCHEME.match(header, position)
        if scheme is None:
            break
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, position):
            quoted, plain = parameter[2], parameter[3]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            parameters[parameter[1].lower()] = value
            position = parameter.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return found


@dataclass(frozen=True, slots=True)
class Token:
    """refresh: an identity token that came along, or ""."""

    value: str
    expires: float
    refresh: str = ""


FetchToken = Callable[[Challenge, str], Awaitable[Token]]
"""(challenge, scope) → a token; the transport's part."""


def token_of(document: Mapping[str, Any]) -> Token:
    """A token server's answer. KeyError without a token in it."""
    value = document.get("token") or document.get("access_token")
    if not isinstance(value, str):
        raise KeyError("token")
    life = document.get("expires_in")
    seconds = float(life) if isinstance(life, (int, float)) and life > 0 else _DEFAULT_LIFE
    refresh = document.get("refresh_token")
    return Token(value, time.monotonic() + seconds, refresh if isinstance(refresh, str) else "")


class NoCredentials(Exception):
    """The registry wants a user and a password."""


class Authorizer:
    """Authorization headers for one registry and one user."""

    def __init__(self, credentials: Credentials, fetch: FetchToken) -> None:
        self.credentials = credentials
        self._fetch = fetch
        self._challenges: list[Challenge] = []
        self._tokens: dict[str, Token] = {}
        self.refresh_token = ""

    async def header(self, scope: str) -> str | None:
        """For a request that needs `scope` ("repository:a/b:pull"); None before any challenge.

        NoCredentials where a password is wanted and none was given; what `fetch` raises.
        """
        if self.credentials.registry_token:
            return "Bearer " + self.credentials.registry_token
        for challenge in self._challenges:
            if challenge.scheme == "bearer":
                token = self._tokens.get(scope)
                if token is None or token.expires - _MARGIN < time.monotonic():
                    token = self._tokens[scope] = await self._fetch(challenge, scope)
                    self.refresh_token = token.refresh or self.refresh_token
                return "Bearer " + token.value
        for challenge in self._challenges:
            if challenge.scheme == "basic":
                if not self.credentials.username:
                    raise NoCredentials
                return self.credentials.basic
        return None

    def challenged(self, header: str, scope: str) -> bool:
        """Take a 401's challenges; whether another try has a chance."""
        challenges = parse_challenges(header)
        fresh = challenges != self._challenges or scope in self._tokens
        self._challenges = challenges
        self._tokens.pop(scope, None)
        if self.credentials.registry_token:
            return False
        if any(challenge.scheme == "bearer" for challenge in challenges):
            return fresh
        return fresh and any(challenge.scheme == "basic" for challenge in challenges)
