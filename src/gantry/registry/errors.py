"""What a registry or the way to it answered instead of what was asked.

`RegistryError` carries the protocol's code; `str` is the text Docker's Go client makes of it
("denied: requested access to the resource is denied"), which users and scripts know.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from gantry.model.errors import (
    Forbidden,
    GantryError,
    InvalidParameter,
    NotFound,
    System,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from gantry.registry.auth import parse_challenges

if TYPE_CHECKING:
    import aiohttp

UNAUTHORIZED: Final = "UNAUTHORIZED"
DENIED: Final = "DENIED"
MANIFEST_UNKNOWN: Final = "MANIFEST_UNKNOWN"
NAME_UNKNOWN: Final = "NAME_UNKNOWN"
BLOB_UNKNOWN: Final = "BLOB_UNKNOWN"
TOO_MANY: Final = "TOOMANYREQUESTS"
UNSUPPORTED: Final = "UNSUPPORTED"
UNKNOWN: Final = "UNKNOWN"

_FINAL: Final = frozenset(
    {UNAUTHORIZED, DENIED, NAME_UNKNOWN, BLOB_UNKNOWN, MANIFEST_UNKNOWN, TOO_MANY, UNSUPPORTED}
)
_PLAIN: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_BY_STATUS: Final = {401: UNAUTHORIZED, 403: DENIED, 429: TOO_MANY}
_BEARER: Final = {"invalid_token": UNAUTHORIZED, "insufficient_scope": DENIED}
_MESSAGES: Final = {
    UNKNOWN: "unknown error",
    UNSUPPORTED: "The operation is unsupported.",
    UNAUTHORIZED: "authentication required",
    DENIED: "requested access to the resource is denied",
    "UNAVAILABLE": "service unavailable",
    TOO_MANY: "too many requests",
    "DIGEST_INVALID": "provided digest did not match uploaded content",
    "SIZE_INVALID": "provided length did not match content length",
    "NAME_INVALID": "invalid repository name",
    "TAG_INVALID": "manifest tag did not match URI",
    NAME_UNKNOWN: "repository name not known to registry",
    MANIFEST_UNKNOWN: "manifest unknown",
    "MANIFEST_INVALID": "manifest invalid",
    "MANIFEST_UNVERIFIED": "manifest failed signature verification",
    "MANIFEST_BLOB_UNKNOWN": "blob unknown to registry",
    BLOB_UNKNOWN: "blob unknown to registry",
    "BLOB_UPLOAD_UNKNOWN": "blob upload unknown to registry",
    "BLOB_UPLOAD_INVALID": "blob upload invalid",
    "PAGINATION_NUMBER_INVALID": "invalid number of results requested",
}
_KINDS: Final[Mapping[str, type[GantryError]]] = {
    UNAUTHORIZED: Unauthorized,
    DENIED: Forbidden,
    "UNAVAILABLE": Unavailable,
    TOO_MANY: TooManyRequests,
    NAME_UNKNOWN: NotFound,
    MANIFEST_UNKNOWN: NotFound,
    BLOB_UNKNOWN: NotFound,
    "MANIFEST_BLOB_UNKNOWN": NotFound,
    "DIGEST_INVALID": InvalidParameter,
    "SIZE_INVALID": InvalidParameter,
    "NAME_INVALID": InvalidParameter,
    "TAG_INVALID": InvalidParameter,
    "MANIFEST_INVALID": InvalidParameter,
    "MANIFEST_UNVERIFIED": InvalidParameter,
}
_NO_NAME: Final = (socket.EAI_NONAME, socket.EAI_NODATA)
_ADDRESS: Final = re.compile(r"\('([^']+)', (\d+)")
"""As asyncio names the one that it could not connect to."""
_SHOWN: Final = 1000
"""Bytes of an answer nobody can make sense of that are shown."""


class RegistryError(System):
    """An answer of a registry that is an error. code: "" where it gave none; first: the text of
    the first error where it gave several."""

    def __init__(self, message: str, code: str = "", status: int = 0, first: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.first = first or message

    @property
    def final(self) -> bool:
        """Trying again is of no use."""
        return self.code in _FINAL or 400 <= self.status < 500


class AuthorizationError(RegistryError):
    """Nothing was asked of the registry: what it wants of us could not be had. reason: why,
    without the request that it was for."""

    def __init__(self, method: str, url: str, cause: RegistryError) -> None:
        text = f'{method.capitalize()} "{url}": {cause}'
        super().__init__(text, cause.code, cause.status or 401)
        self.reason = str(cause)


class TransportError(System):
    """The registry could not be spoken to. plain: it answered HTTP where TLS was spoken."""

    def __init__(self, message: str, *, plain: bool = False, spoke: bool = False) -> None:
        super().__init__(message)
        self.plain = plain
        self.spoke = spoke
        """It did speak HTTP with us over this transport before."""


def parse(raw: bytes) -> dict[str, Any]:
    """A registry's JSON object; an empty one for anything else, however deep or long."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def of_response(
    status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> RegistryError:
    """The error in a response (distribution-spec: {"errors": [{code, message, detail}]}), as
    distribution's `HandleErrorResponse` reads it."""
    headers = headers or {}
    if not 400 <= status < 500:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        text = f"received unexpected HTTP status: {status} {phrase}".rstrip()
        return RegistryError(text, "", status)
    code, text = _in_body(status, body, headers.get("Content-Type", ""))
    refusal = _refusal(headers.get("WWW-Authenticate", ""))
    if refusal is None:
        return RegistryError(text, code, status)
    texts = [
        f"{refusal[0].lower()}: {refusal[1]}",
        *(text.splitlines()[1:] if "\n" in text else [text]),
    ]
    return RegistryError("errors:\n" + "\n".join(texts) + "\n", refusal[0], status, texts[0])


def _refusal(header: str) -> tuple[str, str] | None:
    """Code and message of an OAuth error in a challenge (RFC 6750 §3.1)."""
    for challenge in parse_challenges(header):
        code = _BEARER.get(challenge.parameters.get("error", ""))
        if challenge.scheme == "bearer" and code is not None:
            return code, challenge.parameters.get("error_description") or _MESSAGES[code]
    return None


def _in_body(status: int, body: bytes, kind: str) -> tuple[str, str]:
    """Code and text of a body."""
    plain = _BY_STATUS.get(status, UNKNOWN)
    kind = kind.partition(";")[0].strip().lower()
    shown = body[:_SHOWN].decode("utf-8", "replace").strip()
    if kind and kind not in ("application/json", "application/vnd.api+json"):
        return plain, f"{plain.lower()}: {shown or _MESSAGES[plain]}"
    document = parse(body)
    details = document.get("details")
    if isinstance(details, str) and details:
        return plain, f"{plain.lower()}: {details}"
    errors = document.get("errors")
    found = [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    if not found:
        if status == 401 or not kind:
            text = shown if shown and not kind else _MESSAGES[plain]
            return plain, f"{plain.lower()}: {text}"
        why = "no error details found in HTTP response body"
        if not shown:
            why = "unexpected end of JSON input"
        elif shown[0] not in '{["0123456789-tfn':
            why = f"invalid character '{shown[0]}' looking for beginning of value"
        return "", f"error parsing HTTP {status} response body: {why}: {json.dumps(shown)}"
    codes = [_code_of(one) for one in found]
    texts = [
        f"{code.lower().replace('_', ' ')}: {one.get('message') or _MESSAGES[code]}"
        for code, one in zip(codes, found, strict=True)
    ]
    text = texts[0] if len(texts) == 1 else "errors:\n" + "\n".join(texts) + "\n"
    return codes[0], text


def _code_of(error: dict[str, Any]) -> str:
    """A code of the protocol; UNKNOWN for any other, as distribution's client has it."""
    code = str(error.get("code") or UNKNOWN).upper()
    return code if code in _MESSAGES else UNKNOWN


def of_transport(error: Exception, method: str, url: str) -> TransportError:
    """What Go's net/http would say of the same misfortune."""
    from gantry.http.lean import aiohttp

    plain = False
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        text = _certificate(error.certificate_error)
    elif isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        host = url.partition("://")[2].partition("/")[0].rpartition(":")[0] or url
        host = getattr(error, "host", None) or host
        cause = getattr(error, "os_error", error)
        why = "no such host" if cause.errno in _NO_NAME else cause.strerror or str(cause)
        text = f"dial tcp: lookup {host}: {why}"
    elif isinstance(error, (ssl.SSLCertVerificationError, ssl.CertificateError)):
        text = _certificate(error)
    elif (refused := _tls_error(error)) is not None:
        plain = refused.reason in _PLAIN
        text = _tls_text(refused)
    elif isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        name = os.strerror(number).lower() if number in errno.errorcode else str(error.os_error)
        text = f"dial tcp {_dialed(error)}: connect: {name}"
    elif isinstance(error, TimeoutError):
        text = (
            "net/http: request canceled while waiting for connection"
            " (Client.Timeout exceeded while awaiting headers)"
        )
    elif isinstance(error, aiohttp.ServerDisconnectedError):
        text = "EOF"
    elif isinstance(error, aiohttp.ClientPayloadError):
        text = "unexpected EOF"
    elif isinstance(error, aiohttp.ClientResponseError):
        text = "net/http: HTTP/1.x transport connection broken: malformed HTTP response"
    elif isinstance(error, ConnectionResetError):
        text = "read: connection reset by peer"
    else:
        text = str(error) or type(error).__name__
    verb = method.capitalize()
    return TransportError(f'{verb} "{url}": {text}', plain=plain)


def _dialed(error: aiohttp.ClientConnectorError) -> str:
    """The address that was tried last, of the several that a name may have."""
    found = _ADDRESS.findall(str(error.os_error))
    host, port = found[-1] if found else (error.host, error.port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """OpenSSL's own error: aiohttp wraps it in one of several ways."""
    for inner in (getattr(error, "os_error", None), error.__cause__, error):
        if isinstance(inner, ssl.SSLError) and getattr(inner, "reason", None):
            return inner
    return None


def _tls_text(error: ssl.SSLError) -> str:
    if error.reason in _PLAIN:
        return "http: server gave HTTP response to HTTPS client"
    _, alert, name = error.reason.partition("_ALERT_")
    return f"remote error: tls: {(name if alert else error.reason).lower().replace('_', ' ')}"


def _certificate(error: BaseException) -> str:
    """OpenSSL's verdict in Go's words."""
    code = getattr(error, "verify_code", 0)
    prefix = "tls: failed to verify certificate: x509: "
    if code in (18, 19, 20, 21):
        return prefix + "certificate signed by unknown authority"
    if code in (9, 10):
        return prefix + "certificate has expired or is not yet valid"
    if code in (62, 64):
        message = str(getattr(error, "verify_message", error))
        return prefix + f"certificate is not valid for the requested name: {message}"
    return prefix + str(getattr(error, "verify_message", "") or error)


def of_pull(error: GantryError, familiar_name: str, familiar: str) -> GantryError:
    """What `docker pull` says of a registry's error (moby `translatePullError`)."""
    if isinstance(error, RegistryError) and not isinstance(error, AuthorizationError):
        text = error.first
        if error.code == DENIED:
            return NotFound(
                f"pull access denied for {familiar_name}, repository does not exist or may"
                f" require 'docker login': {text}"
            )
        if error.code == MANIFEST_UNKNOWN:
            return NotFound(f"manifest for {familiar} not found: {text}")
        if error.code == NAME_UNKNOWN:
            return NotFound(f"repository {familiar_name} not found: {text}")
    return of_answer(error)


def of_answer(error: GantryError) -> GantryError:
    """A registry's error as the engine passes it on: its code gives the kind (moby
    `statusCodeFromDistributionError`)."""
    kind = _KINDS.get(error.code) if isinstance(error, RegistryError) else None
    return error if kind is None else kind(str(error))
