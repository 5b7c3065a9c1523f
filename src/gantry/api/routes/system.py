"""/_ping, /info, /version, /events, /system/df, /auth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

import msgspec

from gantry.api import gojson, params
from gantry.api.call import JSON, Call, closing, encode
from gantry.api.router import Route
from gantry.api.versions import system as versions
from gantry.http.reply import Reply, Sendable
from gantry.model.errors import InvalidParameter

PLAIN: Final = "text/plain; charset=utf-8"
STREAM_TYPES: Final = ("application/jsonl", "application/x-ndjson", "application/json-seq")
USAGE_TYPES: Final = ("container", "image", "volume", "build-cache")


class _Credentials(msgspec.Struct, rename="lower", frozen=True):
    """moby api/types/registry AuthConfig."""

    username: str = ""
    password: str = ""
    auth: str = ""
    server_address: str = msgspec.field(default="", name="serveraddress")
    identity_token: str = msgspec.field(default="", name="identitytoken")
    registry_token: str = msgspec.field(default="", name="registrytoken")


async def ping(call: Call) -> Sendable:
    """GET and HEAD /_ping."""
    extra = (
        "Builder-Version: " + call.app.builder_version + "\r\n"
        "Cache-Control: no-cache, no-store, must-revalidate\r\n"
        "Pragma: no-cache\r\n"
        "Swarm: inactive\r\n"
    )
    body = b"" if call.request.method == "HEAD" else b"OK"
    return Reply(call.app.head(200, PLAIN), body, extra.encode())


async def version(call: Call) -> Sendable:
    """GET /version."""
    return call.json(call.backends.system.version())


async def info(call: Call) -> Sendable:
    """GET /info."""
    return call.json(versions.info(call.backends.system.info(), call.version))


def accepted(header: str) -> str:
    """The best JSON stream type that an Accept header names itself (wildcards don't count)."""
    best, best_weight = "", 0.0
    offered: dict[str, float] = {}
    for part in header.split(","):
        media, _, rest = part.partition(";")
        weight = 1.0
        for parameter in rest.split(";"):
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        offered[media.strip().lower()] = weight
    for kind in STREAM_TYPES:
        if offered.get(kind, 0.0) > best_weight:
            best, best_weight = kind, offered[kind]
    return best


async def events(call: Call) -> Sendable:
    """GET /events: what was since `since`, then what comes, until `until` or for ever."""
    since = params.timestamp(call.query, "since", "'")
    until = params.timestamp(call.query, "until", "'")
    if until and params.nanoseconds(until) < params.nanoseconds(since):
        raise InvalidParameter(f"`since` time ({since}) cannot be after `until` time ({until})")
    source = call.backends.system.events(
        since=since, until=until, filters=params.filters(call.query)
    )
    kind = accepted(call.request.headers.get("Accept", ""))
    if not kind:
        kind = JSON if call.version < 52 else STREAM_TYPES[0]
    prefix = b"\x1e" if kind == "application/json-seq" else b""

    async def lines() -> AsyncIterator[bytes]:
        async with aclosing(closing(source)) as messages:
            async for message in messages:
                shown = versions.event(message, call.version)
                if shown is not None:
                    yield prefix + encode(shown) + b"\n"

    return await call.send(lines(), kind, eager=True)


async def disk_usage(call: Call) -> Sendable:
    """GET /system/df."""
    wanted = list(call.query.get("type", ())) if call.version >= 42 else []
    for kind in wanted:
        if kind not in USAGE_TYPES:
            raise InvalidParameter(f"unknown object type: {kind}")
    verbose = call.version >= 52 and call.flag("verbose")
    answer = await call.backends.system.disk_usage(wanted or USAGE_TYPES, verbose=True)
    plain = msgspec.to_builtins(answer)
    return call.json(versions.disk_usage(plain, call.version, verbose=verbose))


async def auth(call: Call) -> Sendable:
    """POST /auth: check credentials with a registry."""
    try:
        body = await call.body()
        if not body.strip():
            raise InvalidParameter("invalid JSON: EOF")
        credentials = gojson.canonical(gojson.parse(body), _Credentials)
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid X-Registry-Auth header: {error}")
    who = params.with_agent(credentials, call.request.headers)
    return call.json(await call.backends.system.auth(who))


ROUTES: Final = [
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping),
    Route("GET", "/events", events),
    Route("GET", "/info", info),
    Route("GET", "/version", version),
    Route("GET", "/system/df", disk_usage),
    Route("POST", "/auth", auth),
]
