"""What a registry or the way to it answered instead of what was asked.

`RegistryError` carries the protocol's code; `str` is the text Docker's Go client makes of it
("denied: requested access to the resource is denied"), which users and scripts know.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
from http import HTTPStatus
from typing import Final

import aiohttp

from gantry.model.errors import GantryError, NotFound, System, Unauthorized

UNAUTHORIZED: Final = "UNAUTHORIZED"
DENIED: Final = "DENIED"
MANIFEST_UNKNOWN: Final = "MANIFEST_UNKNOWN"
NAME_UNKNOWN: Final = "NAME_UNKNOWN"
BLOB_UNKNOWN: Final = "BLOB_UNKNOWN"
TOO_MANY: Final = "TOOMANYREQUESTS"
UNSUPPORTED: Final = "UNSUPPORTED"

_FINAL: Final = frozenset(
    {UNAUTHORIZED, DENIED, NAME_UNKNOWN, BLOB_UNKNOWN, MANIFEST_UNKNOWN, TOO_MANY, UNSUPPORTED}
)
_PLAIN: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_BY_STATUS: Final = {
    401: (UNAUTHORIZED, "authentication required"),
    403: (DENIED, "requested access to the resource is denied"),
    429: (TOO_MANY, "too many requests"),
}


class RegistryError(System):
    """An answer of a registry that is an error. code: "" where it gave none."""

    def __init__(self, message: str, code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status

    @property
    def final(self) -> bool:
        """Trying again is of no use."""
        return self.code in _FINAL or 400 <= self.status < 500


class TransportError(System):
    """The registry could not be spoken to. plain: it answered HTTP where TLS was spoken."""

    def __init__(self, message: str, *, plain: bool = False, spoke: bool = False) -> None:
        super().__init__(message)
        self.plain = plain
        self.spoke = spoke
        """It did speak HTTP with us over this transport before."""


def of_response(status: int, body: bytes) -> RegistryError:
    """The error in a response (distribution-spec: {"errors": [{code, message, detail}]})."""
    try:
        document = json.loads(body)
        errors = document.get("errors")
        if errors is None and isinstance(document.get("details"), str):
            errors = [{"code": _BY_STATUS.get(status, ("",))[0], "message": document["details"]}]
        texts: list[str] = []
        first = ""
        for error in errors or ():
            code = str(error.get("code") or "UNKNOWN")
            message = str(error.get("message") or code.lower().replace("_", " "))
            texts.append(f"{code.lower().replace('_', ' ')}: {message}")
            first = first or code.upper()
        if texts:
            text = texts[0] if len(texts) == 1 else "errors:\n" + "\n".join(texts) + "\n"
            return RegistryError(text, first, status)
    except (ValueError, AttributeError, TypeError):
        pass
    if status in _BY_STATUS:
        code, message = _BY_STATUS[status]
        return RegistryError(f"{code.lower()}: {message}", code, status)
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    if 400 <= status < 500 and body:
        shown = body[:200].decode("utf-8", "replace")
        return RegistryError(f"error parsing HTTP {status} response body: {shown!r}", "", status)
    return RegistryError(f"received unexpected HTTP status: {status} {phrase}".rstrip(), "", status)


def of_transport(error: Exception, method: str, url: str) -> TransportError:
    """What Go's net/http would say of the same misfortune."""
    plain = False
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        text = _certificate(error.certificate_error)
    elif isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        host = url.partition("://")[2].partition("/")[0].rpartition(":")[0] or url
        host = getattr(error, "host", None) or host
        text = f"dial tcp: lookup {host}: no such host"
    elif isinstance(error, (ssl.SSLCertVerificationError, ssl.CertificateError)):
        text = _certificate(error)
    elif (refused := _tls_error(error)) is not None:
        plain = refused.reason in _PLAIN
        text = _tls_text(refused)
    elif isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        name = os.strerror(number).lower() if number in errno.errorcode else str(error.os_error)
        text = f"dial tcp {error.host}:{error.port}: connect: {name}"
    elif isinstance(error, TimeoutError):
        text = (
            "net/http: request canceled while waiting for connection"
            " (Client.Timeout exceeded while awaiting headers)"
        )
    elif isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)):
        text = "unexpected EOF"
    elif isinstance(error, ConnectionResetError):
        text = "read: connection reset by peer"
    else:
        text = str(error) or type(error).__name__
    verb = method.capitalize()
    return TransportError(f'{verb} "{url}": {text}', plain=plain)


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
    if isinstance(error, RegistryError):
        if error.code == DENIED:
            return NotFound(
                f"pull access denied for {familiar_name}, repository does not exist or may"
                f" require 'docker login': {error}"
            )
        if error.code == MANIFEST_UNKNOWN:
            return NotFound(f"manifest for {familiar} not found: {error}")
        if error.code == NAME_UNKNOWN:
            return NotFound(f"repository {familiar_name} not found: {error}")
        if error.code == UNAUTHORIZED:
            return Unauthorized(str(error))
    return error
