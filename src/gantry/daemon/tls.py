"""TLS of the API's TCP listeners."""

from __future__ import annotations

import ssl

from gantry.daemon.options import Options
from gantry.model.errors import InvalidParameter


def server_context(options: Options) -> ssl.SSLContext | None:
    """None without --tls and --tlsverify. InvalidParameter for files that do not fit."""
    verify = options.flag("tlsverify")
    if not verify and not options.flag("tls"):
        return None
    certificate, key = options.text("tlscert"), options.text("tlskey")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(
            f"invalid TLS configuration: could not load X509 key pair (cert: {certificate!r},"
            f" key: {key!r}): {error}"
        ) from None
    if verify:
        authority = options.text("tlscacert")
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(
                f"invalid TLS configuration: could not read CA certificate {authority!r}: {error}"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context
