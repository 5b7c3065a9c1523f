"""/images and /distribution."""

from __future__ import annotations

from typing import Final

import msgspec

from gantry.api import params
from gantry.api.backend import Json
from gantry.api.call import TAR, Call
from gantry.api.router import Route
from gantry.api.versions import images as versions
from gantry.http.reply import Sendable
from gantry.model.errors import InvalidParameter

AUTH: Final = "X-Registry-Auth"


def _auth(call: Call) -> Json:
    headers = call.request.headers
    return params.with_agent(params.registry_auth(headers.get(AUTH, "")), headers)


def _one_platform(call: Call, since: int, name: str = "platform") -> str:
    return params.json_platform(call.text(name)) if call.version >= since else ""


def _platform_of_archive(call: Call) -> str:
    """`platform` of save and load: since 1.48, several since 1.52."""
    if call.version < 48:
        return ""
    given = call.query.get("platform", ())
    if call.version < 52 and len(given) > 1:
        raise InvalidParameter(
            "multiple platform parameters are not supported in this API version; use API version "
            "1.52 or later"
        )
    return ",".join(params.json_platform(value) for value in given)


async def list_all(call: Call) -> Sendable:
    """GET /images/json."""
    if call.version >= 54 and call.flag("identity") and not call.flag("manifests"):
        raise InvalidParameter("conflicting options: identity requires manifests=1")
    filters = params.filters(call.query)
    old = call.text("filter") if call.version < 41 else ""
    if old and "reference" not in filters:
        filters["reference"] = [old]
    images = await call.backends.images.list(
        filters,
        everything=call.flag("all"),
        digests=call.flag("digests"),
        shared_size=call.version >= 42 and call.flag("shared-size"),
        manifests=call.version >= 47 and call.flag("manifests"),
    )
    if call.version >= 51:
        return call.json(list(images))
    return call.json([versions.row(msgspec.to_builtins(image), call.version) for image in images])


async def inspect(call: Call) -> Sendable:
    """GET /images/{name}/json."""
    manifests = call.version >= 48 and call.flag("manifests")
    platform = _one_platform(call, 49)
    if manifests and platform:
        raise InvalidParameter(
            "conflicting options: manifests and platform options cannot both be set"
        )
    image = await call.backends.images.inspect(call.name, platform=platform)
    return call.json(versions.inspect(msgspec.to_builtins(image), call.version))


async def history(call: Call) -> Sendable:
    """GET /images/{name}/history."""
    platform = _one_platform(call, 48)
    return call.json(list(await call.backends.images.history(call.name, platform=platform)))


async def tag(call: Call) -> Sendable:
    """POST /images/{name}/tag."""
    await call.finish(call.backends.images.tag(call.name, call.text("repo"), call.text("tag")))
    return call.empty(201)


async def remove(call: Call) -> Sendable:
    """DELETE /images/{name}."""
    if not call.name.strip():
        raise InvalidParameter("image name cannot be blank")
    rows = await call.finish(
        call.backends.images.remove(
            call.name, force=call.flag("force"), noprune=call.flag("noprune")
        )
    )
    return call.json(list(rows))


async def prune(call: Call) -> Sendable:
    """POST /images/prune."""
    return call.json(await call.finish(call.backends.images.prune(params.filters(call.query))))


async def create(call: Call) -> Sendable:
    """POST /images/create: a pull with fromImage, else an import of fromSrc."""
    platform = call.text("platform") if call.version >= 32 else ""
    image = call.text("fromImage")
    if image:
        source = call.backends.images.pull(
            image.removesuffix(":"),
            tag=call.text("tag"),
            platform=platform,
            auth=_auth(call),
        )
        return await call.progress(source)
    origin = call.text("fromSrc")
    source = call.backends.images.import_(
        call.stream() if origin == "-" else origin,
        repo=call.text("repo"),
        tag=call.text("tag"),
        message=call.text("message") or f"Imported from {origin}",
        changes=list(call.query.get("changes", ())),
        platform=platform,
    )
    return await call.progress(source)


async def push(call: Call) -> Sendable:
    """POST /images/{name}/push."""
    source = call.backends.images.push(
        call.name,
        tag=call.text("tag"),
        platform=_one_platform(call, 46),
        auth=_auth(call),
    )
    return await call.progress(source)


async def load(call: Call) -> Sendable:
    """POST /images/load."""
    source = call.backends.images.load(
        call.stream(),
        quiet=call.flag("quiet", default=True),
        platform=_platform_of_archive(call),
    )
    return await call.progress(source, begun=True)


async def save(call: Call) -> Sendable:
    """GET /images/{name}/get."""
    source = call.backends.images.save([call.name], platform=_platform_of_archive(call))
    return await call.send(source, TAR)


async def save_many(call: Call) -> Sendable:
    """GET /images/get?names=…"""
    names = list(call.query.get("names", ()))
    source = call.backends.images.save(names, platform=_platform_of_archive(call))
    return await call.send(source, TAR)


async def search(call: Call) -> Sendable:
    """GET /images/search."""
    limit = params.integer(call.query, "limit") or 0
    if limit < 0:
        raise InvalidParameter("invalid limit specified")
    rows = await call.backends.images.search(
        call.text("term"),
        limit=limit,
        filters=params.filters(call.query),
        auth=_auth(call),
    )
    return call.json(rows)


async def distribution(call: Call) -> Sendable:
    """GET /distribution/{name}/json."""
    return call.json(await call.backends.images.distribution(call.name, auth=_auth(call)))


async def attestations(call: Call) -> Sendable:
    """GET /images/{name}/attestations: images built here carry none yet."""
    if len(call.query.get("platform", ())) > 1:
        raise InvalidParameter("only one platform value is currently supported")
    _one_platform(call, 55)
    await call.backends.images.inspect(call.name)
    return call.json([])


ROUTES: Final = [
    Route("GET", "/images/json", list_all),
    Route("GET", "/images/search", search),
    Route("GET", "/images/get", save_many),
    Route("GET", "/images/{name}/get", save),
    Route("GET", "/images/{name}/history", history),
    Route("GET", "/images/{name}/json", inspect),
    Route("GET", "/images/{name}/attestations", attestations, since=55),
    Route("POST", "/images/load", load),
    Route("POST", "/images/create", create),
    Route("POST", "/images/prune", prune, since=25),
    Route("POST", "/images/{name}/push", push),
    Route("POST", "/images/{name}/tag", tag),
    Route("DELETE", "/images/{name}", remove),
    Route("GET", "/distribution/{name}/json", distribution, since=30),
]
